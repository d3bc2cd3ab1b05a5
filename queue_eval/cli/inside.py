"""What a job has told of itself while it ran, as `job` and `status` show it: reports, its checkpoint."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from queue_eval.campaign.commands import CampaignCommands
from queue_eval.campaign.keys import DEFAULT_QUEUE
from queue_eval.campaign.registry import LiveWorker, live_workers
from queue_eval.driver.checkpoint_disk import CheckpointDisk
from queue_eval.model.report import Report
from queue_eval.model.shape import Shape
from queue_eval.model.states import State
from queue_eval.model.table_cells import finite
from queue_eval.views.formats import iso, shorten
from queue_eval.views.reasons import OFTEN_GIVEN_BACK, Reason, Reasons
from queue_eval.views.records import JobRecord
from queue_eval.views.unfit import Unfit, find_unfit


class Told(NamedTuple):
    """What one job has told of itself."""

    kept: int
    """Reports on the server; `dropped` more were thinned out, or exceeded what a job may report."""
    dropped: int
    last: Report | None
    checkpoint: dict[str, Any] | None
    passed_over_ms: int | None
    """It waits, and since when (Unix) workers that do not see its checkpoint leave it to others."""
    began_anew: int | None
    """The attempt that runs, on a worker that does not see its checkpoint."""
    is_stop_asked: bool
    given_back: int
    """How often it was given back in a row without a new checkpoint."""
    shape: Shape
    """The slots that it takes, and the time that it asks for."""
    lacked_time: int
    """How often in a row it was given back for lack of time, unless its submission has asked for time."""
    unfit: str
    """Why none of the workers could run it, however long it waits; else empty."""
    reasons: list[Reason]
    """Why it waits or began anew, as far as its shape and its checkpoint are the reason."""

    def as_json(self) -> dict[str, Any]:
        last = None
        if self.last is not None:
            last = self.last._asdict() | {"at": iso(self.last.at.timestamp() * 1000)}
        return {
            "reports": {"kept": self.kept, "dropped": self.dropped, "last": finite(last)},
            "checkpoint": self.checkpoint,
            "passed_over_since": iso(self.passed_over_ms),
            "began_anew": self.began_anew,
            "stop_asked": self.is_stop_asked,
            "given_back_in_a_row": self.given_back,
            "slots": self.shape.slots,
            "time_request": self.shape.time_s or None,
            "time_lacked_in_a_row": self.lacked_time,
            "unfit": self.unfit or None,
        }

    def lines(self) -> list[tuple[str, str]]:
        """(label, text) for people, of what there is to tell."""
        found = []
        if self.shape.time_s:
            since = f", since {self.lacked_time} attempts lacked it" if self.lacked_time else ""
            found.append(("asks for", f"{self.shape.time_s} s of its worker's time{since}"))
        if self.last is not None:
            values = ", ".join(f"{name}={value:.6g}" for name, value in self.last.values.items())
            dropped = f", and {self.dropped} dropped" if self.dropped else ""
            last = shorten(f"step {self.last.step}, {values}", 200)
            found.append(("reports", f"{self.kept}{dropped}; the last: {last}"))
        if self.checkpoint is not None:
            where = self.checkpoint["path"] or "not in its folder on this machine"
            attempt, save = self.checkpoint["attempt"], self.checkpoint["save"]
            found.append(("checkpoint", f"save {save} of attempt {attempt}; {where}"))
        found += [("why", reason.text) for reason in self.reasons]
        if self.is_stop_asked:
            found.append(("stop", "it was asked to stop early"))
        if self.given_back > 1:
            found.append(("given back", f"{self.given_back} times in a row without a new checkpoint"))
        return found


def read_told(queue: CampaignCommands, meta: dict[str, bytes], record: JobRecord) -> Told:
    """What the server has of it."""
    job_id, is_waiting = record.id, record.state is State.PENDING
    label = meta.get("queue", b"").decode(errors="replace") or DEFAULT_QUEUE
    (head,), (checkpoint,), (asked,) = (
        queue.report_heads([job_id]), queue.checkpoints_of([job_id]), queue.stops_of([job_id])
    )  # fmt: skip
    reports = queue.reports_of(job_id, (head.attempt, head.number - 1)) if head is not None else []
    often = dict(queue.give_backs(1)).get(job_id, 0)
    since_ms, anew = queue.distant_of([job_id])[0] if checkpoint is not None else (0, 0)
    (shape,), (lacked_time,) = queue.shapes_of([job_id]), queue.time_lacks_of([job_id])
    live = live_workers(queue.link) if is_waiting else []
    unfit = next((job for job in unfit_jobs(queue, label, live) if job.shape == shape), None)
    passed_over_ms = since_ms if is_waiting and since_ms else None
    began_anew = anew if record.state is State.RUNNING and anew else None
    words, subject = Reasons(queue.campaign, queue.link.access), f"job {job_id}"
    reasons = [
        *([] if unfit is None else [words.unfit(subject, unfit)]),
        *([] if passed_over_ms is None else [words.checkpoint_elsewhere(subject, passed_over_ms)]),
        *([] if began_anew is None else [words.began_anew(subject, began_anew)]),
    ]
    return Told(
        kept=head.points if head is not None else 0,
        dropped=head.dropped if head is not None else 0,
        last=reports[-1][1] if reports else None,
        checkpoint=None if checkpoint is None else _located(queue, meta, job_id, checkpoint),
        passed_over_ms=passed_over_ms,
        began_anew=began_anew,
        is_stop_asked=asked,
        given_back=often,
        shape=shape,
        lacked_time=lacked_time,
        unfit=unfit.why if unfit is not None else "",
        reasons=reasons,
    )


def _located(
    queue: CampaignCommands, meta: dict[str, bytes], job_id: int, checkpoint: str
) -> dict[str, Any]:
    attempt, save, place = checkpoint.split(" ")
    disk = CheckpointDisk.of(queue.campaign, meta)
    path = None if disk is None else disk.find(job_id, int(attempt), int(save))
    return {
        "attempt": int(attempt), "save": int(save), "place": place,
        "path": None if path is None else str(path),
    }  # fmt: skip


def unfit_jobs(queue: CampaignCommands, label: str, live: Iterable[LiveWorker]) -> list[Unfit]:
    """The shapes of pending jobs that none of the live workers could run."""
    cards = [worker.card for worker in live if worker.card.serves(queue.campaign, label)]
    return find_unfit(queue.pending_shapes(), cards)


def given_back_often(queue: CampaignCommands) -> dict[int, int]:
    """Id -> how often in a row it was given back without a new checkpoint, where that is often."""
    return dict(queue.give_backs(OFTEN_GIVEN_BACK))
