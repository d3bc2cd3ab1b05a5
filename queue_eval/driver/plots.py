"""`Evaluator.plot`: the panels of the views, drawn by matplotlib (extra ``plot``)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from queue_eval.campaign.commands import CampaignCommands
from queue_eval.errors import UsageError
from queue_eval.views import panels
from queue_eval.views.curves import Curves
from queue_eval.views.numbers import WHOLE
from queue_eval.views.standing import Standing, StandingReader
from queue_eval.views.strips import strips

_READ_S = 60.0
_COLOURS = {"s": "#4477aa", "f": "#cc3311", "c": "#bbbbbb", "r": "#ddaa33"}
"""By the first letter of a state. Blue, red and yellow differ for the colour-blind, too (Paul Tol)."""


def plot(
    queue: CampaignCommands, kind: str, *, key: str | None, direction: str, ax: Any = None
) -> Any:
    """Draw one panel into `ax`, or into axes of its own. Returns the axes.

    Raises UsageError for an unknown kind or key, and when matplotlib is missing.
    """
    if kind not in _KINDS:
        raise UsageError(f"there is no plot {kind!r}; give one of: {', '.join(_KINDS)}")
    if direction not in ("max", "min"):
        raise UsageError(f'direction is {direction!r}; give "max" or "min"')
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise UsageError("plots need matplotlib; install it with: pip install 'queue-eval[plot]'") from error
    reader = StandingReader(queue, key=key, direction=direction)
    try:
        standing = reader.read(_READ_S, to_the_end=True)
        keys = standing.overview.summary.keys
        if key is not None and keys and key not in keys:
            raise UsageError(f"no result has a number {key!r}; they have: {', '.join(filter(None, keys))}")
        axes = pyplot.subplots()[1] if ax is None else ax
        _KINDS[kind](_Drawing(queue, reader, standing, key, direction, axes))
    finally:
        reader.close()
    return axes


class _Drawing:
    def __init__(
        self, queue: CampaignCommands, reader: StandingReader, standing: Standing, key: str | None,
        direction: str, axes: Any,
    ) -> None:  # fmt: skip
        self.queue, self.reader, self.standing = queue, reader, standing
        self.key, self.direction, self.axes = key, direction, axes
        self.course = panels.course(standing.overview.summary, key, direction)
        axes.set_title(standing.campaign)


def _objective(drawing: _Drawing) -> None:
    """Values as they came, the best so far, and where jobs failed."""
    course, axes = drawing.course, drawing.axes
    numbers = course["number"]
    values = course["high" if drawing.direction == "max" else "low"]
    known = [(n, value) for n, value in zip(numbers, values, strict=True) if value is not None]
    if known:
        axes.plot(*zip(*known, strict=True), ".", color=_COLOURS["s"], label="result")
    best = [(n, value) for n, value in zip(numbers, course["best"], strict=True) if value is not None]
    if best:
        axes.step(*zip(*best, strict=True), where="post", color="black", label="best so far")
    failed = [n for n, count in zip(numbers, course["failed"], strict=True) if count]
    if failed:
        floor = min((value for _, value in known), default=0)
        axes.plot(failed, [floor] * len(failed), "x", color=_COLOURS["f"], label="failed")
    axes.set_xlabel("jobs finished")
    axes.set_ylabel("result" if course["key"] in (None, WHOLE) else course["key"])
    if known or failed:
        axes.legend()


def _curves(drawing: _Drawing) -> None:
    """What running jobs and the best ones have reported."""
    curves, snapshot = Curves(drawing.queue), drawing.standing.snapshot
    summary = drawing.standing.overview.summary
    ids = curves.chosen(snapshot, summary, drawing.course["key"], drawing.direction)
    drawn = curves.read(snapshot, ids)
    for curve in drawn["curves"]:
        if curve["points"]:
            steps, values = zip(*curve["points"], strict=True)
            drawing.axes.plot(steps, values, label=f"job {curve['id']}")
    drawing.axes.set_xlabel("step")
    drawing.axes.set_ylabel(drawn["name"] or "nothing is reported")
    if drawn["curves"]:
        drawing.axes.legend(fontsize="small")


def _rate(drawing: _Drawing) -> None:
    """Results per second."""
    times = [datetime.fromtimestamp(ms / 1000, UTC) for ms in drawing.course["ms"]]
    drawing.axes.plot(times, drawing.course["rate"], color=_COLOURS["s"])
    drawing.axes.set_ylabel("results per second")


def _slots(drawing: _Drawing) -> None:
    """Who ran what when, a line for each slot."""
    drawn = strips(drawing.queue, drawing.standing.snapshot, drawing.reader.reader.spans())
    for number, lane in enumerate(drawn["lanes"]):
        for start_ms, end_ms, _, state in lane["spans"]:
            start_s = (start_ms - drawn["from_ms"]) / 1000
            length_s = ((end_ms or drawn["to_ms"]) - start_ms) / 1000
            drawing.axes.barh(number, length_s, left=start_s, color=_COLOURS[state], height=0.8)
    names = [f"{lane['worker']} {lane['lane']}" for lane in drawn["lanes"]]
    drawing.axes.set_yticks(range(len(names)), names)
    drawing.axes.set_xlabel("seconds")


_KINDS: dict[str, Callable[[_Drawing], None]] = {
    "objective": _objective, "curves": _curves, "rate": _rate, "slots": _slots,
}  # fmt: skip
