"""Whether this worker can load the run function of one campaign, and how it steps aside while it cannot.

::

    can load ──not loaded──▶ judged ──▶ the function's fault: its jobs end with that error
       ▲                       │
       │                       ▼ this worker's fault: given back, nothing is asked for 1 s
       └──── loaded ◀──── one job at a time, to see ────▶ not loaded: twice as long, up to 60 s

Nothing here talks to the server, nor locks: the book does.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from queue_eval.backoff import Backoff
from queue_eval.model.attempt import Token
from queue_eval.model.moves import Settlement

PAUSE_S = (1.0, 60.0)
"""A worker that steps aside asks for nothing for so long: the first time, doubled up to the last."""

_MOST_SOURCES = 100


@dataclass(frozen=True, slots=True)
class Unloaded:
    """An attempt that has not begun, for its process never loaded the run function."""

    settlement: Settlement
    """What it comes to if that is the function's own fault."""
    reason: str


@dataclass
class Loads:
    """Of one campaign; guarded by the lock of the book."""

    unloaded: list[Unloaded] = field(default_factory=list)
    """Not judged yet. They are held, though no process has them."""
    reason: str = ""
    """Why the run function was not loaded when this worker last tried, as drivers and other workers are to be
    told; empty when there is nothing to tell."""
    sources: set[str] = field(default_factory=set)
    """Sources of results of this worker: the server knows them, or is about to be told."""
    new_sources: dict[str, str] = field(default_factory=dict)
    """Those that it has not been told of, and what they are made of (JSON)."""
    revision: int | None = None
    """The last one that was loaded here and that the server has not been told of."""
    _told: int | None = None
    _backoff: Backoff = field(default_factory=lambda: Backoff(*PAUSE_S))
    _has_paused: bool = False
    """Since it was last known to load here."""
    _resume_at: float = 0.0
    _is_blamed: bool = False
    _probes: set[Token] = field(default_factory=set)

    def reset(self) -> None:
        """Another revision of the campaign: what was seen before says nothing about it."""
        self.reason, self._is_blamed = "", False
        self._end_pauses()

    def succeed(self, revision: int) -> None:
        """A process has loaded the run function."""
        self.reset()
        if revision != self._told:
            self.revision = self._told = revision

    def note_source(self, source: str, told: str) -> None:
        """A result is of this code."""
        if source not in self.sources and len(self.sources) < _MOST_SOURCES:
            self.sources.add(source)
            self.new_sources[source] = told

    def blame_function(self, reason: str) -> bool:
        """Nobody can load it: its jobs are settled as fast as they come. Whether that is new."""
        was_blamed = self._is_blamed
        self.reason, self._is_blamed = reason, True
        self._end_pauses()
        return not was_blamed

    def step_aside(self, now: float, reason: str) -> float | None:
        """Ask for nothing for a while (s), which is returned; None when that is so already."""
        self.reason, self._is_blamed = reason, False
        if self.is_paused(now):
            return None
        pause_s = self._backoff.next_s()
        self._has_paused, self._resume_at = True, now + pause_s
        return pause_s

    def _end_pauses(self) -> None:
        self._has_paused, self._resume_at = False, 0.0
        self._backoff.reset()

    def take_unloaded(self) -> list[Unloaded]:
        """What is to be judged, once."""
        unloaded, self.unloaded = self.unloaded, []
        return unloaded

    @property
    def is_untold(self) -> bool:
        return self.revision is not None or bool(self.new_sources)

    def know(self, revision: int | None, sources: Iterable[str]) -> None:
        """The server has been told of this."""
        if self.revision == revision:
            self.revision = None
        for source in sources:
            self.new_sources.pop(source, None)

    def is_paused(self, now: float) -> bool:
        return now < self._resume_at

    def pause_until(self, now: float) -> float | None:
        """When to ask again, if not now."""
        return self._resume_at if self.is_paused(now) else None

    def lease(self, tokens: Iterable[Token]) -> None:
        """These were leased; while it is not known whether they can be loaded, they are to show it."""
        self._probes = set(tokens) if self._has_paused else set()

    def most(self, in_hand: Iterable[Token], now: float) -> int | None:
        """How many jobs may be asked for; None for no limit. `in_hand`: the attempts that the runner has."""
        if self.unloaded or self.is_paused(now):
            return 0
        if not self._has_paused:
            return None
        return 0 if not self._probes.isdisjoint(in_hand) else 1
