"""One job whole, as its page shows it, and again while it changes."""

from __future__ import annotations

import time
from collections.abc import Collection
from datetime import datetime
from typing import Any, NamedTuple

from queue_eval.campaign.commands import CampaignCommands
from queue_eval.campaign.executions import ExecutionReader
from queue_eval.campaign.places import Place, place_of
from queue_eval.model.job import Execution
from queue_eval.model.states import Outcome, State
from queue_eval.model.table_cells import finite
from queue_eval.views.curves import Curves
from queue_eval.views.explaining import Explainer, Found
from queue_eval.views.output_lines import lines_of
from queue_eval.views.records import JobRecordReader
from queue_eval.views.standing import Standing

_MOST_CHARACTERS = 256 * 1024
"""Of an output or an error the page shows so much of the end."""

_EXPLAINED_EVERY_S = 5.0
"""Why a job waits is looked up anew so often while it stands where it is."""


class _Known(NamedTuple):
    """What was read of a job that stands where it stood then."""

    place: Place
    document: dict[str, Any]
    reasons: list[dict[str, str]]
    explained_at: float


class JobPages:
    """Reads jobs, again and again; a look at one that has not changed costs a few small calls.

    Assumes: one thread at a time.
    """

    def __init__(self, queue: CampaignCommands) -> None:
        self._queue = queue
        self._executions = ExecutionReader(queue)
        self._records: JobRecordReader | None = None
        self._curves: dict[int, Curves] = {}
        self._known: dict[int, _Known] = {}

    def read(self, job: int, name: str | None, standing: Standing) -> dict[str, Any] | None:
        """The document of a job; None where there is no such job."""
        place = place_of(self._queue, job)
        known = self._known.get(job)
        if known is None or known.place != place:
            document = self._whole(job)
            if document is None:
                return None
            known = _Known(place, document, self._reasons(job, standing), time.monotonic())
        elif place.entry is None and time.monotonic() >= known.explained_at + _EXPLAINED_EVERY_S:
            known = known._replace(reasons=self._reasons(job, standing), explained_at=time.monotonic())
        self._known[job] = known
        curves = self._curves.setdefault(job, Curves(self._queue))
        return known.document | {
            "output": self._live_output(place) if place.worker else known.document["output"],
            "reports": curves.read(standing.snapshot, [job], name),
            "stop_asked": self._queue.stops_of([job])[0],
            "reasons": known.reasons,
        }

    def _reasons(self, job: int, standing: Standing) -> list[dict[str, str]]:
        """Why it waits, where it runs, or how it ended."""
        times_ms = list(standing.overview.summary.times_ms)
        found = Found(standing.live, standing.meta, standing.snapshot, times_ms)
        return [reason.as_json() for reason in Explainer(self._queue, found).job(job).reasons]

    def _live_output(self, place: Place) -> str:
        """The newest part of what the attempt that runs has printed."""
        (output,) = self._queue.live_outputs_of([place.id])
        if output is None or output.attempt != place.attempt:
            return ""
        before = f"[… {output.left_out} bytes before]\n" if output.left_out else ""
        return before + _lines(output.text)

    def keep_only(self, jobs: Collection[int]) -> None:
        """Forget what was read of other jobs."""
        self._curves = {job: curves for job, curves in self._curves.items() if job in jobs}
        self._known = {job: known for job, known in self._known.items() if job in jobs}

    def _whole(self, job: int) -> dict[str, Any] | None:
        self._records = self._records or JobRecordReader(self._queue)
        records = self._records.of([job])
        if not records:
            return None
        record = records[0].as_json()
        document: dict[str, Any] = finite(record)
        document["error"] = _end_of(record["error"])
        return document | {
            "attempts_charged": record["attempts"],
            "attempts": [_attempt(one) for one in self._executions.executions_of(job)],
            "output": _end_of(_lines(self._queue.outputs_of([job])[0] or b"")),
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
        "output": _end_of(_lines((one.output or "").encode())),
    }


def _end_of(text: str | None) -> str | None:
    if text is None or len(text) <= _MOST_CHARACTERS:
        return text
    return f"[… {len(text) - _MOST_CHARACTERS} characters before]\n{text[-_MOST_CHARACTERS:]}"


def _lines(output: bytes) -> str:
    """Output without the control sequences that are for terminals."""
    return "\n".join(lines_of(output))


def _ms(moment: datetime | None) -> int | None:
    return None if moment is None else round(moment.timestamp() * 1000)
