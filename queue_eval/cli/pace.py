"""How fast a campaign goes, and how long it may still take."""

from __future__ import annotations

from dataclasses import dataclass

from queue_eval.campaign.commands import CampaignCommands
from queue_eval.model.moves import Snapshot

SAMPLE = 500
"""Newest results that are looked at."""

_BREAK_MS = 60_000
_BREAK_FACTOR = 20


@dataclass(frozen=True)
class Pace:
    rate_per_s: float | None
    """None: nothing has finished yet."""
    time_left_s: float | None
    """None: nobody knows; 0: nothing is outstanding."""


def pace_of(queue: CampaignCommands, snapshot: Snapshot, created_ms: int, *, is_served: bool = True) -> Pace:
    """The pace of the newest results; how long it may take is not known while nobody serves it."""
    times_ms = [entry.finished_ms for entry in queue.newest(SAMPLE)]
    rate = rate_per_s(times_ms, created_ms, snapshot.now_ms if snapshot.outstanding else None)
    if not snapshot.outstanding:
        return Pace(rate, 0.0)
    goes_on = is_served and not snapshot.paused
    return Pace(rate, snapshot.outstanding / rate if rate and goes_on else None)


def rate_per_s(times_ms: list[int], created_ms: int, now_ms: int | None) -> float | None:
    """Results per second from their times; `now_ms` while work goes on, so that a standstill shows."""
    if not times_ms:
        return None
    recent = _since_the_last_break(sorted(times_ms, reverse=True))
    end_ms = recent[0] if now_ms is None else now_ms
    # n results end n stretches of work; the first began before the oldest of several.
    count, start_ms = (len(recent) - 1, recent[-1]) if len(recent) > 1 else (1, created_ms)
    return count * 1000 / max(1, end_ms - start_ms)


def _since_the_last_break(newest_first: list[int]) -> list[int]:
    """Without what was finished before a long break of the whole campaign, such as a night between runs."""
    for i in range(2, len(newest_first)):
        gap_ms = newest_first[i - 1] - newest_first[i]
        usual_ms = (newest_first[0] - newest_first[i - 1]) / (i - 1)
        if gap_ms > max(_BREAK_MS, _BREAK_FACTOR * usual_ms):
            return newest_first[:i]
    return newest_first
