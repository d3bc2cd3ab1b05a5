"""One job whole, as its page shows it, and again while it changes."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any

from queue_eval.campaign.commands import CampaignCommands
from queue_eval.campaign.executions import ExecutionReader
from queue_eval.campaign.places import place_of
from queue_eval.model.job import Execution
from queue_eval.model.states import Outcome, State
from queue_eval.model.table_cells import finite
from queue_eval.views.curves import Curves
from queue_eval.views.records import JobRecordReader
from queue_eval.views.standing import Standing

_MOST_CHARACTERS = 256 * 1024
"""Of an output or an error the page shows so much of the end."""


class JobPages:
    """Reads jobs, again and again; a look at one that has not changed costs a few small calls.

    Assumes: one thread at a time.
    """

    def __init__(self, queue: CampaignCommands) -> None:
        self._queue = queue
        self._executions = ExecutionReader(queue)
        self._records: JobRecordReader | None = None
        self._curves: dict[int, Curves] = {}
        self._settled: dict[int, tuple[Any, dict[str, Any]]] = {}
        """Of each job where it was, and what was read of it then."""

    def read(self, job: int, name: str | None, standing: Standing) -> dict[str, Any] | None:
        """The document of a job; None where there is no such job."""
        place = place_of(self._queue, job)
        known = self._settled.get(job)
        if known is None or known[0] != place:
            whole = self._whole(job)
            if whole is None:
                return None
            known = self._settled[job] = (place, whole)
        curves = self._curves.setdefault(job, Curves(self._queue))
        waits = known[1]["state"] in (State.PENDING, State.SCHEDULED)
        return known[1] | {
            "reports": curves.read(standing.snapshot, [job], name),
            "stop_asked": self._queue.stops_of([job])[0],
            "reasons": standing.reasons_as_json() if waits else [],
        }

    def keep_only(self, jobs: Collection[int]) -> None:
        """Forget what was read of other jobs."""
        self._curves = {job: curves for job, curves in self._curves.items() if job in jobs}
        self._settled = {job: known for job, known in self._settled.items() if job in jobs}

    def _whole(self, job: int) -> dict[str, Any] | None:
        self._records = self._records or JobRecordReader(self._queue)
        records = self._records.of([job])
        if not records:
            return None
        record = records[0].as_json()
        output = (self._queue.outputs_of([job])[0] or b"").decode(errors="replace")
        document: dict[str, Any] = finite(record)
        document["error"] = _end_of(record["error"])
        return document | {
            "attempts_charged": record["attempts"],
            "attempts": [_attempt(one) for one in self._executions.executions_of(job)],
            "output": _end_of(output),
        }


def _attempt(one: Execution) -> dict[str, Any]:
    return {
        "attempt": one.number,
        "outcome": one.cause or (Outcome.OK.value if one.outcome == State.SUCCEEDED else one.outcome),
        "worker": one.worker,
        "host": one.host,
        "started_ms": _ms(one.started_at),
        "ended_ms": _ms(one.finished_at),
        "run_s": one.run_s,
        "error": _end_of(one.error),
        "output": _end_of(one.output),
    }


def _end_of(text: str | None) -> str | None:
    if text is None or len(text) <= _MOST_CHARACTERS:
        return text
    return f"[… {len(text) - _MOST_CHARACTERS} characters before]\n{text[-_MOST_CHARACTERS:]}"


def _ms(time: datetime | None) -> int | None:
    return None if time is None else round(time.timestamp() * 1000)
