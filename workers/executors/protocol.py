"""What the worker asks of an executor, and the data that passes between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from queue_eval.model.attempt import Attempt, Token
from queue_eval.model.states import Method, Outcome
from queue_eval.runtime.pipe import Setup
from workers.slot_board import SlotBoard

NO_INTERPRETER = "no working interpreter here: "
"""How `Ended.unloaded` begins where no process came so far as to load the run function: that cannot be the
function's fault."""


class Ended(NamedTuple):
    """One execution that was made, or given up."""

    token: Token
    outcome: Outcome
    run_ms: float
    """How long the run function took."""
    slot_ms: float
    """How long the slot was taken, with whatever it took to start."""
    ended_at: float
    """On the monotonic clock (s)."""
    source: str
    body: bytes
    output: bytes
    is_limit: bool = False
    """A limit on its memory ended it: that is its outcome, whatever else happened to the worker."""
    unloaded: str = ""
    """Why no process was found, started or able to load the run function for it: it has not begun, and
    `outcome` is what it comes to if that is the function's own fault. Empty: it has begun."""
    told: dict[str, Any] | None = None
    """What `source` is made of, where that is known."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What an executor executes, and with how much."""

    method: Method
    setup: Setup
    slots: int
    time_limit_s: float | None
    python: str
    revision: int
    """Of the campaign: each opening gets new processes, which see the code as it is then."""
    board: SlotBoard | None = None
    """Where slots own something: which are whose, over all campaigns of the worker."""
    memory_limit: int | None = None
    """Bytes that one slot may use; not for attempts that are forwarded."""
    jobs_per_child: int | None = None
    """How many attempts a process may run before it is replaced."""
    library_threads: int | None = None
    """How many threads a library is to use in a process whose slots own no cores; None: as it likes. Not for
    attempts that are forwarded: where they run there may be other cores."""
    campaign: str = ""
    """Whose jobs these are, as user code is told."""


class Executor(Protocol):
    """Executes the attempts of one campaign in processes of its own.

    Guarantees: each submitted attempt is reported as ended exactly once, or given back by `take_back` or
    `take_returned`, or forgotten by `forget`. Assumes: all calls come from one thread, which owns the
    selector. Files registered with it carry a callable as their data, to be called when they are ready.
    """

    @property
    def slots(self) -> int:
        """Attempts of one slot that may run at once: fewer than planned while abandoned threads take some;
        none while those that it forwards to are away, and as many as they have room for when they are
        there."""

    @property
    def children(self) -> int:
        """How many processes it has."""

    @property
    def departing(self) -> int:
        """How many more are ending."""

    @property
    def trouble(self) -> str:
        """Why nothing that is forwarded runs, for those who wait for it; "" when all is well."""

    def submit(self, attempts: Sequence[Attempt]) -> None:
        """Begin as many as there is room for; keep the others waiting, in order. With none, one that forwards
        asks how much room there is."""

    def forget(self, tokens: Sequence[Token], *, begun: bool) -> list[Token]:
        """Drop these attempts without a report, those that are running only when `begun`; return which."""

    def take_stopped(self) -> list[Ended]:
        """What those had printed that `forget` has stopped since the last call, where that is known."""

    def take_back(self, waiting_since: float) -> list[Token]:
        """Give up attempts that have not begun and were submitted before `waiting_since` (monotonic, s);
        those that were forwarded follow later, by `take_returned` or `collect`."""

    def take_returned(self) -> list[Token]:
        """Attempts that have come back since the last call, not begun."""

    def collect(self, now: float) -> list[Ended]:
        """What has ended since the last call; enforces time limits and replaces dead processes."""

    def take_load(self) -> bool:
        """Whether a process has loaded the run function since the last call."""

    def next_deadline(self) -> float | None:
        """When `collect` must be called at the latest (monotonic, s)."""

    def begun(self) -> list[Token]:
        """The attempts that are running."""

    def waiting(self) -> int:
        """How many attempts have not begun."""

    def close(self, *, wait: bool = True) -> list[Token]:
        """End everything; return the attempts that were running or waiting. What runs is killed, idle
        processes may end by themselves. Without `wait`, processes may be on their way out; the departures of
        the worker wait for these. May be called twice."""
