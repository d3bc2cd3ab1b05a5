"""A campaign on a real server whose laws are checked after every move, and after every repeat of it."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import redis

from queue_eval.campaign.commands import CampaignCommands
from queue_eval.errors import CampaignNotFoundError
from queue_eval.model.moves import EnqueueReply, Lease, PointBatch, Printed, Settled, Settlement, Submission
from queue_eval.model.states import Outcome, State
from queue_eval.transport.access import Access
from queue_eval.transport.link import Link

LEASE_MS = 60_000

BASE_MS = 1_700_000_000_000

_EXTRA_COLUMNS = 10

FIELDS = {
    "function": "module:run", "method": "thread", "source": "s1", "options": "{}", "max_attempts": 1,
    "max_losses": 3, "retry_first_ms": 1000, "retry_factor": 2, "retry_max_ms": 60_000,
}  # fmt: skip

Token = tuple[int, int]


def link_to(access: Access) -> Link:
    return Link(access, name="test")


def submission(config: Any, occurrence: int = 1) -> Submission:
    text = json.dumps(config)
    return Submission(text, hashlib.blake2b(text.encode(), digest_size=16).digest(), occurrence)


def batch(token: Token | Lease, points: Iterable[tuple[int, Any]] = (), **more: Any) -> PointBatch:
    """Points (number, value), each with ten times its number as the step, a second after the other."""
    lines = "".join(f'{n} {n * 1000} {n * 10} {{"x":{json.dumps(value)}}}\n' for n, value in points)
    fields = {
        "id": token[0], "attempt": token[1], "request": token.request if isinstance(token, Lease) else "",
        "base_ms": BASE_MS, "dropped": 0, "looks": False, "checkpoint": "", "lines": lines.encode(),
    }  # fmt: skip
    return PointBatch(**fields | more)


@dataclass(frozen=True)
class Columns:
    """Everything a campaign holds on the server, read at one moment."""

    meta: dict[bytes, bytes]
    configs: dict[bytes, bytes]
    scheduled: list[bytes]
    pending: list[bytes]
    held: dict[bytes, dict[bytes, bytes]]
    registered: list[bytes]
    attempts: dict[bytes, bytes]
    index: dict[bytes, bytes]
    results: list[tuple[bytes, dict[bytes, bytes]]]
    failed: set[bytes]
    cancelled: set[bytes]
    shapes: dict[int, str]
    by_shape: dict[str, list[bytes]]
    """Pending jobs by the slots that they take and the time that they ask for."""
    reports: dict[bytes, bytes]
    report_heads: dict[bytes, bytes]
    reported: list[tuple[bytes, dict[bytes, bytes]]]
    stops: dict[bytes, bytes]
    checkpoints: dict[bytes, bytes]
    give_backs: list[tuple[bytes, float]]
    time_lacks: dict[bytes, bytes]
    distant: dict[bytes, bytes]
    live: dict[bytes, bytes]
    live_heads: dict[bytes, bytes]

    @classmethod
    def read(cls, client: redis.Redis, queue: CampaignCommands) -> Columns:
        column = queue.keys.column
        prefix = column("held:")
        names = [key[len(prefix) :] for key in client.scan_iter(prefix.replace("{", "\\{") + "*", count=1000)]
        wide = list(client.scan_iter(column("pending:").replace("{", "\\{") + "*", count=1000))
        pipeline = client.pipeline(transaction=True)
        pipeline.hgetall(column("meta"))
        pipeline.hgetall(column("configs"))
        pipeline.zrange(column("scheduled"), 0, -1)
        pipeline.zrange(column("pending"), 0, -1)
        pipeline.zrange(column("workers"), 0, -1)
        pipeline.hgetall(column("attempts"))
        pipeline.hgetall(column("index"))
        pipeline.xrange(column("results"))
        pipeline.smembers(column("failed"))
        pipeline.smembers(column("cancelled"))
        pipeline.hgetall(column("widths"))
        pipeline.hgetall(column("reports"))
        pipeline.hgetall(column("report_heads"))
        pipeline.xrange(column("reported"))
        pipeline.hgetall(column("stops"))
        pipeline.hgetall(column("checkpoints"))
        pipeline.zrange(column("give_backs"), 0, -1, withscores=True)
        pipeline.hgetall(column("time_lacks"))
        pipeline.hgetall(column("distant"))
        pipeline.hgetall(column("live"))
        pipeline.hgetall(column("live_heads"))
        for name in names:
            pipeline.hgetall(prefix.encode() + name)
        for key in wide:
            pipeline.zrange(key, 0, -1)
        (
            meta, configs, scheduled, pending, workers, attempts, index, results, failed, cancelled, shapes,
            *more,
        ) = pipeline.execute()  # fmt: skip
        extras, rest = more[:_EXTRA_COLUMNS], more[_EXTRA_COLUMNS:]
        held, waiting = rest[: len(names)], rest[len(names) :]
        apart = {key.rpartition(b":")[2].decode(): ids for key, ids in zip(wide, waiting, strict=True)}
        return cls(
            meta, configs, scheduled, [*pending, *itertools.chain(*apart.values())],
            dict(zip(names, held, strict=True)), workers, attempts, index, results, failed, cancelled,
            {int(job): shape.decode() for job, shape in shapes.items()}, {"1": pending} | apart, *extras,
        )  # fmt: skip

    def check(self) -> None:
        """The laws of `queue_eval.campaign.scripts`."""
        last_id = int(self.meta[b"last_id"])
        places = [*self.scheduled, *self.pending, *itertools.chain(*self.held.values()), *self.index]
        assert len(places) == last_id, "conservation"
        assert set(places) == {b"%d" % i for i in range(1, last_id + 1)}, "each job in exactly one place"
        assert self.configs.keys() == set(places), "each job has its config"
        assert self.held.keys() <= set(self.registered), "held only by registered workers"

        for shape, jobs in self.by_shape.items():
            assert all(self.shapes.get(int(job), "1") == shape for job in jobs), "each waits by its shape"

        told = {entry: outcome[b"outcome"].split(b" ") for entry, outcome in self.results}
        for job, entry in self.index.items():
            assert told[entry][0] == job, "the index leads to the job's own entry"
        retried = int(self.meta.get(b"retried", 0))
        assert len(told) == len(self.index) + retried, "one entry per job and life"
        for members, state in ((self.failed, b"f"), (self.cancelled, b"c")):
            shown = {job for job, entry in self.index.items() if told[entry][1] == state}
            assert members == shown, f"{state!r} jobs are those whose entry says so"

        for job, held in itertools.chain(*(jobs.items() for jobs in self.held.values())):
            before = self.attempts.get(job, b"0").split()[0]
            assert int(held.split()[0]) > int(before), "each lease has a new fencing token"

        if b"extras" not in self.meta:
            assert not any(self.extras), "nothing extra in a campaign that has had none"
        over = self.index.keys()
        assert not over & self.stops.keys(), "only open jobs are asked to stop"
        assert not over & {job for job, _ in self.give_backs}, "only open jobs are told of"
        assert not over & self.time_lacks.keys(), "only open jobs lack time"
        assert not over & self.distant.keys(), "only open jobs lack their checkpoint"
        assert over & self.checkpoints.keys() <= self.failed, "of finished jobs only failed ones keep theirs"
        running = {job: held.split()[0] for jobs in self.held.values() for job, held in jobs.items()}
        for job, head in self.live_heads.items():
            line, _, text = self.live[job].partition(b"\n")
            assert line == head, "the head tells of the text"
            assert running.get(job) == head.split()[0], "only attempts that run print"
            assert len(text) <= min(16 * 1024, int(head.split()[1])), "the newest part of what was printed"
        assert self.live.keys() == self.live_heads.keys()
        for job, head in self.report_heads.items():
            _, _, blocks, in_last, points, _, _, size = map(int, head.split())
            lines = [self.reports[b"%b:%d" % (job, n)].split(b"\n")[1:-1] for n in range(1, blocks + 1)]
            assert sum(map(len, lines)) == points, "the head counts all points"
            assert len(lines[-1]) == in_last if lines else not in_last
            assert max(map(len, lines), default=0) <= 100
            assert sum(len(line) + 1 for block in lines for line in block) == size
        told_blocks = {job: int(head.split()[2]) for job, head in self.report_heads.items()}
        for block in self.reports:
            job, _, number = block.partition(b":")
            assert int(number) <= told_blocks[job], "no block beyond the last"

    @property
    def extras(self) -> tuple[Any, ...]:
        return (
            self.reports, self.report_heads, self.reported, self.stops, self.checkpoints, self.give_backs,
            self.time_lacks, self.distant, self.live, self.live_heads,
        )  # fmt: skip

    def places(self) -> tuple[Any, ...]:
        """What a repeat must not change. A scheduled job may fall due meanwhile."""
        waiting = sorted(self.scheduled + self.pending)
        return (
            waiting, self.held, self.index, self.results, self.failed, self.cancelled, self.attempts,
            self.extras, self.shapes,
        )  # fmt: skip


class CheckedQueue(CampaignCommands):
    """Runs each script twice, as after a lost reply, and checks the laws and that once was the same as twice.

    Returns the first reply; `repeat` is the second.
    """

    NOT_REPEATED = ("reclaim", "purge")  # reclaim takes the next page; after purge there is nothing

    repeat: Any = None
    repeating = True

    def _run(self, script: str, *arguments: Any) -> Any:
        reply = super()._run(script, *arguments)
        if script == "purge":
            return reply
        client = self.link.client
        after_once = Columns.read(client, self)
        after_once.check()
        if self.repeating and script not in self.NOT_REPEATED:
            self.repeat = super()._run(script, *arguments)
            after_twice = Columns.read(client, self)
            after_twice.check()
            assert after_twice.places() == after_once.places(), f"{script} repeated does more than once"
        assert self.snapshot().conserved
        return reply


class LuaCampaign:
    """Short words for the moves of one campaign, with a driver "d" and as many workers as are named."""

    def __init__(self, link: Link, name: str, **fields: Any) -> None:
        self.link = link
        self.name = name
        self.client = link.client
        opened, _ = CampaignCommands.open(link, name, FIELDS | fields, accept_change=False)
        self.queue = CheckedQueue(link, name, opened.uid)
        self._numbers = itertools.count(1)

    # Moves

    def enqueue(
        self, *configs: Any, reuse: bool = False, priority: int = 0, delay_ms: int = 0, driver: str = "d",
        slots: int = 1, time_s: int = 0,
    ) -> EnqueueReply:  # fmt: skip
        submissions = [submission(c) for c in configs]
        return self.send(submissions, reuse, priority, delay_ms, driver, slots, time_s)

    def send(
        self, submissions: list[Submission], reuse: bool = False, priority: int = 0, delay_ms: int = 0,
        driver: str = "d", slots: int = 1, time_s: int = 0,
    ) -> EnqueueReply:  # fmt: skip
        return self.queue.enqueue(
            driver, next(self._numbers), submissions, reuse=reuse, priority=priority, delay_ms=delay_ms,
            slots=slots, time_s=time_s,
        )  # fmt: skip

    def add(self, count: int = 1, **options: Any) -> list[int]:
        """Enqueue that many jobs; returns their ids."""
        reply = self.enqueue(*({"x": next(self._numbers)} for _ in range(count)), **options)
        return [job.id for job in reply.jobs]

    def lease(self, worker: str = "w1", room: int = 1, prefetch: int = 0, **options: Any) -> list[Token]:
        return tokens(self.settle(worker, room=room, prefetch=prefetch, **options))

    def settle(
        self, worker: str, *settlements: Settlement, room: int = 0, prefetch: int = 0,
        lease_ms: int = LEASE_MS, request: str | None = None, slots: int = 1,
        left_s: float | None = None, place: str = "",
    ) -> Settled:  # fmt: skip
        return self.queue.settle(
            worker, settlements, lease_ms=lease_ms, request=request or str(next(self._numbers)), room=room,
            prefetch=prefetch, slots=slots, now=1000.0, left_s=left_s, place=place,
        )  # fmt: skip

    def ok(self, worker: str, token: Token, body: bytes = b"1") -> str:
        return self.settle(worker, settlement(token, body=body)).verdicts[0]

    def fail(self, worker: str, token: Token, outcome: Outcome = Outcome.ERROR) -> str:
        return self.settle(worker, settlement(token, outcome, b"Traceback")).verdicts[0]

    def told(
        self, worker: str, token: Token | Lease, points: Iterable[tuple[int, Any]] = (), **more: Any
    ) -> bool:
        """Report points (number, value) at ten times their number as the step; whether they were taken."""
        return self.queue.report(worker, [batch(token, points, **more)])[0]

    def tell(self, worker: str, token: Token | Lease, total: int, text: bytes) -> bool:
        """Tell what a running attempt has printed; whether it was taken."""
        request = token.request if isinstance(token, Lease) else ""
        return self.queue.tell(worker, [Printed(token[0], token[1], request, total, text)])[0]

    def die(self, worker: str) -> list[int]:
        """The worker's lease runs out, and all it holds is reclaimed."""
        self.expire(worker)
        ids: list[int] = []
        while (page := self.queue.reclaim(grace_ms=0)).more:
            ids += page.ids
        return ids + page.ids

    # The server's clock, moved by moving what it is compared with

    def expire(self, worker: str) -> None:
        self.client.zadd(self.queue.keys.column("workers"), {worker: 0}, xx=True)

    def make_due(self) -> None:
        scheduled = self.queue.keys.column("scheduled")
        # None, if a repeat of the last move has promoted them.
        if jobs := self.client.zrange(scheduled, 0, -1):
            self.client.zadd(scheduled, dict.fromkeys(jobs, 0), xx=True)

    # What is there

    def columns(self) -> Columns:
        return Columns.read(self.client, self.queue)

    def count(self, state: State) -> int:
        return self.queue.snapshot().counts[state]

    def state(self, job: int) -> State:
        columns, name = self.columns(), b"%d" % job
        if name in columns.index:
            return next(e.state for e in self.results() if e.entry == columns.index[name].decode())
        if name in columns.scheduled:
            return State.SCHEDULED
        return State.PENDING if name in columns.pending else State.RUNNING

    def results(self) -> list[Any]:
        return self.queue.read_after("0-0")

    def history(self, job: int) -> str | None:
        """attempts failures losses unstarted suspect"""
        value = self.columns().attempts.get(b"%d" % job)
        return value and value.decode()

    def delay_of(self, job: int) -> float:
        """How long the scheduled job still waits (ms)."""
        due = self.client.zscore(self.queue.keys.column("scheduled"), job)
        return due - self.queue.snapshot().now_ms

    def take_marker(self, *, wide: bool = False) -> bool:
        """As an idle worker does; whether there was one."""
        keys = self.queue.keys
        return bool(self.client.zpopmin(keys.wake_wide if wide else keys.wake))

    def wakes(self, move: Callable[[], Any], *, wide: bool = False) -> bool:
        """Whether a move, done once, leaves a marker for idle workers."""
        self.take_marker(wide=wide)
        self.queue.repeating = False
        move()
        self.queue.repeating = True
        return self.take_marker(wide=wide)


def settlement(
    of: Token | Lease, outcome: Outcome = Outcome.OK, body: bytes = b"1", *, run_ms: float = 2.5,
    age_s: float = 0.0, output: bytes = b"",
) -> Settlement:  # fmt: skip
    """Of a lease with all that it proves, of a token alone without."""
    if isinstance(of, Lease):
        token, proof = (of.id, of.attempt), (of.request, of.digest)
    else:
        token, proof = of, ("", "")
    return Settlement(*token, outcome, run_ms, 1000.0 - age_s, "s1", body, output, *proof)


def tokens(settled: Settled) -> list[Token]:
    return [(lease.id, lease.attempt) for lease in settled.leases]


def is_gone(move: Callable[[], Any]) -> bool:
    try:
        move()
    except CampaignNotFoundError:
        return True
    return False


def ids(found: Iterable[Token]) -> list[int]:
    return [job for job, _ in found]
