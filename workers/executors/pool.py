"""A pool of child processes behind the executor protocol: `thread`, `process` and `subprocess` share it.

::

    submit ──▶ waiting ──▶ child (running: the first `threads` it was given) ──▶ report ──▶ ended
                  ▲                 │ dies: its running attempts are lost, or unloaded if it was not
                  └─────────────────┘ ready; those that had not begun go back to waiting

The pool starts a child when an attempt waits and no child is free. It kills a child with one thread at a time
limit, and a child with several threads when only abandoned threads are left in it. It replaces one that dies.

Beside it: `child_starter` starts the children, `child_set` knows which need attention, `attempt_limits` finds
those that exceed a limit, and `child_endings` waits for those that end, with the reports that wait for them.
"""

from __future__ import annotations

import contextlib
import logging
import selectors
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from queue_eval.foreign_text import plain
from queue_eval.model.attempt import Attempt, Token
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
from workers.executors.attempt_limits import Excess, MemoryLimit, TimeLimit
from workers.executors.child_endings import ChildEndings
from workers.executors.child_limit import ChildLimit
from workers.executors.child_process import ChildProcess
from workers.executors.child_set import ChildSet
from workers.executors.child_starter import ChildStarter
from workers.executors.piped_process import DEATHS_ARE_TOLD, is_lasting
from workers.executors.protocol import NO_INTERPRETER, Ended, Plan
from workers.pace import Pace

log = plain(logging.getLogger(__name__))

_QUEUE_IF_SHORTER_MS = 5.0
"""Jobs that are all shorter than this may queue in a child, so that its pipe never runs dry."""

_QUEUED_WORK_MS = 5.0
"""About so much work may queue in a child."""

_MAX_QUEUED = 32
"""How many jobs may queue in a child."""

_DEATH_S = 0.5
"""How long a process may take to die after its end of the pipe has closed."""

CLOSE_S = 2.0
"""How long idle children may take to end by themselves when all is closed."""

_STUCK_JOB_MS = 1000.0
"""An attempt that others were stuck behind counts as so long: none are queued until it is forgotten."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The differences between the methods."""

    children: int
    threads: int
    one_attempt_each: bool
    by_slot: bool = True
    """Whether each child has slots of its own. Otherwise one child has all of them."""


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
        self._starter = ChildStarter(plan, self._board, shape.threads, selector, limit)
        self._endings = ChildEndings(self._board, limit, tell=self._tell)
        self._time_limit = TimeLimit(plan.time_limit_s, LOADING_S)
        self._memory_limit = MemoryLimit(plan.memory_limit, shape.threads)
        self._waiting: deque[tuple[float, Attempt]] = deque()
        self._ended: list[Ended] = []
        self._stopped: list[Ended] = []
        self._has_loaded = False
        self._pace = Pace()
        self._noisy = False
        self._may_retire = plan.jobs_per_child is not None or plan.memory_limit is not None
        self._may_be_wide = False
        """Some attempt here takes several slots, or did a moment ago."""

    @property
    def slots(self) -> int:
        if self._shape.threads == 1:
            return self._plan.slots
        return max(0, self._plan.slots - sum(child.abandoned for child in self._children))

    @property
    def trouble(self) -> str:
        return ""

    def submit(self, attempts: Sequence[Attempt]) -> None:
        now = time.monotonic()
        self._waiting.extend((now, attempt) for attempt in attempts)
        self._may_be_wide = self._may_be_wide or any(attempt.slots > 1 for attempt in attempts)
        self._dispatch()

    def forget(self, tokens: Sequence[Token], *, begun: bool) -> list[Token]:
        unwanted = set(tokens)
        reported = self._endings.drop_reports(unwanted) if begun else []
        dropped = [attempt.token for _, attempt in self._waiting if attempt.token in unwanted]
        self._waiting = deque(item for item in self._waiting if item[1].token not in unwanted)
        for child in list(self._children):
            dropped += child.recall(unwanted)
            running = [token for token in child.begun_at if token in unwanted] if begun else []
            began_at = [child.begun_at[token] for token in running]
            for token in running:
                child.abandon(token)
            dropped += running
            if running and (child.threads == 1 or not child.given):
                output = self._replace(child)
                if child.threads == 1 and output:
                    self._note_stopped(running[0], began_at[0], output)
            else:
                self._children.note_room(child)
        self._dispatch()
        return dropped + reported

    def take_back(self, waiting_since: float) -> list[Token]:
        kept: deque[tuple[float, Attempt]] = deque()
        back: list[Token] = []
        for submitted_at, attempt in self._waiting:
            if submitted_at < waiting_since:
                back.append(attempt.token)
            else:
                kept.append((submitted_at, attempt))
        self._waiting = kept
        for child in self._children:
            # Attempts that were queued in the child are stuck if all running ones have run for long.
            if all(begun_at < waiting_since for begun_at in child.begun_at.values()):
                stuck = child.recall()
                if stuck:
                    self._pace.add(_STUCK_JOB_MS)
                    self._children.note_room(child)
                back += stuck
        return back

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
            self._replace(child)
        if self._time_limit.is_due(now):
            for child in list(self._children):
                self._enforce_time_limit(child, now)
            self._time_limit.note_looked(self._children, now)
        self._enforce_memory_limit(now)
        self._dispatch()
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
        return len(self._waiting) + sum(len(c.given) - len(c.begun_at) for c in self._children)

    def close(self, *, wait: bool = True) -> list[Token]:
        unfinished = [token for child in self._children for token in child.given]
        unfinished += [attempt.token for _, attempt in self._waiting]
        for child in list(self._children):
            if child.given or child.abandoned or self._endings.is_tidying(child):
                child.given.clear()
                self._replace(child)
            else:
                self._retire(child)
        self._waiting.clear()
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
        """End the child that has been idle longest: its place is wanted elsewhere. False when none is
        idle."""
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

    def _dispatch(self) -> None:
        self._may_be_wide = self._may_be_wide and self._has_wide()
        while self._waiting:
            # Keep the order: an attempt that takes several slots is not overtaken here either.
            child = self._child_for(self._waiting[0][1])
            if child is None:
                break
            self._give(child)
            if child.is_retiring:
                self._prepare_successor()
        if self._waiting and (extra := self._queue_depth()):
            self._fill(extra)
        self._start_spares()
        self._children.flush()

    def _fill(self, extra: int) -> None:
        """Let attempts queue in the children."""
        for child in list(self._children.roomy):
            depth = 0 if child.abandoned else child.threads + extra
            while len(child.given) < depth and not child.is_retiring:
                if not self._waiting:
                    return
                self._give(child)
            del self._children.roomy[child]

    def _give(self, child: ChildProcess) -> None:
        child.give(self._waiting.popleft()[1])
        self._children.note_unsent(child)

    def _has_wide(self) -> bool:
        held = [attempt for child in self._children for attempt in child.given.values()]
        return any(attempt.slots > 1 for attempt in held) or any(a.slots > 1 for _, a in self._waiting)

    def _child_for(self, attempt: Attempt) -> ChildProcess | None:
        """A child that can begin it now, a new one if need be."""
        width = min(attempt.slots, self._plan.slots)
        beside = self._slots_beside()
        is_crowded = (
            self._may_be_wide
            or bool(self._endings.departing)
            or beside > 0
            or self._shape.one_attempt_each  # there are spares
            or (self._may_retire and any(child.is_retiring for child in self._children))
        )
        if is_crowded and self._in_use() + beside + width > self._plan.slots:
            return None
        now = time.monotonic()
        for child in list(self._children.free):
            if not child.free:
                del self._children.free[child]
                continue
            if child.is_worn_out(now) and not child.given:
                self._replace(child)
                continue
            fits = self._board is None or len(self._children.slots_of(child)) == width
            # A child that died unnoticed must not cost an attempt that never reached it.
            if fits and not child.is_dead():
                return child
        return self._start_child(width)

    def _in_use(self) -> int:
        """Slots that are taken."""
        given = sum(attempt.slots for child in self._children for attempt in child.given.values())
        given += self._endings.slots_taken
        return given + sum(child.abandoned for child in self._children)

    def _slots_beside(self) -> int:
        """Slots that other campaigns take, while processes that one of their attempts has started are ending.

        The slot of such an attempt is not free yet, which `WorkerState` does not know when it leases jobs.
        """
        ending = 0 if self._board is not None else self._endings.slots_taken_elsewhere()
        return ending + self._limit.slots_elsewhere(self) if ending else 0

    def _queue_depth(self) -> int:
        # Output is attributed by the order of reports, which queueing in the child would blur.
        if self._noisy or self._shape.one_attempt_each or self._may_be_wide:
            return 0
        depth = self._pace.fitting(_QUEUED_WORK_MS, longest_ms=_QUEUE_IF_SHORTER_MS, most=_MAX_QUEUED)
        return depth * self._shape.threads

    def _start_child(self, width: int) -> ChildProcess | None:
        if self._is_full():
            return None
        try:
            return self._launch(width)
        except OSError as error:
            if not is_lasting(error):  # no memory, process or file is left: no job is charged for that
                log.warning("cannot start a process for now: %s", error)
                return None
            self._end_unstarted(error)
            return None

    def _end_unstarted(self, error: OSError) -> None:
        """End all waiting attempts: no process can be started for any of them."""
        reason = f"cannot start {self._plan.python} to run this job: {error}"
        for _, attempt in self._waiting:
            unloaded = NO_INTERPRETER + reason
            self._end(attempt.token, Outcome.LOST, 0.0, reason.encode(), b"", unloaded=unloaded)
        self._waiting.clear()

    def _is_full(self) -> bool:
        if self._board is not None:
            return False
        serving = len(self._children)
        if not self._shape.one_attempt_each:
            serving += self._endings.departing
        if self._may_retire:
            serving = sum(not child.is_retiring for child in self._children)
        return serving >= self._shape.children

    def _prepare_successor(self) -> None:
        """Start the next process while the last attempts of another one run, so that it loads in time."""
        # Where slots own something, they are not free before the other process is gone.
        if self._board is None and not self._shape.one_attempt_each and not self._is_full():
            with contextlib.suppress(OSError):  # the next attempt reports the error
                if (child := self._launch(1, is_wanted_now=False)) is not None:
                    self._children.note_unsent(child)

    def _start_spares(self) -> None:
        """Start an interpreter for each attempt that waits, up to one for each slot, while others run.

        It is told nothing before it is given its attempt, and so runs no user code before.
        """
        if self._board is not None or not self._shape.one_attempt_each:
            return
        wanted = min(self._plan.slots, len(self._waiting))
        with contextlib.suppress(OSError):  # the next attempt reports the error
            while wanted and sum(not child.given for child in self._children) < wanted:
                if self._launch(1, is_wanted_now=False) is None:
                    break

    def _launch(self, width: int, *, is_wanted_now: bool = True) -> ChildProcess | None:
        """A new child; None when others are busy with the slots, or with the files that it needs."""
        started = self._starter.start(self, width, self._children.note_stirred, is_wanted_now=is_wanted_now)
        if started is None:
            return None
        child, slots = started
        self._children.add(child, slots)
        return child

    def _take_reports(self, child: ChildProcess, now: float) -> None:
        self._has_loaded = child.take_load() or self._has_loaded
        if self._endings.is_tidying(child) and (child.reports or not child.is_tidying):
            self._end_tidying(child)
        if child not in self._children or not child.reports:
            return
        reports, child.reports = child.reports, []
        # Output of the child belongs to the first report: nothing is queued behind an attempt that prints.
        printed = child.take_output() if child.threads == 1 else b""
        self._noisy = self._noisy or bool(printed)
        ended: list[Ended] = []
        for report in reports:
            if (outcome := self._outcome_of(child, report, now)) is not None:
                ended.append(outcome._replace(output=outcome.output or printed))
                printed = b""
        waiting = ended.pop() if ended and (child.is_tidying or self._is_through(child)) else None
        self._ended += ended
        if child.is_tidying:
            self._endings.begin_tidying(child, waiting, now)
        elif self._is_through(child):
            self._retire(child, waiting)
        elif child.abandoned and not child.given:
            self._replace(child)
        else:
            self._children.note_room(child)

    def _outcome_of(self, child: ChildProcess, report: Report, now: float) -> Ended | None:
        """What a report says; None when its attempt was abandoned or forgotten meanwhile."""
        token = (report.id, report.attempt)
        begun_at = child.begun_at.get(token, now)
        if child.take(token) is None:
            return None
        slot_ms = max(report.run_ms, (now - begun_at) * 1000)
        self._pace.add(report.run_ms)
        outcome, body = judge_result(report.outcome, report.body)
        return Ended(
            token, outcome, report.run_ms, slot_ms, now, report.source, body, report.output,
            unloaded=child.load_error, source_parts=child.source_parts,
        )  # fmt: skip

    def _is_through(self, child: ChildProcess) -> bool:
        """Whether it has run its last attempt."""
        return self._shape.one_attempt_each or (child.is_retiring and not child.given)

    def _end_tidying(self, child: ChildProcess) -> None:
        report = self._endings.end_tidying(child)
        if self._is_through(child):
            self._retire(child, report)
            return
        if report is not None:
            self._tell(report)
        self._children.note_room(child)

    def _tell(self, ended: Ended) -> None:
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
                output = self._replace(child)
                self._end(token, Outcome.TIMEOUT, run_ms, body, output, unloaded=_unloaded(child, body))
                return
            child.abandon(token)
            self._end(token, Outcome.TIMEOUT, run_ms, body, b"", unloaded=_unloaded(child, body))
        if child.abandoned and not child.given:
            self._replace(child)

    def _enforce_memory_limit(self, now: float) -> None:
        excesses, near = self._memory_limit.measure(self._children)
        for excess in excesses:
            self._stop_excess(excess, now)
        for child in near:
            # Memory that stays after an attempt must not be charged to the next one.
            child.left = 0
            if not child.given and not self._endings.is_tidying(child):
                self._retire(child)

    def _stop_excess(self, excess: Excess, now: float) -> None:
        child = excess.child
        begun = self._forget_begun(child)
        # A single attempt would only do it again, so it fails. Of several in one process nobody knows which
        # one it was: they are lost, as by any death of the process.
        outcome = Outcome.ERROR if len(begun) == 1 else Outcome.LOST
        body = describe_excess(excess.limit, excess.used, max(0, len(begun) - 1))
        output = self._replace(child)
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
        self._replace(child)

    def _replace(self, child: ChildProcess) -> bytes:
        """Kill a child. What it has been given goes back to waiting. Returns its last output."""
        child.kill()
        output = child.take_output()
        report = self._endings.end_tidying(child)
        now = time.monotonic()
        for attempt in reversed(child.given.values()):
            self._waiting.appendleft((now, attempt))
        child.given.clear()
        self._endings.depart(child, self._children.remove(child), report, gently=False)
        return output

    def _retire(self, child: ChildProcess, report: Ended | None = None) -> None:
        """Let an idle child end as Python ends; `report` is told when it has."""
        # A child that still loads the run function has nothing to finish, and would notice late. A child with
        # abandoned threads never ends.
        gently = (child.ready or not child.is_up) and not child.abandoned
        self._endings.depart(child, self._children.remove(child), report, gently=gently)

    def _note_stopped(self, token: Token, began_at: float, output: bytes) -> None:
        now = time.monotonic()
        run_ms = (now - began_at) * 1000
        self._stopped.append(Ended(token, Outcome.CANCELLED, run_ms, run_ms, now, "", b"", output))

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
