"""Finds pending jobs that none of a campaign's workers could run, however long they wait."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from queue_eval.campaign.registry import WorkerCard
from queue_eval.model.shape import Shape


class Unfit(NamedTuple):
    """Why no worker could run the jobs of a shape."""

    shape: Shape
    most: int
    """The most slots, or seconds from its start, that a worker has."""
    is_too_wide: bool
    """Whether it is slots that they lack; else it is time."""

    @property
    def why(self) -> str:
        """Behind "a job"."""
        if self.is_too_wide:
            return f"takes {self.shape.slots} slots, and no worker that serves it has more than {self.most}"
        with_slots = f" with {self.shape.slots} slots" if self.shape.slots > 1 else ""
        return (
            f"asks for {self.shape.time_s} s (time_request), and no worker{with_slots} that serves it has "
            f"more than {self.most} s from its start"
        )

    @property
    def words(self) -> tuple[str, ...]:
        """What the command of a worker that could run them has to say."""
        return ("-n", str(self.shape.slots)) if self.shape.slots > 1 else ()


def find_unfit(shapes: Iterable[Shape], serving: Sequence[WorkerCard]) -> list[Unfit]:
    """Those of these shapes that none of these workers could run, even right after its start.

    Nothing without workers: then that is what the jobs wait for.
    """
    found = []
    widest = max((card.slots or 0 for card in serving), default=0)
    for shape in shapes if serving else ():
        if any(card.could_run(shape) for card in serving):
            continue
        if shape.slots > widest:
            found.append(Unfit(shape, widest, is_too_wide=True))
        else:
            times_s = [card.longest_job_s or 0 for card in serving if (card.slots or 0) >= shape.slots]
            found.append(Unfit(shape, int(max(times_s)), is_too_wide=False))
    return found
