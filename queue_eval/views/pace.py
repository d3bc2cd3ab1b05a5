"""How fast a campaign goes, and how long it may still take."""

from __future__ import annotations

from dataclasses import dataclass

from queue_eval.campaign.commands import CampaignCommands
from queue_eval.model.moves import Snapshot

MAX_SAMPLED_RESULTS = 500
"""The pace is that of so many newest results."""

_MIN_BREAK_MS = 60_000
_MIN_BREAK_FACTOR = 20
"""A gap between two results is a break if it exceeds `_MIN_BREAK_MS` and so many usual gaps."""


@dataclass(frozen=True)
class Pace:
    rate_per_s: float | None
    """None: nothing has finished yet."""
    time_left_s: float | None
    """None: not known; 0: nothing is outstanding."""


def pace_of(queue: CampaignCommands, snapshot: Snapshot, created_ms: int, *, is_served: bool = True) -> Pace:
    """The pace of the newest results. The time left is not known while nobody serves the campaign."""
    times_ms = [entry.finished_ms for entry in queue.newest(MAX_SAMPLED_RESULTS)]
    rate = rate_per_s(times_ms, created_ms, snapshot.now_ms if snapshot.outstanding else None)
    if not snapshot.outstanding:
        return Pace(rate, 0.0)
    goes_on = is_served and not snapshot.paused
    return Pace(rate, snapshot.outstanding / rate if rate and goes_on else None)


def rate_per_s(times_ms: list[int], created_ms: int, now_ms: int | None) -> float | None:
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


def _since_the_last_break(newest_first: list[int]) -> list[int]:
    """The times after the last long break of the whole campaign, such as a night between two runs."""
    for i in range(2, len(newest_first)):
        gap_ms = newest_first[i - 1] - newest_first[i]
        usual_ms = (newest_first[0] - newest_first[i - 1]) / (i - 1)
        if gap_ms > max(_MIN_BREAK_MS, _MIN_BREAK_FACTOR * usual_ms):
            return newest_first[:i]
    return newest_first
