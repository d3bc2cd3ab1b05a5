"""The campaign on the server, asked and seen in the words of the model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from queue_eval.campaign.commands import CampaignCommands
from queue_eval.campaign.view import STAMP_DIGITS
from queue_eval.model.moves import (
    EnqueueReply,
    Extended,
    PointBatch,
    Reclaimed,
    Release,
    Settled,
    Settlement,
    Snapshot,
    Stopped,
    Submission,
)
from tests.model.model import Entry, Held, Model, Options, Token
from tests.model.still_server import StillLink
from tests.support.lua_campaign import FIELDS, Columns

MONOTONIC_S = 1000.0


def fields_of(options: Options) -> dict[str, Any]:
    limit = "" if options.most_running is None else options.most_running
    return FIELDS | vars(options) | {"most_running": limit}


class Real:
    """The same methods as the model has, on a server."""

    def __init__(self, link: StillLink, name: str, options: Options) -> None:
        self._link = link
        self._name = name
        self.queue, opened = CampaignCommands.open(link, name, fields_of(options), accept_change=False)
        assert opened.created
        assert opened.created_ms == opened.opened_ms

    def close(self) -> None:
        self.queue.purge()
        left = self._link.client.keys(f"*{self._name}*")
        assert left == [], "purge leaves nothing"

    def open(self, options: Options) -> None:
        queue, opened = CampaignCommands.open(self._link, self._name, fields_of(options), accept_change=False)
        assert not opened.created
        assert queue.uid == self.queue.uid

    def enqueue(
        self, driver: str, sequence: int, submissions: Sequence[Submission], *,
        reuse: bool, priority: int, delay_ms: int, slots: int,
    ) -> EnqueueReply:  # fmt: skip
        reply = self.queue.enqueue(
            driver, sequence, submissions, reuse=reuse, priority=priority, delay_ms=delay_ms, slots=slots
        )
        places: dict[str | None, str | None] = {
            e.entry: str(i) for i, e in enumerate(self.queue.read_after("0-0"))
        }
        places |= {None: None, "0-0": "-1"}
        jobs = [job._replace(entry=places[job.entry]) for job in reply.jobs]
        return replace(reply, jobs=jobs, fence=places[reply.fence])

    def settle(
        self, worker: str, settlements: Sequence[Settlement], *,
        lease_ms: int, request: str, room: int, prefetch: int, slots: int,
    ) -> Settled:  # fmt: skip
        return self.queue.settle(
            worker, settlements, lease_ms=lease_ms, request=request, room=room, prefetch=prefetch,
            slots=slots, now=MONOTONIC_S,
        )  # fmt: skip

    def extend(self, worker: str, lease_ms: int, tokens: Sequence[Token]) -> Extended:
        return self.queue.extend(worker, lease_ms, tokens)

    def release(self, worker: str, releases: Sequence[Release], *, leave: bool) -> int:
        return self.queue.release(worker, releases, leave=leave)

    def report(self, worker: str, batches: Sequence[PointBatch]) -> list[bool]:
        return self.queue.report(worker, batches)

    def stop(self, ids: Iterable[int]) -> Stopped:
        return self.queue.stop(ids)

    def reclaim(self, *, grace_ms: int, worker: str) -> Reclaimed:
        return self.queue.reclaim(grace_ms=grace_ms, worker=worker)

    def cancel(self, ids: Iterable[int]) -> list[int]:
        return self.queue.cancel(ids)

    def retry(self, ids: Iterable[int]) -> list[int]:
        return self.queue.retry(ids)

    def pause(self, paused: bool) -> bool:
        return self.queue.pause(paused)

    def snapshot(self) -> Snapshot:
        return self.queue.snapshot()

    def restart(self) -> None:
        """As far as the scripts can see: the server is another life of itself."""
        self._link.client.hset(self.queue.keys.meta, "server_run", "another")

    def save(self) -> dict[bytes, bytes]:
        """All that the campaign holds."""
        client = self._link.client
        return {key: client.dump(key) for key in client.keys(self._all)}

    def go_back(self, saved: dict[bytes, bytes]) -> None:
        client = self._link.client
        client.delete(*client.keys(self._all))
        for key, value in saved.items():
            client.restore(key, 0, value)

    @property
    def _all(self) -> str:
        return f"qe:{{{self._name}}}:*"

    def take_marker(self, *, wide: bool) -> bool:
        keys = self.queue.keys
        return bool(self._link.client.zpopmin(keys.wake_wide if wide else keys.wake))

    def has_marker(self, *, wide: bool) -> bool:
        keys = self.queue.keys
        return bool(self._link.client.exists(keys.wake_wide if wide else keys.wake))


def check_same(model: Model, real: Real) -> None:
    """Every job in the place where the model has it, and everything that is known of it the same."""
    columns = Columns.read(real._link.client, real.queue)
    columns.check()
    client, column = real._link.client, real.queue.keys.column

    held = {
        int(job): Held(worker.decode(), *_parse_held(value))
        for worker, jobs in columns.held.items()
        for job, value in jobs.items()
    }
    jobs = model.jobs.values()
    assert held == {job.id: job.held for job in jobs if job.held is not None}
    waiting = model.pending()
    for width in {job.slots for job in waiting} | set(columns.by_width):
        there = [int(job) for job in columns.by_width.get(width, [])]
        assert there == [job.id for job in waiting if job.slots == width], f"pending, of width {width}"
    scheduled = client.zrange(column("scheduled"), 0, -1, withscores=True)
    due = {job.id: job.due_ms for job in jobs if job.state == "scheduled"}
    assert {int(job): int(at) for job, at in scheduled} == due

    configs = {
        int(job): (int(value[:STAMP_DIGITS], 36), value[STAMP_DIGITS:].decode())
        for job, value in columns.configs.items()
    }
    assert configs == {job.id: (job.submitted_ms, job.config) for job in jobs}
    histories = {int(job): tuple(map(int, value.split())) for job, value in columns.attempts.items()}
    assert histories == {job.id: job.history for job in jobs if job.history is not None}
    outputs = {int(job): output for job, output in client.hgetall(column("outputs")).items()}
    assert outputs == {job.id: job.output for job in jobs if job.output}

    entries = real.queue.read_after("0-0")
    assert [
        Entry(e.id, e.state, e.attempts, e.worker, e.source, e.cause, e.body, e.releases, e.reports)
        for e in entries
    ] == model.results
    places = {entry.entry: i for i, entry in enumerate(entries)}
    index = {int(job): places[entry.decode()] for job, entry in columns.index.items()}
    assert index == {job.id: job.entry for job in jobs if job.entry is not None}
    assert {int(job) for job in columns.stops} == {job.id for job in jobs if job.stop}
    give_backs = {int(job): int(times) for job, times in columns.give_backs}
    assert give_backs == {job.id: job.give_backs for job in jobs if job.give_backs}
    checkpoints = {int(job): tuple(map(int, text.split()[:2])) for job, text in columns.checkpoints.items()}
    assert checkpoints == {job.id: job.checkpoint for job in jobs if job.checkpoint}
    for job, head in zip(jobs, real.queue.report_heads([job.id for job in jobs]), strict=True):
        assert (head.points if head else 0) == len(job.points)
        if job.points:
            there = [(report.attempt, number) for number, report in real.queue.reports_of(job.id)]
            assert there == job.points, "each report once, under its attempt"
    failures = [
        (int(f[b"job"]), int(f[b"attempt"]), f[b"cause"].decode(), f[b"worker"].decode(), f[b"body"])
        for _, f in client.xrange(column("failures"))
    ]
    assert failures == model.failures

    assert real.snapshot() == model.snapshot()
    reserving = client.zrange(column("reserving"), 0, -1, withscores=True)
    assert {name.decode(): int(since) for name, since in reserving} == model.reserving
    for wide in (False, True):
        assert real.has_marker(wide=wide) or not model.leasable(wide=wide), "jobs wait, and nobody is woken"


def _parse_held(value: bytes) -> tuple[int, str, bool]:
    attempt, request, started = value.decode().split()
    return int(attempt), request, started == "1"
