"""Server URLs: what they name, what is refused, and that no password is shown."""

from __future__ import annotations

import pytest

from queue_eval.errors import UsageError
from queue_eval.transport.urls import ServerUrl, parse_url, safe_url


@pytest.mark.parametrize(
    ("url", "parsed"),
    [
        ("redis://host", ServerUrl("single", "redis://host:6379/0", (("host", 6379),))),
        ("rediss://u:p@[::1]:1/2", ServerUrl("single", "rediss://u:p@[::1]:1/2", (("::1", 1),))),
        ("unix://:p@/run/q.sock?db=1", ServerUrl("single", "unix://:p@/run/q.sock?db=1", ())),
        (
            "rediss+sentinel://u:p@a:1,b/jobs/3?sentinel_password=q",
            ServerUrl("sentinel", "rediss://u:p@a:1/3?sentinel_password=q", (("a", 1), ("b", 26379)), "jobs"),
        ),
        ("redis+sentinel://h", ServerUrl("sentinel", "redis://h:26379/0", (("h", 26379),), "mymaster")),
        (
            "redis+cluster://:p@a:7000,b:7001",
            ServerUrl("cluster", "redis://:p@a:7000", (("a", 7000), ("b", 7001))),
        ),
    ],
)
def test_what_a_url_names(url, parsed):
    assert parse_url(url) == parsed


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("redis://h:x", "port must be a number"),
        ("redis://h:70000", "port must be a number"),
        ("redis://h1,h2", "several hosts"),
        ("redis+cluster://h/1", "database 0 only"),
        ("redis://h/x", "a database's number"),
        ("redis+sentinel://h/service/x", "a database's number"),
        ("redis+sentinel://h1,,h2", "names no host"),
        ("redis://h?db=1&socket_timeout=1", "option 2 of those behind its \\? is not known"),
        ("redis://h?x", "option 1 of"),
        ("redis://h/1#x", "write @ as %40, / as %2F"),
        ("redis://h/x@y", "write @ as %40, / as %2F"),
        ("redis://h:\u0663", "port must be a number"),
        ("redis://h:" + "1" * 5000, "port must be a number"),
        ("redis+else://h", "must start with one of"),
    ],
)
def test_what_is_no_url_is_said_in_one_line(url, words):
    with pytest.raises(UsageError, match=words):
        parse_url(url.replace("://", "://user:secret@"))
    with pytest.raises(UsageError) as caught:
        parse_url(url.replace("://", "://user:secret@"))
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "safe"),
    [
        ("rediss+sentinel://u:secret@h1,h2/s?sentinel_password=secret&db=1",
         "rediss+sentinel://***@h1,h2/s?sentinel_password=***"),
        ("redis+cluster://:secret@h1:1,h2:2", "redis+cluster://:***@h1:1,h2:2"),
        ("rediss://h?ssl_password=secret", "rediss://h?ssl_password=***"),
        ("redis+cluster://h1:1,h2:2", "redis+cluster://h1:1,h2:2"),
    ],
)  # fmt: skip
def test_passwords_of_every_kind_are_hidden(url, safe):
    assert safe_url(url) == safe
