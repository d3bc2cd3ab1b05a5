"""Every kind of call through every kind of bad network: its effect is that of one.

What is expected is not written down here but done: the same call, without a fault, in a campaign beside it.
"""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from queue_eval.campaign.commands import CampaignCommands
from queue_eval.campaign.history import past_pages
from queue_eval.campaign.result_stream import ResultReader
from queue_eval.campaign.view import STAMP_DIGITS
from queue_eval.model.moves import Printed, Release
from queue_eval.model.states import Outcome
from queue_eval.transport.access import Access, find_access
from queue_eval.transport.link import Link
from tests.support.fault_fleet import Fleet, check_all_recorded, end
from tests.support.lua_campaign import FIELDS, Columns, LuaCampaign, batch, settlement, submission
from tests.support.marks import long
from tests.support.proxy import StrandingProxy
from tests.support.waiting import wait_until

JOBS = 3


def behind(access: Access, proxy: StrandingProxy) -> Access:
    """The same server, by way of the proxy."""
    host, port = proxy.address
    password = re.match(r"unix://:([^@]*)@", access.url)[1]
    return Access(f"redis://:{password}@{host}:{port}", access.key, None)


def target(access: Access) -> str:
    return access.url.partition("@")[2]


@pytest.fixture
def access(server: Path) -> Access:
    found = find_access(None, server)
    assert found is not None
    return found


@pytest.fixture
def direct(access: Access) -> Iterator[Link]:
    link = Link(access, name="test")
    yield link
    link.close()


@pytest.fixture
def proxy(access: Access) -> Iterator[StrandingProxy]:
    with StrandingProxy(target(access)) as proxy:
        yield proxy


@pytest.fixture
def link(access: Access, proxy: StrandingProxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[Link]:
    """Through the proxy, and with little patience."""
    monkeypatch.setattr("queue_eval.transport.link.REPLY_TIMEOUT_S", 0.1)
    monkeypatch.setattr("queue_eval.campaign.result_stream._MARGIN_S", 0.1)
    link = Link(behind(access, proxy), name="test")
    yield link
    link.close()


# What is called -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Call:
    """`prepare` brings a campaign to the state in which `run` is called; the names are those of scripts."""

    run: Callable[[Any], Any]
    prepare: Callable[[LuaCampaign], Any] = lambda _: None
    connect: Callable[[CampaignCommands], Any] = lambda queue: queue
    """Makes what `run` is called with, whose connection is there before the fault is."""
    replies_the_same: bool = True
    """Not where the reply tells of this call alone: its repeat, whose reply is read, has changed nothing."""
    changes: bool = True


def filled(campaign: LuaCampaign) -> None:
    campaign.enqueue(*({"x": x} for x in range(JOBS)), reuse=True)


def leased(campaign: LuaCampaign) -> None:
    """Jobs 1 and 2 run on w1; 3 waits."""
    filled(campaign)
    campaign.lease("w1", room=2)


def late(campaign: LuaCampaign) -> None:
    """The lease of w1 has run out."""
    leased(campaign)
    campaign.expire("w1")


def finished(campaign: LuaCampaign) -> None:
    """Job 1 has succeeded, 2 failed, 3 was cancelled."""
    leased(campaign)
    campaign.ok("w1", (1, 1))
    campaign.fail("w1", (2, 1))
    campaign.queue.cancel([3])


def open_again(queue: CampaignCommands) -> Any:
    fields = FIELDS | {"max_losses": 9}
    return CampaignCommands.open(queue.link, queue.campaign, fields, accept_change=False)[1].last_id


def create(queue: CampaignCommands) -> Any:
    opened = CampaignCommands.open(queue.link, f"{queue.campaign}-new", FIELDS, accept_change=False)[1]
    assert queue.link.call(lambda client: client.zscore("qe:campaigns", f"{queue.campaign}-new"))
    return opened.last_id


def send(reuse: bool, **more: Any) -> Callable[[CampaignCommands], Any]:
    batch = [submission({"x": x}) for x in range(JOBS - 1, JOBS + 2)]

    def enqueue(queue: CampaignCommands) -> Any:
        jobs = queue.enqueue("d", 100, batch, reuse=reuse, **more).jobs
        at = [submitted_ms for submitted_ms, _ in filter(None, queue.configs_of([job.id for job in jobs]))]
        assert at == [job.submitted_ms for job in jobs]
        return [(job.id, job.entry) for job in jobs]

    return enqueue


def settle(*what: Any, room: int = 1) -> Callable[[CampaignCommands], Any]:
    def call(queue: CampaignCommands) -> Any:
        reply = queue.settle(
            "w1", what, lease_ms=60_000, request="life-100", room=room, prefetch=0, now=1000.0
        )
        return [(lease.id, lease.attempt, lease.config) for lease in reply.leases]

    return call


def reader_of(queue: CampaignCommands) -> ResultReader:
    reader = ResultReader(queue.link, queue.keys.results, "0-0", max_block_s=0.05)
    reader.read(0)
    reader.cursor = "0-0"
    return reader


def read(reader: ResultReader) -> Any:
    """As a driver reads: page by page, from its cursor."""
    entries: list[Any] = []
    wait_until(lambda: entries.extend(reader.read(0.05, 2)) or len(entries) >= JOBS)
    reader.close()
    return [(entry.id, entry.state, entry.body) for entry in entries]


CALLS = {
    "create": Call(create),
    "open": Call(open_again, filled),
    "enqueue": Call(send(reuse=False), filled),
    "enqueue-reuse": Call(send(reuse=True), filled),
    "enqueue-delayed": Call(send(reuse=False, delay_ms=3_600_000, priority=3), filled),
    "lease": Call(settle(room=2), filled),
    "settle-ok": Call(settle(settlement((1, 1)), settlement((2, 1), body=b"2")), leased),
    "settle-error": Call(settle(settlement((1, 1), Outcome.ERROR)), leased),
    "settle-lost": Call(settle(settlement((1, 1), Outcome.LOST)), leased),
    "settle-timeout": Call(settle(settlement((1, 1), Outcome.TIMEOUT), room=0), leased),
    "extend": Call(lambda queue: queue.extend("w1", 60_000, [(1, 1), (3, 1)]).taken, late),
    "release": Call(
        lambda queue: queue.release("w1", [Release(1, 1, "drain"), Release(2, 1)], leave=True), leased,
        replies_the_same=False,
    ),
    "release-delayed": Call(
        lambda queue: queue.release("w1", [Release(1, 1, "not yet", True)]), leased, replies_the_same=False
    ),
    "report": Call(
        lambda queue: queue.report(
            "w1", [batch((1, 1), [(1, 5), (3, 6)], dropped=1, looks=True, checkpoint="1 here")]
        ),
        leased,
    ),
    "tell": Call(
        lambda queue: queue.tell("w1", [Printed(1, 1, "", 4, b"one\n"), Printed(2, 1, "", 99, b"two\n")]),
        leased,
    ),
    "stop": Call(lambda queue: queue.stop([1, 2, 3]), leased),
    "reclaim": Call(
        lambda queue: queue.reclaim(grace_ms=0, worker="w1").ids, leased, replies_the_same=False
    ),
    "cancel": Call(lambda queue: queue.cancel([1, 3]), leased, replies_the_same=False),
    "retry": Call(lambda queue: queue.retry([2, 3]), finished, replies_the_same=False),
    "pause": Call(lambda queue: queue.pause(True), filled, replies_the_same=False),
    "purge": Call(lambda queue: queue.purge(), finished),
    "read": Call(read, finished, reader_of, changes=False),
    "history": Call(lambda queue: sum(map(len, past_pages(queue, "+"))), finished, changes=False),
    "snapshot": Call(lambda queue: queue.snapshot().counts, finished, changes=False),
    "outstanding": Call(lambda queue: [*queue.outstanding()], leased, changes=False),
}  # fmt: skip


# What happens to it -------------------------------------------------------------------------------------


@contextmanager
def healing(proxy: StrandingProxy, fault: Callable[[], None], after_s: float) -> Iterator[None]:
    fault()
    timer = threading.Timer(after_s, proxy.heal)
    timer.start()
    yield
    timer.join()


@contextmanager
def striking(proxy: StrandingProxy, strike: Callable[[], None], times: int = 1) -> Iterator[None]:
    strike()
    before = proxy.strikes
    yield
    assert proxy.strikes - before == times, "the fault has never come"


@contextmanager
def stranded(proxy: StrandingProxy) -> Iterator[None]:
    proxy.strand()
    lines = [line.client for line in proxy._lines]
    yield
    assert any(map(holds_back, lines)), "nothing has stalled"
    proxy.heal()


def holds_back(line: socket.socket) -> bool:
    """Whether a call has been sent on it, which the proxy has not taken."""
    try:
        return line.recv(1, socket.MSG_PEEK) != b""
    except BlockingIOError:
        return False


FAULTS: dict[str, Callable[[StrandingProxy], Any]] = {
    "reply-lost": lambda proxy: striking(proxy, proxy.drop_reply),
    "reply-lost-twice": lambda proxy: striking(proxy, lambda: proxy.drop_reply(times=2), 2),
    "reply-cut": lambda proxy: striking(proxy, lambda: proxy.cut_reply(2)),
    "reply-cut-late": lambda proxy: striking(proxy, lambda: proxy.cut_reply(1000)),
    "refused": lambda proxy: healing(proxy, proxy.refuse, 0.05),
    "reset": lambda proxy: healing(proxy, proxy.reset, 0.05),
    # Longer than the caller's patience: what it gave up is carried out when it has called again.
    "black-hole": lambda proxy: healing(proxy, proxy.blackhole, 0.25),
    "delay": lambda proxy: healing(proxy, lambda: proxy.delay(0.08), 0.35),
    "stranded": stranded,
}

QUICK = {"reply-lost", "reply-lost-twice"}


def cases() -> Iterator[Any]:
    for call in CALLS:
        for fault in FAULTS:
            marks = [] if fault in QUICK else [pytest.mark.long]
            yield pytest.param(CALLS[call], FAULTS[fault], marks=marks, id=f"{call}-{fault}")


@pytest.mark.parametrize(("call", "fault"), [*cases()])
def test_the_effect_is_that_of_one(call, fault, campaign, direct, link, proxy):
    expected_reply, expected = without_a_fault(call, f"{campaign}-beside", direct)
    prepared = prepare(call, campaign, direct)
    link.call(lambda client: client.ping())  # the connection is there: the fault meets the call
    there = call.connect(CampaignCommands(link, campaign, prepared.uid))
    with fault(proxy):
        reply = call.run(there)
    forget(link, proxy)
    assert picture(prepared) == expected
    if call.replies_the_same:
        assert reply == expected_reply


@pytest.mark.parametrize("name", ["create", "open", "cancel", "purge", "outstanding"])
@pytest.mark.parametrize("after", [1, 2])
def test_a_call_of_several_commands_loses_a_later_reply(name, after, campaign, direct, link, proxy):
    call = CALLS[name]
    _, expected = without_a_fault(call, f"{campaign}-beside", direct)
    prepared = prepare(call, campaign, direct)
    there = call.connect(CampaignCommands(link, campaign, prepared.uid))
    proxy.drop_reply(after=after)
    call.run(there)
    forget(link, proxy)
    assert picture(prepared) == expected


def prepare(call: Call, name: str, direct: Link) -> CampaignCommands:
    made = LuaCampaign(direct, name)
    made.queue.repeating = False
    call.prepare(made)
    return CampaignCommands(direct, name, made.queue.uid)


def without_a_fault(call: Call, name: str, direct: Link) -> tuple[Any, Any]:
    queue = prepare(call, name, direct)
    before = picture(queue)
    reply = call.run(call.connect(queue))
    after = picture(queue)
    assert (before != after) == call.changes
    return reply, after


def forget(link: Link, proxy: StrandingProxy) -> None:
    """Whatever is still on its way has arrived, and is done."""
    link.close()
    wait_until(lambda: proxy.open_lines == 0)


def picture(queue: CampaignCommands) -> Any:
    """All that a campaign holds, but for times, and for what only names this call."""
    client = queue.link.client
    there = Columns.read(client, queue)
    if not there.meta:
        return [client.zscore("qe:campaigns", queue.campaign), client.exists(*queue.keys.columns)]
    there.check()
    passing = (
        b"uid", b"created_ms", b"opened_ms", b"server_run", b"reclaim_from", b"reclaim_seen", b"revision",
        b"wakes",
    )  # fmt: skip
    column = queue.keys.column
    return (
        {field: value for field, value in there.meta.items() if field not in passing},
        {job: value[STAMP_DIGITS:] for job, value in there.configs.items()},
        [one.worker for one in queue.snapshot().workers if one.expiry_ms > 0],
        there.scheduled, there.by_shape, there.held, there.registered, there.attempts, there.shapes,
        [(_without_age(fields[b"outcome"]), fields[b"body"]) for _, fields in there.results],
        sorted(there.index), there.failed, there.cancelled,
        [fields for _, fields in client.xrange(column("failures"))],
        client.hgetall(column("fingerprints")), client.hgetall(column("priorities")),
        {field: value.split()[:2] for field, value in client.hgetall(column("requests")).items()},
        client.exists(queue.keys.wake),
        there.reports, there.report_heads, [hint for _, hint in there.reported], [*there.stops],
        there.checkpoints, there.give_backs,
        client.exists(f"qe:{{{queue.campaign}-new}}:meta"),
    )  # fmt: skip


def _without_age(outcome: bytes) -> list[bytes]:
    told = outcome.split(b" ")
    return told[:4] + told[5:]


# Overtaken ----------------------------------------------------------------------------------------------


def test_what_arrives_after_later_calls_of_the_same_caller_does_nothing(campaign, direct, link, proxy):
    """A call was given up, repeated, and followed by others, when it arrives after all."""
    made = LuaCampaign(direct, campaign)
    queue = CampaignCommands(link, campaign, made.queue.uid)
    link.call(lambda client: client.ping())
    proxy.strand()
    queue.enqueue("d", 1, [submission({"x": 1})], reuse=False)
    queue.enqueue("d", 2, [submission({"x": 1})], reuse=False)
    ok = {"lease_ms": 60_000, "prefetch": 0, "now": 1000.0}
    queue.settle("w1", [], request="life-1", room=1, **ok)
    queue.settle("w1", [settlement((1, 1), Outcome.LOST)], request="life-2", room=1, **ok)
    before = picture(made.queue)
    proxy.heal()
    forget(link, proxy)
    assert picture(made.queue) == before
    assert made.queue.snapshot().last_id == 2


@pytest.mark.long
def test_a_connection_that_stalls_costs_no_lease(server, tmp_path, campaign, access):
    """As when a firewall has forgotten it: the heartbeat takes a new one before the lease has run out."""
    fleet = Fleet(server, tmp_path)
    try:
        with StrandingProxy(target(access)) as its, fleet.driver(campaign) as driver:
            mine = ("--campaign", campaign)
            url = behind(access, its).url
            fleet.worker(*mine, "--name", "stalled", lease="2s", QUEUE_EVAL_URL=url)
            driver.submit([fleet.gated(1)])
            fleet.wait_begun(1)
            fleet.worker(*mine, "--name", "neighbour", lease="2s")
            queue = fleet.queue(campaign)

            def expiry_ms() -> int:
                return {one.worker: one.expiry_ms for one in queue.snapshot().workers}.get("stalled", 0)

            wait_until(lambda: len(queue.snapshot().workers) == 2)
            before = expiry_ms()
            its.strand()
            wait_until(lambda: expiry_ms() > before + 4000)
            assert fleet.begun() == {1: 1}
            its.heal()
            fleet.open_gate()
            (job,) = driver.gather("ALL", timeout=20)
            assert (job.worker, job.attempts) == ("stalled", 1)
    finally:
        fleet.close()


# Everything at once -------------------------------------------------------------------------------------


@pytest.mark.parametrize("reuse", [False, *long(True)])
@pytest.mark.parametrize("fault", ["drop_reply", *long("cut_reply")])
def test_every_third_reply_is_lost(server, tmp_path, campaign, access, caplog, fault, reuse):
    """To a driver and to its worker, all the time: every job runs once, and is gathered once."""
    count = 60
    fleet = Fleet(server, tmp_path)
    done = threading.Event()

    def has_come(proxy: StrandingProxy, strikes: int) -> bool:
        return done.is_set() or proxy.strikes >= strikes

    def strike_again_and_again(proxy: StrandingProxy) -> None:
        arguments = (3, 2) if fault == "cut_reply" else (2,)
        while not done.wait(0.01):
            next_one = proxy.strikes + 1
            getattr(proxy, fault)(*arguments)
            # One that falls on a blocking read comes when that ends: another one is lost instead.
            given_up_at = time.monotonic() + 0.5
            while not has_come(proxy, next_one) and time.monotonic() < given_up_at:
                done.wait(0.005)

    with StrandingProxy(target(access)) as mine, StrandingProxy(target(access)) as its:
        threads = [threading.Thread(target=strike_again_and_again, args=(proxy,)) for proxy in (mine, its)]
        try:
            with fleet.driver(campaign, url=behind(access, mine).url, reuse=reuse) as driver:
                worker = fleet.worker(
                    "--campaign", campaign, slots=2, QUEUE_EVAL_URL=behind(access, its).url
                )
                for thread in threads:
                    thread.start()
                for start in range(0, count, 5):
                    # Long enough that the worker calls again and again.
                    driver.submit([fleet.config(x, sleep_s=0.05) for x in range(start, start + 5)])
                jobs = driver.gather("ALL", timeout=60)
                done.set()
                for thread in threads:
                    thread.join()
                mine.heal()
                its.heal()
            assert sorted(job.result for job in jobs) == list(range(count))
            assert {job.attempts for job in jobs} == {1}
            assert min(mine.strikes, its.strikes) >= 3
            assert "gone back in time" not in caplog.text
            assert set(fleet.begun().values()) == {1}
            check_all_recorded(fleet.queue(campaign), count)
            assert end(worker) == 0
        finally:
            done.set()
            fleet.close()
