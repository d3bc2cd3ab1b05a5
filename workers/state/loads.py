"""Whether this worker can load the run function of one campaign, and how it steps aside while it cannot.

::

    can load ──not loaded──▶ judged ──▶ the function's fault: its jobs end with that error
       ▲                       │
       │                       ▼ this worker's fault: jobs are given back, none is asked for during 1 s
       └──── loaded ◀──── one job at a time, to see ────▶ not loaded: twice as long, up to 60 s

Nothing here talks to the server or takes the lock: `LoadOutcomes` does.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from queue_eval.backoff import Backoff
from queue_eval.model.attempt import Token
from queue_eval.model.moves import Settlement

PAUSE_S = (1.0, 60.0)
"""How long a worker that steps aside asks for nothing: the first time, and at most. It doubles each time."""

_MAX_SOURCES = 100
"""How many sources of results are remembered for one campaign."""


@dataclass(frozen=True, slots=True)
class Unloaded:
    """An attempt that has not begun, because its process never loaded the run function."""

    settlement: Settlement
    """How the attempt is settled if that is the function's own fault."""
    reason: str


@dataclass
class Loads:
    """Loading of one campaign's run function; guarded by the lock of `WorkerState`."""

    unloaded: list[Unloaded] = field(default_factory=list)
    """Attempts that are not judged yet. They are held, though no process has them."""
    reason: str = ""
    """Why this worker could not load the run function when it last tried. Drivers and other workers are told
    this; it is empty when there is nothing to tell."""
    sources: set[str] = field(default_factory=set)
    """Sources of this worker's results: the server knows them, or is about to be told."""
    new_sources: dict[str, str] = field(default_factory=dict)
    """Sources that the server does not know yet, and what they are made of (JSON)."""
    revision: int | None = None
    """The last revision that was loaded here, unless the server knows of it."""
    _told_revision: int | None = None
    _backoff: Backoff = field(default_factory=lambda: Backoff(*PAUSE_S))
    _has_paused: bool = False
    """Whether this worker has paused since the run function was last known to load here."""
    _resume_at: float = 0.0
    _is_blamed: bool = False
    _probes: set[Token] = field(default_factory=set)

    def reset(self) -> None:
        """Forget all failures: another revision of the campaign may load."""
        self.reason, self._is_blamed = "", False
        self._end_pauses()

    def succeed(self, revision: int) -> None:
        """A process has loaded the run function."""
        self.reset()
        if revision != self._told_revision:
            self.revision = self._told_revision = revision

    def note_source(self, source: str, parts: str) -> None:
        """A result was made by this code, which consists of `parts` (JSON)."""
        if source not in self.sources and len(self.sources) < _MAX_SOURCES:
            self.sources.add(source)
            self.new_sources[source] = parts

    def blame_function(self, reason: str) -> bool:
        """No worker can load it: its jobs are settled as fast as they come. Returns whether that is new."""
        was_blamed = self._is_blamed
        self.reason, self._is_blamed = reason, True
        self._end_pauses()
        return not was_blamed

    def step_aside(self, now: float, reason: str) -> float | None:
        """Ask for nothing for a while. Returns for how long (s), or None when that is so already."""
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
        """The attempts to be judged; they are returned once."""
        unloaded, self.unloaded = self.unloaded, []
        return unloaded

    @property
    def is_untold(self) -> bool:
        return self.revision is not None or bool(self.new_sources)

    def know(self, revision: int | None, sources: Iterable[str]) -> None:
        """The server has been told this."""
        if self.revision == revision:
            self.revision = None
        for source in sources:
            self.new_sources.pop(source, None)

    def is_paused(self, now: float) -> bool:
        return now < self._resume_at

    def pause_until(self, now: float) -> float | None:
        """When this worker may ask again (monotonic, s); None when it may ask now."""
        return self._resume_at if self.is_paused(now) else None

    def lease(self, tokens: Iterable[Token]) -> None:
        """These attempts were leased. While the run function may not load, they are probes that show it."""
        self._probes = set(tokens) if self._has_paused else set()

    def job_limit(self, in_hand: Iterable[Token], now: float) -> int | None:
        """How many jobs may be asked for; None: no limit. `in_hand`: the attempts that the runner has."""
        if self.unloaded or self.is_paused(now):
            return 0
        if not self._has_paused:
            return None
        return 0 if not self._probes.isdisjoint(in_hand) else 1
