"""What errors of a server mean, as every version of it words them, and how often the log is told."""

from __future__ import annotations

import logging

import pytest
from redis.exceptions import ClusterError, OutOfMemoryError, ReadOnlyError, ResponseError, TryAgainError
from redis.exceptions import ConnectionError as RedisConnectionError

from queue_eval.transport.error_kinds import hindrance, is_damage, is_transient
from queue_eval.transport.outage import Outage

OLD = "Error running script (call to f_e6a8): @user_script:1: @user_script: 1: "  # before Redis 7


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ResponseError(OLD + "-OOM command not allowed when used memory > 'maxmemory'."), "OOM"),
        (ResponseError(OLD + "-READONLY You can't write against a read only replica."), "READONLY"),
        (ResponseError(OLD + "-NOREPLICAS Not enough good replicas to write."), "NOREPLICAS"),
        (ResponseError("MISCONF Errors writing to the AOF file: No space left on device"), "MISCONF"),
        (
            ResponseError("Command # 1 (SET k v) of pipeline caused error: MISCONF Valkey is configured to"),
            "MISCONF",
        ),
        (ResponseError("BUSY Valkey is busy running a script."), "BUSY"),
        (ReadOnlyError("You can't write against a read only replica. on @user_script:1."), "READONLY"),
        (OutOfMemoryError("command not allowed when used memory > 'maxmemory'. script: x"), "OOM"),
        (ClusterError("TTL exhausted."), "TRYAGAIN"),
        (TryAgainError("Multiple keys request during rehashing of slot"), "TRYAGAIN"),
    ],
)
def test_a_server_that_does_nothing_for_now_is_waited_for(error, code):
    assert is_transient(error)
    assert not is_damage(error)
    assert str(hindrance(error)).startswith(f"{code}: ")


def test_a_function_that_loops_has_a_remedy_of_its_own():
    words = "BUSY Valkey is busy running a script. You can only call FUNCTION KILL or SHUTDOWN NOSAVE."
    assert "end that with FUNCTION KILL" in str(hindrance(ResponseError(words)))


@pytest.mark.parametrize(
    "words",
    [OLD + "attempt to compare nil with number", "WRONGTYPE Operation against a key", "BUSYGROUP exists"],
)
def test_other_errors_are_not_waited_for(words):
    assert not is_transient(ResponseError(words))
    assert hindrance(ResponseError(words)) is None


def test_the_log_is_told_once_and_seldom(caplog, monkeypatch):
    log = logging.getLogger("test")
    now = 100.0
    monkeypatch.setattr("queue_eval.transport.outage.time.monotonic", lambda: now)
    outage = Outage(log)
    for _ in range(3):
        outage.begin(RedisConnectionError("reset"))
        outage.begin(RedisConnectionError("refused"))
    outage.end()
    outage.end()
    for _ in range(20):  # a swarm
        now += 0.1
        outage.begin(RedisConnectionError("reset"))
        outage.end()
    now += 1
    outage.begin(ReadOnlyError("no"))
    now += 2
    outage.begin(ReadOnlyError("no"))  # it lasts
    outage.begin(OutOfMemoryError("no"))  # something else
    outage.end()
    said = [record.getMessage() for record in caplog.records]
    assert [words.partition(" (")[0] for words in said] == [
        "server is away", "server is back after 0.0 s", "server is doing nothing for now",
        "server is doing nothing for now", "server is back after 2.0 s, and after 20 short breaks before",
    ]  # fmt: skip
    now += 60
    outage.begin(RedisConnectionError("reset"))
    assert "server is away" in caplog.records[-1].getMessage()
