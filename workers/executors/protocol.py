"""The protocol of executors, and the data that passes between them and the worker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from queue_eval.model.attempt import Attempt, Token
from queue_eval.model.moves import Printed
from queue_eval.model.states import Method, Outcome
from queue_eval.runtime.pipe import Setup
from workers.executors.signs import Sign
from workers.slot_board import SlotBoard

NO_INTERPRETER = "no working interpreter here: "
"""`Ended.unloaded` begins so if no process came so far as to load the run function: that cannot be the
function's fault."""


class Ended(NamedTuple):
    """The end of one attempt, whether it was executed or given up."""

    token: Token
    outcome: Outcome
    run_ms: float
    """How long the run function took."""
    slot_ms: float
    """How long the slot was taken, with the time to start."""
    ended_at: float
    """On the monotonic clock (s)."""
    source: str
    body: bytes
    output: bytes
    is_limit: bool = False
    """A memory limit ended it. That is its outcome, even when the worker gets a stop signal."""
    unloaded: str = ""
    """Why no process could be started for it, or could load the run function. Then it has not begun, and
    `outcome` is its outcome if that is the function's own fault. Empty: it has begun."""
    source_parts: dict[str, Any] | None = None
    """What `source` is made of, where that is known."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What an executor executes, and with which means."""

    method: Method
    setup: Setup
    slots: int
    time_limit_s: float | None
    python: str
    revision: int
    """The campaign's revision: each opening gets new processes, which see the code as it is then."""
    board: SlotBoard | None = None
    """Which process owns which slots, over all campaigns of the worker; None where slots own nothing."""
    memory_limit: int | None = None
    """Bytes that one slot may use. Attempts that are forwarded have no such limit."""
    jobs_per_child: int | None = None
    """How many attempts a process may run before it is replaced."""
    library_threads: int | None = None
    """How many threads a library is to use in a process whose slots own no cores; None: as it likes.
    Attempts that are forwarded have no such limit: where they run there may be other cores."""
    campaign: str = ""
    """The name of the campaign, as user code is told."""


class Executor(Protocol):
    """Executes the attempts of one campaign in processes of its own.

    Guarantees: each submitted attempt is reported as ended exactly once, or given back by `take_back` or
    `take_returned`, or forgotten by `forget`. Assumes: all calls come from one thread, which owns the
    selector. Files registered with it carry a callable as their data, to be called when they are ready.
    """

    @property
    def slots(self) -> int:
        """How many attempts of one slot may run at once.

        There are fewer than planned while abandoned threads take some. An executor that forwards has none
        while its backend is away, and else as many as the backend has room for.
        """

    @property
    def children(self) -> int:
        """How many processes it has."""

    @property
    def departing(self) -> int:
        """How many more processes are ending."""

    @property
    def trouble(self) -> str:
        """Why nothing that is forwarded runs, for drivers that wait for it; "" when all is well."""

    def submit(self, attempts: Sequence[Attempt]) -> None:
        """Begin as many attempts as there is room for; keep the others waiting, in order. Without attempts,
        an executor that forwards asks its backend how much room there is."""

    def forget(self, tokens: Sequence[Token], *, begun: bool) -> list[Token]:
        """Drop these attempts without a report, running ones only when `begun`. Returns which."""

    def notify(self, tokens: Sequence[Token], word: str) -> None:
        """Tell attempts that were forwarded what `stop_requested` is to show them. The others find it in a
        file (see `queue_eval.runtime.mailroom`)."""

    def take_signs(self) -> list[Sign]:
        """What running attempts have told of themselves since the last call, in order. An attempt that
        `collect` has reported as ended since then told all that it had to tell."""

    def take_printed(self, now: float) -> list[Printed]:
        """What running attempts have printed since they were last told of: of each at most once a second, and
        the newest part. Not of those that have just begun."""

    def take_stopped(self) -> list[Ended]:
        """Attempts that `forget` has stopped since the last call, and that had printed something."""

    def take_back(self, submitted_before: float) -> list[Token]:
        """Give up attempts that have not begun and were submitted before `submitted_before` (monotonic, s).
        Attempts that were forwarded follow later, by `take_returned` or `collect`."""

    def take_returned(self) -> list[Token]:
        """Attempts that have come back since the last call without having begun."""

    def collect(self, now: float) -> list[Ended]:
        """The attempts that have ended since the last call. Enforces limits and replaces dead processes."""

    def take_load(self) -> bool:
        """Whether a process has loaded the run function since the last call."""

    def next_deadline(self) -> float | None:
        """When `collect` must be called at the latest (monotonic, s)."""

    def begun(self) -> list[Token]:
        """The attempts that are running."""

    def waiting(self) -> int:
        """How many attempts have not begun."""

    def close(self, *, wait: bool = True) -> list[Token]:
        """End everything. Returns the attempts that were running or waiting. May be called twice.

        Busy processes are killed, idle ones may end by themselves. Without `wait`, processes may still be on
        their way out, and the worker's `Departures` wait for them.
        """
