"""What running attempts tell through RQ's Redis, and what they are told."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from queue_eval.model.attempt import Attempt
from queue_eval.model.states import Method
from queue_eval.rq_bridge.commands import MAX_TOLD, RqCommands
from queue_eval.rq_bridge.relay import Relay
from queue_eval.runtime.pipe import frame, parse_frame
from tests.support.executor_harness import Harness, result_of
from tests.support.rq_fleet import RqFleet, RqRedis
from tests.support.waiting import wait_until

TOKEN = (7, 2)


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RqRedis]:
    server = RqRedis()
    yield server
    server.close()


@pytest.fixture
def commands(redis_server: RqRedis) -> RqCommands:
    return RqCommands(redis_server.client, secrets.token_hex(8), "jobs")


class Flaky:
    """Commands whose replies are lost at first."""

    def __init__(self, commands, losses):
        self.commands, self.losses = commands, losses

    def tell(self, *arguments):
        self.commands.tell(*arguments)
        if self.losses:
            self.losses -= 1
            raise ConnectionError("the reply is lost")


def read_all(commands):
    return commands.read(b"0", b"0", 64, 0.01)[1]


def test_what_is_told_twice_is_there_once(commands):
    for numbers in ([1, 2], [1, 2, 3], [2], [5]):
        commands.tell(TOKEN, "execution", [(number, b"%d" % number) for number in numbers])
    commands.tell(TOKEN, "another", [(1, b"x")])
    assert [(told.execution, told.number, told.frame) for told in read_all(commands)] == [
        *((b"execution", number, b"%d" % number) for number in (1, 2, 3, 5)), (b"another", 1, b"x")
    ]  # fmt: skip


def test_a_report_is_never_read_before_what_was_told_before(commands):
    commands.tell(TOKEN, "execution", [(number + 1, b"%d" % number) for number in range(300)])
    commands.report(TOKEN, "execution", b"0-1", b"report")
    replies, told = commands.read(b"0", b"0", 64, 0.01)
    assert ([data for _, data in replies], len(told)) == ([b"report"], 300)


def test_what_nobody_reads_is_bounded(commands):
    for number in range(0, 5 * MAX_TOLD, 100):
        commands.tell(TOKEN, "execution", [(number + i + 1, b"x") for i in range(100)])
    told = []
    while new := commands.read(b"0", told[-1].entry if told else b"0", 1000, 0.01)[1]:
        told += new
    assert MAX_TOLD <= len(told) < 2 * MAX_TOLD
    assert told[-1].number == 5 * MAX_TOLD
    commands.forget_told([one.entry for one in told])
    assert read_all(commands) == []


def test_a_word_is_heard_by_what_runs_and_by_what_begins(commands):
    commands.store_setup(1, b"setup")
    commands.want([(TOKEN, b"{}", ()), ((8, 1), b"{}", ())])
    begun = commands.begin(TOKEN, 1, "execution")
    assert begun.word == ""
    since = b"0"
    for word, heard in (("drain", "drain"), ("stop", "stop"), ("drain", "")):
        commands.notify([TOKEN], word)
        got = commands.listen(TOKEN, since, 0.01)
        assert (got.word, got.is_stopped) == (heard, False)
        since = got.since
    assert commands.begin(TOKEN, 1, "execution").word == "stop"
    assert commands.begin((8, 1), 1, "execution").word == ""


def test_a_relay_repeats_what_may_be_lost(commands):
    relay = Relay(Flaky(commands, 3), TOKEN, "execution")
    for i in range(20):
        relay.add(["points", *TOKEN, i, 0], b"1 2 {}\n")
    wait_until(lambda: len(read_all(commands)) == 20)
    wait_until(lambda: not relay._waiting)
    relay.stop()
    headers = [parse_frame(told.frame)[0] for told in read_all(commands)]
    assert all(i <= header[3] < i + 10_000 for i, header in enumerate(headers))


def test_a_relay_that_cannot_bring_counts_what_it_drops(commands):
    relay = Relay(Flaky(commands, 0), TOKEN, "execution")
    relay._thread = object()  # it has begun, and brings nothing
    for i in range(2000):
        relay.add(["points", *TOKEN, i, 1], b"1 2 {}\n" * 3)
        if i % 100 == 0:
            relay.add(["saved", *TOKEN, i, "place"], b"")
    assert len(relay._waiting) <= 500
    relay.push()
    told = [parse_frame(found.frame) for found in commands.read(b"0", b"0", 1000, 0.01)[1]]
    points = [(header, body) for header, body in told if header[0] == "points"]
    assert sum(header[4] + body.count(b"\n") for header, body in points) == 2000 * 4
    assert points[-1][1]
    assert [header[3] for header, _ in told if header[0] == "saved"] == list(range(0, 2000, 100))


@pytest.mark.parametrize("rest", [(), (1, "x"), (1, 0, 0), (True, 0)])
def test_a_relay_takes_no_points_that_are_none(commands, rest):
    with pytest.raises(ValueError, match="not a frame"):
        Relay(commands, TOKEN, "execution").add(["points", *TOKEN, *rest], b"")


def test_what_a_joined_attempt_tells_counts_for_the_one_that_joined(redis_server, tmp_path) -> None:
    """Also what it told while nobody forwarded; nothing twice; and what is none is left out."""
    fleet = RqFleet(redis_server.url, worker_class="rq.SimpleWorker", count=1)
    uid, gate = secrets.token_hex(8), tmp_path / "gate"
    commands = RqCommands(redis_server.client, uid, fleet.queue)
    config = {"log": str(tmp_path / "log"), "gate": str(gate)}
    inside = {"campaign": "test", "uid": uid, "lane": uid, "checkpoints": None, "folders": None}

    def start():
        return Harness(
            Method.RQ, "tests.support.running_jobs:report_and_wait", forward=fleet.forward(uid=uid),
            inside=inside,
        )  # fmt: skip

    try:
        first = start()
        first.submit(config)
        signs = first.until(first.executor.take_signs)
        assert [(sign.token, len(sign.lines)) for sign in signs] == [((1, 1), 1)]
        wait_until(lambda: not read_all(commands))
        first.executor._process.kill()
        first.executor._process = None
        frames = [
            frame(("points", 1, 1, 10, 0), b'10 2 {"loss":1}\n'), frame(("points", 1, 1, -1, 0)), b"junk",
            frame((["points"], 1, 1)), frame(("report", 1, 1)),
        ]  # fmt: skip
        commands.tell((1, 1), "by hand", enumerate(frames, 1))
        second = start()
        second.executor.submit([Attempt((1, 2), b"{}")])
        signs = second.until(second.executor.take_signs)
        assert [(sign.token, sign.lines) for sign in signs] == [((1, 2), [b'10 2 {"loss":1}\n'])]
        gate.touch()
        (ended,) = second.wait([(1, 2)])
        assert result_of(ended) == "done"
        assert second.executor.take_signs() == []
        second.close()
        fleet.wait_until_nothing_is_left()
    finally:
        fleet.close()
