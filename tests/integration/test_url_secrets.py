"""No password of a URL is told, whatever it holds and however the URL is mistyped."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from redis.connection import parse_url as parse_plain_url

from queue_eval import Evaluator
from queue_eval.errors import QueueEvalError
from queue_eval.transport.access import Access, find_access
from queue_eval.transport.link import Link
from queue_eval.transport.urls import parse_url, safe_url
from tests.support.cli import ROOT, cli, cli_here
from tests.support.marks import long

CORE = "Zq7Kx"
"""Stands in the middle of every secret. No message holds it by chance."""

ODD = "@:/?#%&=[]\\'\" \t\n\r;,|`$<>\x1b\x7f\u202e\u2100\uff1a\udc80é"
odd_text = st.text(st.sampled_from(ODD) | st.characters(exclude_characters="\0"), max_size=6)
secrets = st.builds(lambda before, after: before + CORE + after, odd_text, odd_text)
users = st.sampled_from(["", "u", "driver"]) | odd_text

NOBODY = "127.0.0.1:1"


def can_be_typed(text: str) -> bool:
    """Whether the system can give this to a program as an argument."""
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def escaped(text: str) -> str:
    return quote(text, safe="", errors="surrogatepass")


RIGHT = {
    "a user": lambda u, s: f"redis://{escaped(u)}:{escaped(s)}@{NOBODY}/0",
    "TLS": lambda u, s: f"rediss://{escaped(u)}:{escaped(s)}@{NOBODY}",
    "a socket": lambda u, s: f"unix://{escaped(u)}:{escaped(s)}@/nowhere/q.sock?db=0",
    "an option": lambda u, s: f"redis://{NOBODY}?username={escaped(u)}&password={escaped(s)}",
    "a sentinel's": lambda u, s: f"redis+sentinel://{NOBODY}/jobs?sentinel_password={escaped(s)}",
    "a cluster": lambda u, s: f"redis+cluster://{escaped(u)}:{escaped(s)}@{NOBODY}",
}

MISTYPED = {
    "not escaped": lambda u, s: f"redis://{u}:{s}@{NOBODY}/0",
    "not escaped, a socket": lambda u, s: f"unix://{u}:{s}@/nowhere/q.sock",
    "not escaped, sentinels": lambda u, s: f"redis+sentinel://{u}:{s}@{NOBODY},{NOBODY}/jobs",
    "not escaped, an option": lambda u, s: f"redis://{NOBODY}?password={s}",
    "another option": lambda u, s: f"redis://{NOBODY}?pasword={s}",
    "a value that is none": lambda u, s: f"redis://{NOBODY}?db={escaped(s)}",
    "another value that is none": lambda u, s: f"rediss://{NOBODY}?ssl_cert_reqs={escaped(s)}",
    "no option": lambda u, s: f"redis://{NOBODY}?{s}",
    "no scheme": lambda u, s: f"{u}:{s}@{NOBODY}",
    "another scheme": lambda u, s: f"reddis://{u}:{s}@{NOBODY}",
    "one slash": lambda u, s: f"redis:/{u}:{s}@{NOBODY}",
    "no colon": lambda u, s: f"redis://{s}@{NOBODY}",
    "swapped": lambda u, s: f"redis://{escaped(s)}:{escaped(u)}@{NOBODY}",
    "twice": lambda u, s: f"redis://redis://{u}:{s}@{NOBODY}",
    "a blank": lambda u, s: f" redis://{u}:{s}@{NOBODY}",
    "a line's end": lambda u, s: f"redis://{u}:{s}@{NOBODY}\n",
    "a port that is none": lambda u, s: f"redis://{u}:{s}@127.0.0.1:x",
    "no host": lambda u, s: f"redis://{u}:{s}@",
    "no host, no sign": lambda u, s: f"redis://u:{s.replace('@', '')}",
}


class Kept(logging.Handler):
    """Keeps what is logged, as it would be shown."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(logging.Formatter().format(record))


@contextmanager
def logged() -> Iterator[list[str]]:
    handler, root = Kept(), logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        yield handler.lines
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


def all_told(url: str, folder: object) -> str:
    """What messages, logs and tracebacks say of a URL that leads nowhere."""
    told = [safe_url(url)]

    def look() -> None:
        told.append(repr(find_access(url, folder)))

    def drive() -> None:
        Evaluator.create("os:getpid", "thread", {"url": url, "home": folder})

    with logged() as lines:
        for step in (look, drive, lambda: Evaluator.attach("x", url=url)):
            try:
                step()
            except QueueEvalError as error:
                told += traceback.format_exception(error)
        done = cli_here("campaigns", "--url", url, home=folder)
        assert (done.returncode, done.stdout) == (2, "")
        assert "unexpected" not in done.stderr
        told.append(done.stderr)
    return "\n".join([*told, *lines])


MISTYPED_OFTEN = ("not escaped", "no scheme", "swapped")
quick = settings(
    max_examples=30, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip


@pytest.mark.parametrize(
    "name", [*RIGHT, *MISTYPED_OFTEN, *long(*(name for name in MISTYPED if name not in MISTYPED_OFTEN))]
)
@quick
@given(user=users, secret=secrets)
def test_no_message_tells_a_password(name, tmp_path, user, secret):
    assert CORE not in all_told((RIGHT | MISTYPED)[name](user, secret), tmp_path)


@pytest.mark.parametrize(
    "words",
    [
        ("status", "URL"), ("campaigns", "URL"), ("URL",), ("--url=URL",), ("worker", "-n", "URL"),
        ("status", "x", "--home", "URL"), ("status", "x", "--access", "URL"), ("jobs", "x", "--limit=URL"),
        ("worker", "--name", "URL", "--url", "redis://127.0.0.1:1"), ("status", "x", "--ulr=URL"),
        ("run", "URL", "--configs", "URL"), ("export", "x", "--out", "URL"), ("worker", "--allow", "URL"),
    ],
    ids=" ".join,
)  # fmt: skip
@quick
@given(user=users, secret=secrets, name=st.sampled_from(["a user", "not escaped", "no scheme", "one slash"]))
def test_no_complaint_repeats_a_url_in_a_wrong_place(words, tmp_path, monkeypatch, user, secret, name):
    url = (RIGHT | MISTYPED)[name](user, secret)
    assume(can_be_typed(url))
    monkeypatch.chdir(tmp_path)
    done = cli_here(*(word.replace("URL", url) for word in words), home=tmp_path)
    assert done.returncode == 2, done
    assert CORE not in done.stdout + done.stderr


@pytest.mark.parametrize("place", ["campaign", "queue", "access", "method", "$QUEUE_EVAL_ACCESS"])
@pytest.mark.parametrize("kind", ["a user", "not escaped", "one slash"])
def test_no_error_repeats_a_url_in_a_wrong_place(place, kind, tmp_path, monkeypatch):
    url = (RIGHT | MISTYPED)[kind]("u@v", f"a{CORE}")
    keywords = {"url": f"redis://{NOBODY}", "home": tmp_path}
    if place == "$QUEUE_EVAL_ACCESS":
        monkeypatch.setenv("QUEUE_EVAL_ACCESS", url)
    if place in ("access", "$QUEUE_EVAL_ACCESS"):
        del keywords["url"]
    if not place.startswith("$"):
        keywords[place] = url
    with logged() as lines, pytest.raises(QueueEvalError) as caught:
        Evaluator.create("os:getpid", str(keywords.pop("method", "thread")), keywords)
    assert CORE not in "\n".join([*traceback.format_exception(caught.value), *lines])
    doctor = cli_here("doctor", "--json", home=tmp_path)
    assert doctor.returncode == 1
    assert CORE not in doctor.stdout + doctor.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("campaigns", "--url", f"redis://{NOBODY}"), f"no server answers at redis://{NOBODY} ("),
        (("campaigns", "--url", f"redis://:p@{NOBODY}/0"), f"no server answers at redis://:***@{NOBODY}/0 ("),
        (("run", "/home/u@corp/no.py:f", "--configs", "c"), "there is no file '/home/u@corp/no.py'"),
    ],
)
def test_what_holds_no_secret_is_shown(words, told, tmp_path):
    assert told in cli_here(*words, home=tmp_path).stderr


@quick
@given(user=users, secret=secrets)
def test_what_is_escaped_arrives(user, secret):
    assert CORE in secret
    with suppress(UnicodeEncodeError):
        (user + secret).encode()
        for name in ("a user", "TLS", "a socket", "an option"):
            found = parse_plain_url(parse_url(RIGHT[name](user, secret)).base)
            assert (found.get("username", ""), found["password"]) == (user, secret)


NASTY = (
    ("us@er", f"{CORE}"), ("u", f"a@{CORE}:b@c"), ("u:v", f"{CORE}/#?"), ("[u]", f"[{CORE}]"),
    ("\u2100", f"{CORE}\uff1a"), ("u", f"{CORE}\x1b]0;x\x07\n"), ("%40", f"%{CORE}%zz"),
    ("u", f"'{CORE}\"\\ "),
)  # fmt: skip


@pytest.mark.parametrize(
    ("user", "secret"), [*NASTY[:2], *(pytest.param(*one, marks=pytest.mark.long) for one in NASTY[2:])]
)
def test_a_server_that_refuses(server, tmp_path, user, secret):
    """Messages, logs and tracebacks of real processes: commands, a worker, a driver that catches nothing."""
    socket = quote(find_access(None, server).url.partition("@")[2])
    url = f"unix://{escaped(user)}:{escaped(secret)}@{socket}"
    driver = f"from queue_eval import Evaluator\nEvaluator.attach('x', url={url!r})"
    ours = os.environ | {"PYTHONPATH": str(ROOT)}
    for done in (
        cli("campaigns", "--debug", "--url", url, home=tmp_path),
        cli("worker", "--debug", "--url", url, home=tmp_path),
        cli("doctor", "--json", QUEUE_EVAL_URL=url, home=tmp_path),
        subprocess.run(
            [sys.executable, "-c", driver], capture_output=True, text=True, cwd=tmp_path, env=ours
        ),
    ):
        assert done.returncode in (1, 2)
        assert "cannot be used: invalid username-password pair" in done.stdout + done.stderr, done
        assert CORE not in done.stdout + done.stderr


@pytest.mark.parametrize(("user", "secret"), NASTY)
def test_a_server_that_agrees(server, user, secret):
    """Whatever a password holds, it arrives when it is escaped."""
    link = Link(find_access(None, server), name="test")
    name = "".join(user.split())
    socket = quote(find_access(None, server).url.partition("@")[2])
    try:
        link.client.acl_setuser(
            name, enabled=True, reset=True, passwords=[f"+{secret}"], commands=["+@all"], keys=["*"]
        )
        url = f"unix://{escaped(name)}:{escaped(secret)}@{socket}"
        done = cli_here("campaigns", "--url", url, home=server)
        assert done.returncode == 0, done
    finally:
        link.client.acl_deluser(name)
        link.close()


def test_a_url_that_is_not_shown_is_not_in_its_access():
    assert CORE not in repr(Access(f"nothing {CORE}", CORE.encode(), None))
