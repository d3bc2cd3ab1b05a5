"""Reads every attempt of a job that is on record.

::

    stream of failures ──(index by job, continued)── attempts that came to nothing ──┐
    index, result stream ─────────────────────────── the one that settled the job ───┼──▶ executions
    held jobs ────────────────────────────────────── the one that runs ──────────────┘
"""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from typing import Any

from queue_eval.campaign.paging import PAGE
from queue_eval.campaign.places import Place, hosts_by_worker, place_of
from queue_eval.campaign.result_stream import ResultEntry
from queue_eval.campaign.view import CampaignView
from queue_eval.model.job import Execution
from queue_eval.model.states import RELEASED, State


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
        # The place comes first: an attempt that fails in between is then shown once, as the one that runs.
        place = place_of(self._view, job_id)
        found = self._failures_of(job_id)
        if place.entry is None:
            running = [self._running(place)] if place.worker and place.has_begun else []
            found = [one for one in found if not running or one.number < place.attempt] + running
        elif entries := self._view.entries([place.entry]):
            found = self._settled(found, place, entries[0])
        return self._with_hosts(found)

    def output_of(self, job_id: int) -> str | None:
        """Captured output of the attempt that settled the job. Of an unfinished one: the newest part of what
        its running attempt has printed."""
        (output,) = self._view.outputs_of([job_id])
        if output is None and (live := self._view.live_outputs_of([job_id])[0]) is not None:
            output = live.text
        return _text(output) or None

    def _running(self, place: Place) -> Execution:
        (live,) = self._view.live_outputs_of([place.id])
        is_of_it = live is not None and live.attempt == place.attempt
        return Execution(
            number=place.attempt, worker=place.worker, host=None, started_at=_time(place.began_ms),
            finished_at=None, outcome=State.RUNNING.value, cause=None, error=None,
            output=_text(live.text) if live is not None and is_of_it else None,
        )  # fmt: skip

    def _settled(self, found: list[Execution], place: Place, entry: ResultEntry) -> list[Execution]:
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
            error=body if entry.state is State.FAILED else None, output=self.output_of(place.id),
        )  # fmt: skip
        return [*found, settled]

    def _failures_of(self, job_id: int) -> list[Execution]:
        with self._lock:
            while page := self._view.link.call(self._read_page):
                for entry, fields in page:
                    job = fields.get(b"job", b"")
                    if job.isdigit():
                        self._entries_of.setdefault(int(job), []).append(entry.decode())
                self._cursor = f"({page[-1][0].decode()}"
            entries = list(self._entries_of.get(job_id, ()))

        def read(client: Any) -> list[Any]:
            pipeline = client.pipeline(transaction=False)
            for entry in entries:
                pipeline.xrange(self._view.keys.column("failures"), entry, entry)
            replies: list[Any] = pipeline.execute()
            return replies

        replies = self._view.link.call(read) if entries else []
        # The stream is bounded: an entry may be gone.
        return [_failure(int(name.split(b"-")[0]), fields) for reply in replies for name, fields in reply]

    def _read_page(self, client: Any) -> list[Any]:
        page: list[Any] = client.xrange(self._view.keys.column("failures"), self._cursor, "+", PAGE)
        return page

    def _with_hosts(self, found: list[Execution]) -> list[Execution]:
        hosts = hosts_by_worker(self._view, (one.worker or "" for one in found))
        return [one._replace(host=hosts.get(one.worker or "")) for one in found]


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


def _text(value: bytes | None) -> str:
    return (value or b"").decode(errors="replace")


def _time(time_ms: float | None) -> datetime | None:
    return None if time_ms is None else datetime.fromtimestamp(time_ms / 1000, UTC)
