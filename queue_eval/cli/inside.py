"""What a job has told of itself while it ran, as `job` and `status` show it: reports, its checkpoint."""

from __future__ import annotations

from typing import Any, NamedTuple

from queue_eval.campaign.commands import CampaignCommands
from queue_eval.cli.output import iso, shorten
from queue_eval.driver.checkpoint_disk import CheckpointDisk
from queue_eval.driver.service import OFTEN_GIVEN_BACK
from queue_eval.model.report import Report
from queue_eval.model.table_cells import finite


class Told(NamedTuple):
    """What one job has told of itself."""

    kept: int
    """Reports on the server; `dropped` more were thinned out, or exceeded what a job may report."""
    dropped: int
    last: Report | None
    checkpoint: dict[str, Any] | None
    is_stop_asked: bool
    given_back: int
    """How often it was given back in a row without a new checkpoint."""

    def as_json(self) -> dict[str, Any]:
        last = None
        if self.last is not None:
            last = self.last._asdict() | {"at": iso(self.last.at.timestamp() * 1000)}
        return {
            "reports": {"kept": self.kept, "dropped": self.dropped, "last": finite(last)},
            "checkpoint": self.checkpoint,
            "stop_asked": self.is_stop_asked,
            "given_back_in_a_row": self.given_back,
        }

    def lines(self) -> list[tuple[str, str]]:
        """(label, text) for people, of what there is to tell."""
        found = []
        if self.last is not None:
            values = ", ".join(f"{name}={value:.6g}" for name, value in self.last.values.items())
            dropped = f", and {self.dropped} dropped" if self.dropped else ""
            last = shorten(f"step {self.last.step}, {values}", 200)
            found.append(("reports", f"{self.kept}{dropped}; the last: {last}"))
        if self.checkpoint is not None:
            where = self.checkpoint["path"] or "not in its folder on this machine"
            attempt, save = self.checkpoint["attempt"], self.checkpoint["save"]
            found.append(("checkpoint", f"save {save} of attempt {attempt}; {where}"))
        if self.is_stop_asked:
            found.append(("stop", "it was asked to stop early"))
        if self.given_back > 1:
            found.append(("given back", f"{self.given_back} times in a row without a new checkpoint"))
        return found


def read_told(queue: CampaignCommands, meta: dict[str, bytes], job_id: int) -> Told:
    """What the server has of it."""
    (head,), (checkpoint,), (asked,) = (
        queue.report_heads([job_id]), queue.checkpoints_of([job_id]), queue.stops_of([job_id])
    )  # fmt: skip
    reports = queue.reports_of(job_id, (head.attempt, head.number - 1)) if head is not None else []
    often = dict(queue.give_backs(1)).get(job_id, 0)
    return Told(
        kept=head.points if head is not None else 0,
        dropped=head.dropped if head is not None else 0,
        last=reports[-1][1] if reports else None,
        checkpoint=None if checkpoint is None else _located(queue, meta, job_id, checkpoint),
        is_stop_asked=asked,
        given_back=often,
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


def given_back_often(queue: CampaignCommands) -> dict[int, int]:
    """Id -> how often in a row it was given back without a new checkpoint, where that is often."""
    return dict(queue.give_backs(OFTEN_GIVEN_BACK))
