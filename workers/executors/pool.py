"""A pool of child processes behind the executor protocol: `thread`, `process` and `subprocess` share it.

::

    submit ──▶ waiting ──▶ child (running: the first `threads` it was given) ──▶ report ──▶ ended
                  ▲                 │ dies: its running attempts are lost, or unloaded if it was not
                  └─────────────────┘ ready; those that had not begun go back to waiting

The pool starts a child when an attempt waits and no child is free. When an attempt exceeds its time limit,
the pool kills its child if that has one thread. A child with several threads is killed when only abandoned
threads are left in it. The pool replaces a child that dies.

Its parts: `dispatcher` gives attempts to children, `child_starter` starts these, `child_set` knows which need
attention, `attempt_limits` finds those that exceed a limit, and `child_endings` waits for those that end,
with the reports that wait for them.
"""

from __future__ import annotations

import logging
import selectors
import time
from collections.abc import Sequence

from queue_eval.foreign_text import plain
from queue_eval.model.attempt import Attempt, Token
from queue_eval.model.moves import Printed
from queue_eval.model.non_finite import judge_result
from queue_eval.model.states import Outcome
from queue_eval.runtime.failure_texts import (
    CUT_OFF,
    LOADING_S,
    describe_death,
    describe_excess,
    describe_lateness,
)
from queue_eval.runtime.pipe import Report
from queue_eval.runtime.print_teller import EVERY_S, NOT_BEFORE_S
from workers.executors.attempt_limits import Excess, MemoryLimit, TimeLimit
from workers.executors.child_endings import ChildEndings
from workers.executors.child_limit import ChildLimit
from workers.executors.child_process import ChildProcess
from workers.executors.child_set import ChildSet
from workers.executors.child_starter import ChildStarter
from workers.executors.dispatcher import Dispatcher, Shape
from workers.executors.piped_process import DEATHS_ARE_TOLD
from workers.executors.protocol import NO_INTERPRETER, Ended, Plan
from workers.executors.signs import Sign

log = plain(logging.getLogger(__name__))

_DEATH_S = 0.5
"""How long a process may take to die after its end of the pipe has closed."""

CLOSE_S = 2.0
"""How long idle children may take to end by themselves when all is closed."""

_STUCK_JOB_MS = 1000.0
"""Noted as the duration of an attempt that others were stuck behind. For a while no more attempts are then
queued in a child."""


class ChildPool:
    """An Executor; see `protocol.Executor` for what it guarantees and assumes."""

    def __init__(
        self, plan: Plan, shape: Shape, selector: selectors.BaseSelector, limit: ChildLimit
    ) -> None:  # fmt: skip
        self._limit = limit
        self._plan = plan
        self._shape = shape
        self._board = plan.board if shape.by_slot else None
        self._children = ChildSet()
        self._endings = ChildEndings(self._board, limit, deliver=self._deliver)
        self._signs: list[Sign] = []
        starter = ChildStarter(plan, self._board, shape.threads, selector, limit, self._signs)
        self._dispatcher = Dispatcher(
            plan, shape, self, limit, self._children, starter, self._endings, replace=self._kill_and_requeue,
            end_unstarted=self._end_unstarted,
        )  # fmt: skip
        self._time_limit = TimeLimit(plan.time_limit_s, LOADING_S)
        self._memory_limit = MemoryLimit(plan.memory_limit, shape.threads)
        self._ended: list[Ended] = []
        self._stopped: list[Ended] = []
        self._has_loaded = False
        self._look_at = 0.0

    @property
    def slots(self) -> int:
        if self._shape.threads == 1:
            return self._plan.slots
        return max(0, self._plan.slots - sum(child.abandoned for child in self._children))

    @property
    def trouble(self) -> str:
        return ""

    def submit(self, attempts: Sequence[Attempt]) -> None:
        self._dispatcher.submit(attempts)

    def forget(self, tokens: Sequence[Token], *, begun: bool) -> list[Token]:
        unwanted = set(tokens)
        reported = self._endings.drop_reports(unwanted) if begun else []
        dropped = self._dispatcher.forget(unwanted)
        for child in list(self._children):
            dropped += child.recall(unwanted)
            running = [token for token in child.begun_at if token in unwanted] if begun else []
            began_at = [child.begun_at[token] for token in running]
            for token in running:
                child.abandon(token)
            dropped += running
            if running and (child.threads == 1 or not child.given):
                output = self._kill_and_requeue(child)
                if child.threads == 1 and output:
                    self._note_stopped(running[0], began_at[0], output)
            else:
                self._children.note_room(child)
        self._dispatcher.dispatch()
        return dropped + reported

    def take_back(self, submitted_before: float) -> list[Token]:
        back = self._dispatcher.take_back(submitted_before)
        for child in self._children:
            # Attempts that were queued in the child are stuck if all running ones have run for long.
            if all(begun_at < submitted_before for begun_at in child.begun_at.values()):
                stuck = child.recall()
                if stuck:
                    self._dispatcher.pace.add(_STUCK_JOB_MS)
                    self._children.note_room(child)
                back += stuck
        return back

    def notify(self, tokens: Sequence[Token], word: str) -> None:
        """Nothing is forwarded."""

    def take_signs(self) -> list[Sign]:
        signs = list(self._signs)
        self._signs.clear()
        return signs

    def take_printed(self, now: float) -> list[Printed]:
        if now < self._look_at:
            return []
        self._look_at = now + EVERY_S
        return [printed for child in self._children for printed in child.printed(now - NOT_BEFORE_S)]

    def take_stopped(self) -> list[Ended]:
        stopped, self._stopped = self._stopped, []
        return stopped

    def take_returned(self) -> list[Token]:
        return []

    def collect(self, now: float) -> list[Ended]:
        self._endings.turn(now)
        stirred = self._children.take_stirred()
        for child in stirred if DEATHS_ARE_TOLD else list(self._children):
            if child not in self._children:
                continue
            self._take_reports(child, now)
            if child not in self._children:
                continue
            if child.is_known_dead():
                self._bury(child, now)
            elif child.is_retiring and not child.given and not self._endings.is_tidying(child):
                self._retire(child)
        for child in self._endings.overdue(now):
            self._kill_and_requeue(child)
        if self._time_limit.is_due(now):
            for child in list(self._children):
                self._enforce_time_limit(child, now)
            self._time_limit.note_looked(self._children, now)
        self._enforce_memory_limit(now)
        self._dispatcher.dispatch()
        ended, self._ended = self._ended, []
        return ended

    def take_load(self) -> bool:
        has_loaded, self._has_loaded = self._has_loaded, False
        return has_loaded

    def next_deadline(self) -> float | None:
        deadlines = self._endings.deadlines() + self._time_limit.next_look(self._children)
        return min(deadlines, default=None)

    def begun(self) -> list[Token]:
        running = [token for child in self._children for token in child.begun_at]
        return running + [report.token for report in self._endings.waiting_reports()]

    def waiting(self) -> int:
        return len(self._dispatcher.waiting) + sum(len(c.given) - len(c.begun_at) for c in self._children)

    def close(self, *, wait: bool = True) -> list[Token]:
        unfinished = [token for child in self._children for token in child.given]
        unfinished += [attempt.token for _, attempt in self._dispatcher.waiting]
        for child in list(self._children):
            if child.given or child.abandoned or self._endings.is_tidying(child):
                child.given.clear()
                self._kill_and_requeue(child)
            else:
                self._retire(child)
        self._dispatcher.waiting.clear()
        if wait:
            self._limit.departures.settle(CLOSE_S, then_kill=True)
        if self._board is not None:
            self._board.leave(self)
        self._limit.leave(self)
        return unfinished

    @property
    def children(self) -> int:
        return len(self._children)

    @property
    def busy_slots(self) -> int:
        begun = (child.given[token].slots for child in self._children for token in child.begun_at)
        return sum(begun) + sum(child.abandoned for child in self._children)

    @property
    def departing(self) -> int:
        return self._endings.departing

    @property
    def idle_since(self) -> float | None:
        return min((child.idle_since for child in self._idle()), default=None)

    def let_go(self) -> bool:
        """End the child that has been idle longest, for its place is wanted. False when none is idle."""
        idle = min(self._idle(), key=lambda child: child.idle_since, default=None)
        if idle is not None:
            self._retire(idle)
        return idle is not None

    # ----------------------------------------------------------------------------------------------------

    def _idle(self) -> list[ChildProcess]:
        return [
            child
            for child in self._children
            if not child.given and not child.abandoned and not self._endings.is_tidying(child)
        ]

    def _take_reports(self, child: ChildProcess, now: float) -> None:
        self._has_loaded = child.take_load() or self._has_loaded
        if self._endings.is_tidying(child) and (child.reports or not child.is_tidying):
            self._end_tidying(child)
        if child not in self._children or not child.reports:
            return
        reports, child.reports = child.reports, []
        # Output of the child belongs to the first report: nothing is queued behind an attempt that prints.
        printed = child.take_output() if child.threads == 1 else b""
        self._dispatcher.is_noisy = self._dispatcher.is_noisy or bool(printed)
        ended: list[Ended] = []
        for report in reports:
            if (outcome := self._outcome_of(child, report, now)) is not None:
                ended.append(outcome._replace(output=outcome.output or printed))
                printed = b""
        withheld = ended.pop() if ended and (child.is_tidying or self._is_through(child)) else None
        self._ended += ended
        if child.is_tidying:
            self._endings.begin_tidying(child, withheld, now)
        elif self._is_through(child):
            self._retire(child, withheld)
        elif child.abandoned and not child.given:
            self._kill_and_requeue(child)
        else:
            self._children.note_room(child)

    def _outcome_of(self, child: ChildProcess, report: Report, now: float) -> Ended | None:
        """What a report says; None when its attempt was abandoned or forgotten meanwhile."""
        token = (report.id, report.attempt)
        begun_at = child.begun_at.get(token, now)
        if child.take(token) is None:
            return None
        slot_ms = max(report.run_ms, (now - begun_at) * 1000)
        self._dispatcher.pace.add(report.run_ms)
        outcome, body = judge_result(report.outcome, report.body)
        return Ended(
            token, outcome, report.run_ms, slot_ms, now, report.source, body, report.output,
            unloaded=child.load_error, source_parts=child.source_parts,
        )  # fmt: skip

    def _is_through(self, child: ChildProcess) -> bool:
        """Whether it has run its last attempt."""
        return self._shape.one_attempt_each or (child.is_retiring and not child.given)

    def _end_tidying(self, child: ChildProcess) -> None:
        withheld = self._endings.end_tidying(child)
        if self._is_through(child):
            self._retire(child, withheld)
            return
        if withheld is not None:
            self._deliver(withheld)
        self._children.note_room(child)

    def _deliver(self, ended: Ended) -> None:
        self._ended.append(ended)

    def _enforce_time_limit(self, child: ChildProcess, now: float) -> None:
        # While it tidies up, the next attempt has not begun.
        if self._endings.is_tidying(child) or not self._time_limit.late(child, now):
            return
        # If this process was stopped for a while, reports may wait unread: read them first.
        child.hear()
        self._take_reports(child, now)
        if child not in self._children:
            return
        for token, begun_at in self._time_limit.late(child, now):
            run_ms = (now - begun_at) * 1000
            assert self._plan.time_limit_s is not None
            body = describe_lateness(self._plan.time_limit_s, was_ready=child.ready)
            if child.threads == 1:
                child.take(token)
                output = self._kill_and_requeue(child)
                self._end(token, Outcome.TIMEOUT, run_ms, body, output, unloaded=_unloaded(child, body))
                return
            child.abandon(token)
            self._end(token, Outcome.TIMEOUT, run_ms, body, b"", unloaded=_unloaded(child, body))
        if child.abandoned and not child.given:
            self._kill_and_requeue(child)

    def _enforce_memory_limit(self, now: float) -> None:
        excesses, near = self._memory_limit.measure(self._children)
        for excess in excesses:
            self._stop_excess(excess, now)
        for child in near:
            # Memory that stays after an attempt must not be charged to the next one.
            child.attempts_allowed = 0
            if not child.given and not self._endings.is_tidying(child):
                self._retire(child)

    def _stop_excess(self, excess: Excess, now: float) -> None:
        child = excess.child
        begun = self._forget_begun(child)
        # A single attempt would only do it again, so it fails. Of several in one process nobody knows which
        # one it was: they are lost, as by any death of the process.
        outcome = Outcome.ERROR if len(begun) == 1 else Outcome.LOST
        body = describe_excess(excess.limit, excess.used, max(0, len(begun) - 1))
        output = self._kill_and_requeue(child)
        for token, begun_at in begun.items():
            printed = output if child.threads == 1 else b""
            self._end(
                token, outcome, (now - begun_at) * 1000, body, printed, is_limit=True,
                unloaded=_unloaded(child, body),
            )  # fmt: skip

    def _forget_begun(self, child: ChildProcess) -> dict[Token, float]:
        """Strike off what runs in a child that is to end, and return it and when it began."""
        # While it tidies up, the next attempt has not begun.
        return {} if self._endings.is_tidying(child) else child.forget_begun()

    def _bury(self, child: ChildProcess, now: float) -> None:
        # A child whose end of the pipe is closed dies in a moment, unless user code has closed it.
        has_died = child.wait_for_exit(_DEATH_S)
        child.kill()
        self._take_reports(child, now)  # the child may have reported before it died
        if child not in self._children:
            return
        death = child.describe_exit() if has_died else CUT_OFF
        begun = self._forget_begun(child)
        output = child.take_output() if begun else b""
        did = "ran this job" if child.ready else "was to load the run function"
        for token, begun_at in begun.items():
            body = describe_death(did, death, output)
            run_ms = (now - begun_at) * 1000
            self._end(token, Outcome.LOST, run_ms, body, output, unloaded=_unloaded(child, body))
        self._kill_and_requeue(child)

    def _kill_and_requeue(self, child: ChildProcess) -> bytes:
        """Kill a child. What it has been given goes back to waiting. Returns its last output."""
        child.kill()
        output = child.take_output()
        withheld = self._endings.end_tidying(child)
        self._dispatcher.put_back(list(child.given.values()))
        child.given.clear()
        self._endings.depart(child, self._children.remove(child), withheld, gently=False)
        return output

    def _retire(self, child: ChildProcess, withheld: Ended | None = None) -> None:
        """Let an idle child end as Python ends; `withheld` is delivered when it has."""
        # A child that still loads the run function has nothing to finish, and would notice late. A child with
        # abandoned threads never ends.
        gently = (child.ready or not child.is_up) and not child.abandoned
        self._endings.depart(child, self._children.remove(child), withheld, gently=gently)

    def _note_stopped(self, token: Token, began_at: float, output: bytes) -> None:
        now = time.monotonic()
        run_ms = (now - began_at) * 1000
        self._stopped.append(Ended(token, Outcome.CANCELLED, run_ms, run_ms, now, "", b"", output))

    def _end_unstarted(self, tokens: Sequence[Token], error: OSError) -> None:
        reason = f"cannot start {self._plan.python} to run this job: {error}"
        for token in tokens:
            self._end(token, Outcome.LOST, 0.0, reason.encode(), b"", unloaded=NO_INTERPRETER + reason)

    def _end(
        self, token: Token, outcome: Outcome, run_ms: float, body: bytes, output: bytes, *,
        is_limit: bool = False, unloaded: str = "",
    ) -> None:  # fmt: skip
        now = time.monotonic()
        self._ended.append(Ended(token, outcome, run_ms, run_ms, now, "", body, output, is_limit, unloaded))


def _unloaded(child: ChildProcess, body: bytes) -> str:
    """Why a child that was ended with this text has never loaded the run function; '' if it has loaded it."""
    if child.ready:
        return child.load_error
    return ("" if child.is_up else NO_INTERPRETER) + body.decode(errors="replace")
