"""What is known of a job while it runs: since when, where, and what it has printed last."""

from __future__ import annotations

from typing import Any, NamedTuple

from queue_eval.campaign.places import place_of
from queue_eval.campaign.registry import card_of
from queue_eval.campaign.view import CampaignView
from queue_eval.model.live_output import LiveOutput
from queue_eval.views.formats import iso, shown_duration, shown_time
from queue_eval.views.output_lines import lines_of

SHOWN_LINES = 10


class Running(NamedTuple):
    """The attempt of a job that runs."""

    attempt: int
    worker: str
    pid: int | None
    """Of the worker; None where it is not known."""
    since_ms: int | None
    """When it has begun, by the server's clock (Unix); None where it is not known."""
    now_ms: int
    output: LiveOutput | None
    """None: it has printed nothing, or has just begun."""

    def as_json(self) -> dict[str, Any]:
        output = self.output
        return {
            "attempt": self.attempt,
            "worker": self.worker,
            "pid": self.pid,
            "since": iso(self.since_ms),
            "output": output.text.decode(errors="replace") if output else "",
            "missing": output.left_out if output else 0,
        }

    def summary(self) -> str:
        """One line for people."""
        parts = [f"attempt {self.attempt}"]
        if self.since_ms is not None:
            ran = shown_duration(max(0, self.now_ms - self.since_ms) / 1000)
            parts.append(f"since {shown_time(self.since_ms)} UTC ({ran})")
        if self.pid is not None:
            parts.append(f"pid of its worker {self.pid}")
        return ", ".join(parts)

    def last_lines(self) -> list[str]:
        return lines_of(self.output.text)[-SHOWN_LINES:] if self.output else []


def read_running(view: CampaignView, job_id: int) -> Running | None:
    """None for a job that does not run."""
    place = place_of(view, job_id)
    if not place.worker or not place.has_begun:
        return None
    (output,) = view.live_outputs_of([job_id])
    if output is not None and output.attempt != place.attempt:
        output = None
    card = card_of(view.link, place.worker)
    return Running(
        place.attempt, place.worker, card.pid if card else None, place.began_ms, view.snapshot().now_ms,
        output,
    )  # fmt: skip
