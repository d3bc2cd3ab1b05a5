"""Reads every attempt of a job that is on record.

::

    stream of failures ──(index by job, continued)── attempts that came to nothing ──┐
    index, result stream ─────────────────────────── the one that settled the job ───┼──▶ executions
    held jobs ────────────────────────────────────── the one that runs ──────────────┘
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from queue_eval.campaign.paging import Portion, pages
from queue_eval.campaign.places import Place, hosts_by_worker, places_of
from queue_eval.campaign.result_stream import ResultEntry
from queue_eval.campaign.view import CampaignView
from queue_eval.model.job import Execution
from queue_eval.model.live_output import LiveOutput
from queue_eval.model.states import RELEASED, State

_FAILURES_PAGE = 100
"""How many attempts that came to nothing one call reads: each has an error, and what it printed."""


class ExecutionReader:
    """Reads the executions of jobs of one campaign.

    Which entries of the stream of failures are of which job is remembered, since the stream is in order of
    time: when another job is asked for, only what is new there is read. Safe to use from several threads.
    """

    def __init__(self, view: CampaignView) -> None:
        self._view = view
        self._lock = threading.Lock()
        self._cursor = "-"
        self._entries_of: dict[int, list[str]] = {}

    def executions_of(self, job_id: int) -> list[Execution]:
        """Every attempt on record, oldest first. One that was given back without a word is on no record."""
        return self.executions_by_job([job_id])[job_id]

    def executions_by_job(
        self, ids: Sequence[int], *, with_outputs: bool = True
    ) -> dict[int, list[Execution]]:
        """The same for a page of jobs, in a number of calls that does not grow with the page.

        `with_outputs`: what they printed is read, too; it may be large.
        """
        # The places come first: an attempt that fails in between is then shown once, as the one that runs.
        places = places_of(self._view, ids, with_origins=False)
        failures = self._failures_of(ids, with_outputs=with_outputs)
        entries = {e.entry: e for e in self._view.entries([p.entry for p in places if p.entry is not None])}
        settled = [place.id for place in places if place.entry in entries]
        outputs = self._view.outputs_of(settled) if with_outputs else [None] * len(settled)
        output_by_job = dict(zip(settled, outputs, strict=True))
        running_ids = [place.id for place in places if place.worker and place.has_begun and with_outputs]
        live = dict(zip(running_ids, self._view.live_outputs_of(running_ids), strict=True))
        found = {}
        for place in places:
            executions = failures[place.id]
            if place.entry is None:
                running = [_running(place, live.get(place.id))] if place.worker and place.has_begun else []
                executions = [e for e in executions if not running or e.number < place.attempt] + running
            elif place.entry in entries:
                executions = _settled(executions, place, entries[place.entry], output_by_job[place.id])
            found[place.id] = executions
        return self._with_hosts(found)

    def output_of(self, job_id: int) -> str | None:
        """Captured output of the attempt that settled the job. Of an unfinished one: the newest part of what
        its running attempt has printed."""
        (output,) = self._view.outputs_of([job_id])
        if output is None and (live := self._view.live_outputs_of([job_id])[0]) is not None:
            output = live.text
        return _text(output) or None

    def _failures_of(self, ids: Sequence[int], *, with_outputs: bool) -> dict[int, list[Execution]]:
        with self._lock:
            self._read_new()
            entries = [(job_id, entry) for job_id in ids for entry in self._entries_of.get(job_id, ())]
        found: dict[int, list[Execution]] = {job_id: [] for job_id in ids}
        for page in pages(entries, _FAILURES_PAGE):
            for (job_id, _), reply in zip(page, self._read_entries([e for _, e in page]), strict=True):
                for name, fields in reply:  # the stream is bounded: an entry may be gone
                    failure = _failure(int(name.split(b"-")[0]), fields)
                    found[job_id].append(failure if with_outputs else failure._replace(output=None))
        return found

    def _read_new(self) -> None:
        """Learn of which jobs the entries are that are new in the stream."""
        portion = Portion()
        while page := self._read_page(portion.count):
            for entry, fields in page:
                job = fields.get(b"job", b"")
                if job.isdigit():
                    self._entries_of.setdefault(int(job), []).append(entry.decode())
            self._cursor = f"({page[-1][0].decode()}"
            portion.adapt(len(page), sum(len(value) for _, fields in page for value in fields.values()))

    def _read_page(self, size: int) -> list[Any]:
        return self._view.link.call(
            lambda client: client.xrange(self._view.keys.column("failures"), self._cursor, "+", size)
        )

    def _read_entries(self, entries: Sequence[str]) -> list[Any]:
        def read(client: Any) -> list[Any]:
            pipeline = client.pipeline(transaction=False)
            for entry in entries:
                pipeline.xrange(self._view.keys.column("failures"), entry, entry)
            replies: list[Any] = pipeline.execute()
            return replies

        return self._view.link.call(read)

    def _with_hosts(self, found: dict[int, list[Execution]]) -> dict[int, list[Execution]]:
        every = (one.worker or "" for executions in found.values() for one in executions)
        hosts = hosts_by_worker(self._view, every)
        return {
            job_id: [one._replace(host=hosts.get(one.worker or "")) for one in executions]
            for job_id, executions in found.items()
        }


def _settled(
    found: list[Execution], place: Place, entry: ResultEntry, output: bytes | None
) -> list[Execution]:
    """`found` with the attempt that settled the job as the last one."""
    last = found[-1] if found else None
    body = _text(entry.body)
    number = entry.attempt or max(entry.attempts, last.number + 1 if last else 1)
    if entry.state is State.CANCELLED:
        if not entry.worker:
            return found  # it waited
        number = max(place.leases, 1)
    elif entry.state is State.FAILED and last and (last.cause, last.error) == (entry.cause, body):
        # The stream of failures has this one, too.
        started = last.started_at if entry.run_ms is None else _time(entry.started_ms)
        return [*found[:-1], last._replace(started_at=started, finished_at=_time(entry.finished_ms))]
    settled = Execution(
        number=number, worker=entry.worker or None, host=None, started_at=_time(entry.started_ms),
        finished_at=_time(entry.finished_ms), outcome=entry.state.value,
        cause=entry.cause or None if entry.state is State.FAILED else None,
        error=body if entry.state is State.FAILED else None, output=_text(output) or None,
    )  # fmt: skip
    return [*found, settled]


def _failure(at_ms: int, fields: dict[bytes, bytes]) -> Execution:
    cause = _text(fields.get(b"cause"))
    attempt = fields.get(b"attempt", b"")
    is_release = cause == RELEASED
    run_ms, age_ms = _run_and_age_ms(fields.get(b"facts", b""))
    return Execution(
        number=int(attempt) if attempt.isdigit() else 0, worker=_text(fields.get(b"worker")) or None,
        host=None, started_at=None if run_ms is None else _time(at_ms - age_ms - run_ms),
        finished_at=_time(at_ms - age_ms),
        outcome=RELEASED if is_release else State.FAILED.value, cause=None if is_release else cause,
        error=_text(fields.get(b"body")), output=_text(fields.get(b"output")) or None,
    )  # fmt: skip


def _run_and_age_ms(facts: bytes) -> tuple[float | None, float]:
    """How long an attempt ran, and how long ago it ended, when it was put on record."""
    run_ms, _, rest = facts.partition(b" ")
    try:
        return float(run_ms), float(rest.partition(b" ")[0])
    except ValueError:
        return None, 0.0


def _running(place: Place, live: LiveOutput | None) -> Execution:
    """The attempt that runs. `live`: the newest part of what the job's last attempt has printed."""
    output = _text(live.text) if live is not None and live.attempt == place.attempt else None
    return Execution(
        number=place.attempt, worker=place.worker, host=None, started_at=_time(place.began_ms),
        finished_at=None, outcome=State.RUNNING.value, cause=None, error=None, output=output,
    )  # fmt: skip


def _text(value: bytes | None) -> str:
    return (value or b"").decode(errors="replace")


def _time(time_ms: float | None) -> datetime | None:
    return None if time_ms is None else datetime.fromtimestamp(time_ms / 1000, UTC)
