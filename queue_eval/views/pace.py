"""How fast a campaign goes, and how long it may still take."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from queue_eval.campaign.places import Place, places_of
from queue_eval.campaign.view import CampaignView
from queue_eval.model.codec import decode
from queue_eval.model.moves import Snapshot
from queue_eval.model.states import State

MAX_SAMPLED_RESULTS = 500
"""The pace is that of so many newest results."""

_MIN_BREAK_MS = 60_000
_MIN_BREAK_FACTOR = 20
"""A gap between two results is a break if it exceeds `_MIN_BREAK_MS` and so many usual gaps."""

_MAX_SAMPLED_RUNNING = 50
_MAX_SAMPLED_REPORTS = 5

_STEP_KEYS = tuple(
    prefix + name + ending
    for name in ("epoch", "step", "iteration", "iter", "round")
    for prefix in ("", "n_", "num_", "max_", "total_")
    for ending in ("s", "")
)
"""What configs call the number of steps that a job takes."""


@dataclass(frozen=True)
class Pace:
    rate_per_s: float | None
    """None: nothing has finished yet."""
    time_left_s: float | None
    """None: not known; 0: nothing is outstanding, and no more is planned."""
    is_guess: bool = False
    """Nothing has finished yet: the time left is judged by the jobs that run."""


def pace_of(
    view: CampaignView, snapshot: Snapshot, times_ms: Sequence[int], created_ms: int, *,
    is_served: bool = True,
) -> Pace:  # fmt: skip
    """The pace of the newest results, and the time left for all the jobs that are planned. The time left is
    not known while nobody serves the campaign.

    `times_ms`: when the newest results came (Unix), the newest last.
    """
    left = snapshot.planned - snapshot.finished
    rate = rate_per_s(times_ms, created_ms, snapshot.now_ms if snapshot.outstanding else None)
    if not left:
        return Pace(rate, 0.0)
    if not is_served or snapshot.paused:
        return Pace(rate, None)
    if rate:
        return Pace(rate, left / rate)
    return Pace(None, _guessed_left_s(view, snapshot), is_guess=True)


def newest_times_ms(view: CampaignView) -> list[int]:
    """When the newest results came, the newest last."""
    return [entry.finished_ms for entry in reversed(view.newest(MAX_SAMPLED_RESULTS))]


def rate_per_s(times_ms: Sequence[int], created_ms: int, now_ms: int | None) -> float | None:
    """Results per second, from the times at which they finished.

    `now_ms`: given while work goes on, so that the rate falls during a standstill.
    """
    if not times_ms:
        return None
    recent = _since_the_last_break(sorted(times_ms, reverse=True))
    end_ms = recent[0] if now_ms is None else now_ms
    # n results end n stretches of work; the first began before the oldest of several.
    count, start_ms = (len(recent) - 1, recent[-1]) if len(recent) > 1 else (1, created_ms)
    return count * 1000 / max(1, end_ms - start_ms)


def expected_s(age_s: float, config: Any, step: int | None) -> float:
    """How long a job will run in all that has run for `age_s` and has come to `step` (None: it tells none).

    From its steps if its config tells how many there are, else twice its age: of something of which only the
    age is known, about half is over (Gott, 1993).
    """
    steps = _steps_of(config)
    if step is not None and steps is not None and 0 < step <= steps:
        return age_s * steps / step
    return 2 * age_s


def _guessed_left_s(view: CampaignView, snapshot: Snapshot) -> float | None:
    """How long the campaign may still take, by the jobs that run. None while none runs."""
    ids = view.running_ids(snapshot, _MAX_SAMPLED_RUNNING)
    running = [place for place in places_of(view, ids, with_origins=True) if place.began_ms is not None]
    slots = snapshot.counts[State.RUNNING]
    if not running or not slots:
        return None
    steps = _newest_steps(view, running)
    ages_s = [max(0, snapshot.now_ms - (place.began_ms or 0)) / 1000 for place in running]
    whole_s = [
        expected_s(age_s, _config_of(place), steps.get(place.id))
        for place, age_s in zip(running, ages_s, strict=True)
    ]
    rounds_s = statistics.median(whole_s) * math.ceil((snapshot.planned - snapshot.finished - slots) / slots)
    return statistics.median(w - a for w, a in zip(whole_s, ages_s, strict=True)) + rounds_s


def _newest_steps(view: CampaignView, running: Sequence[Place]) -> dict[int, int]:
    """The step of the newest report of a few of these jobs."""
    found: dict[int, int] = {}
    heads = view.report_heads([place.id for place in running])
    for place, head in zip(running, heads, strict=True):
        if head is not None and head.attempt == place.attempt and len(found) < _MAX_SAMPLED_REPORTS:
            reports = view.reports_of(place.id, (head.attempt, head.number - 1))
            if reports:
                found[place.id] = reports[-1][1].step
    return found


def _config_of(place: Place) -> Any:
    try:
        return decode(place.origin.config) if place.origin is not None else None
    except ValueError:
        return None


def _steps_of(config: Any) -> int | None:
    if not isinstance(config, Mapping):
        return None
    found = [config[key] for key in _STEP_KEYS if type(config.get(key)) is int]
    return found[0] if len(found) == 1 else None


def _since_the_last_break(newest_first: list[int]) -> list[int]:
    """The times after the last long break of the whole campaign, such as a night between two runs."""
    for i in range(2, len(newest_first)):
        gap_ms = newest_first[i - 1] - newest_first[i]
        usual_ms = (newest_first[0] - newest_first[i - 1]) / (i - 1)
        if gap_ms > max(_MIN_BREAK_MS, _MIN_BREAK_FACTOR * usual_ms):
            return newest_first[:i]
    return newest_first
