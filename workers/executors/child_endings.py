"""Children of one pool that end or tidy up, and the reports that wait for that.

::

    last report of a child ──▶ retire ──▶ departing ──all that it started is gone──▶ its report goes on
    report, and it has left programs ──▶ tidying ──it has ended them──▶ its report goes on

A report is held back until nothing of its attempt runs any more.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container

from queue_eval.model.attempt import Token
from queue_eval.runtime.pipe import truncate_middle
from workers.executors.child_limit import ChildLimit
from workers.executors.child_process import ChildProcess
from workers.executors.departures import Departure
from workers.executors.protocol import Ended
from workers.slot_board import SlotBoard

TIDY_S = 12.0
"""How long a child may take to end the programs that an attempt has left: twice what that takes at most."""

LAST_OUTPUT_BYTES = 4096
"""How much is kept of what a process prints at its end."""


class ChildEndings:
    """`deliver` is called with each report that need not wait any more."""

    def __init__(
        self, board: SlotBoard | None, limit: ChildLimit, deliver: Callable[[Ended], object]
    ) -> None:  # fmt: skip
        self._board = board
        self._departures = limit.departures
        self._deliver = deliver
        self._departing: dict[Departure, tuple[int, Ended | None]] = {}
        """How many slots each still takes, and the report that waits for it."""
        self._tidying: dict[ChildProcess, tuple[float, Ended | None]] = {}
        """Until when children may end what an attempt has left, and its report."""

    # Tidying --------------------------------------------------------------------------------------------

    def is_tidying(self, child: ChildProcess) -> bool:
        """Whether it ends what an attempt has left: its next attempt has not begun."""
        return child in self._tidying

    def begin_tidying(self, child: ChildProcess, withheld: Ended | None, now: float) -> None:
        self._tidying[child] = (now + TIDY_S, withheld)

    def end_tidying(self, child: ChildProcess) -> Ended | None:
        """The child has tidied up, or ends; returns the report that has waited for it."""
        _, withheld = self._tidying.pop(child, (0.0, None))
        return withheld

    def overdue(self, now: float) -> list[ChildProcess]:
        """Children that take too long to tidy up."""
        return [child for child, (until, _) in self._tidying.items() if now >= until]

    # Departing ------------------------------------------------------------------------------------------

    def depart(
        self, child: ChildProcess, slots: tuple[int, ...], withheld: Ended | None, *, gently: bool
    ) -> None:
        """Let a child end. Its slots are free when nothing that it has started runs any more."""

        def clear(departure: Departure) -> None:
            _, ended = self._departing.pop(departure, (0, withheld))
            if self._board is not None:
                self._board.give_back(slots)
            if ended is not None:
                last_words = truncate_middle(departure.last_words, LAST_OUTPUT_BYTES)
                self._deliver(ended._replace(output=ended.output + last_words))

        if self._board is not None:
            self._board.expect_back(slots, self._look)
        taken = 0 if gently and withheld is None else child.width  # an idle one takes none
        departure = self._departures.end(child, clear, gently=gently, slots=taken)
        if departure is not None:
            self._departing[departure] = (child.width, withheld)

    @property
    def departing(self) -> int:
        """How many children are on their way out."""
        return len(self._departing)

    @property
    def slots_taken(self) -> int:
        """How many slots the departing children still take."""
        return sum(width for width, _ in self._departing.values())

    def slots_taken_elsewhere(self) -> int:
        """How many slots the departing children of other pools still take."""
        return self._departures.slots_taken(self._departing)

    def turn(self, now: float) -> None:
        """See which children are gone."""
        if self._departing:
            self._departures.turn(now)

    def deadlines(self) -> list[float]:
        """When to look again (monotonic, s)."""
        deadlines = [until for until, _ in self._tidying.values()]
        if self._departing:
            deadlines.append(self._departures.next_at())
        return deadlines

    def _look(self) -> None:
        self._departures.turn(time.monotonic())

    # Reports that wait ----------------------------------------------------------------------------------

    def waiting_reports(self) -> list[Ended]:
        reports = [report for _, report in (*self._departing.values(), *self._tidying.values())]
        return [report for report in reports if report is not None]

    def drop_reports(self, unwanted: Container[Token]) -> list[Token]:
        """Forget the reports of these attempts, and return whose they were. What they wait for goes on."""
        dropped = [report.token for report in self.waiting_reports() if report.token in unwanted]
        for departure, (width, report) in list(self._departing.items()):
            if report is not None and report.token in unwanted:
                self._departing[departure] = (width, None)
        for child, (until, report) in list(self._tidying.items()):
            if report is not None and report.token in unwanted:
                self._tidying[child] = (until, None)
        return dropped
