"""The one thread that owns the processes that run user code: it starts, watches and kills them.

Other threads queue calls, which this thread carries out. It answers through the callbacks of `Reports`. It
never talks to the server, so that time limits hold while the server is away.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from queue_eval import failpoints
from queue_eval.foreign_text import plain
from queue_eval.model.attempt import Attempt, Token
from queue_eval.model.moves import Printed
from queue_eval.runtime.mailroom import Mailroom
from queue_eval.runtime.notices import DRAIN
from queue_eval.runtime.pipe import Kind
from workers.executors import make_executor
from workers.executors.child_limit import ChildLimit
from workers.executors.departures import Departures
from workers.executors.pool import CLOSE_S
from workers.executors.protocol import Ended, Executor, Plan
from workers.executors.signs import Sign, parse_sign

log = plain(logging.getLogger(__name__))

_TICK_S = 0.5
"""How often processes are looked at whose death no file descriptor tells."""

_IDLE_CLOSE_S = 60.0
"""Warm processes of a campaign without jobs are kept this long."""

_EMPTY_CLOSE_S = 1.0
"""A lane without processes (see `ChildLimit`) is kept this long: each lane costs time in every turn."""


class Reports(Protocol):
    """What the runner reports of a lane. Called in its thread; must not block."""

    def ended(self, lane_id: str, attempts: list[Ended], missing_slots: int) -> None:
        """These attempts have ended. `missing_slots` are taken by abandoned threads."""

    def loaded(self, lane_id: str, revision: int) -> None:
        """A process has loaded the run function of this revision."""

    def given_up(self, lane_id: str, tokens: list[Token], missing_slots: int, *, release: bool) -> None:
        """These attempts will not end. Release them, or forget them because the server already has."""

    def told(self, lane_id: str, signs: list[Sign]) -> None:
        """What running attempts have told of themselves. Of an attempt it comes before `ended`."""

    def printed(self, lane_id: str, printed: list[Printed]) -> None:
        """What running attempts have printed since they were last told of."""

    def given_back(self, lane_id: str, token: Token, reason: str, missing_slots: int) -> None:
        """This attempt has asked to be given back, and was ended."""

    def troubled(self, lane_id: str, why: str) -> None:
        """Nothing of the lane runs, and why; "" when it runs again."""


class _Lane:
    """The executors of one campaign: the current one, and retired ones that finish their attempts.

    Its id is the campaign's uid.
    """

    def __init__(self, plan: Plan, selector: selectors.BaseSelector, limit: ChildLimit) -> None:
        self.plan = plan
        self._limit = limit
        self.current = make_executor(plan, selector, limit)
        self.retired: list[Executor] = []
        self.used_at = time.monotonic()
        self.missing_slots = 0
        """As it was last reported."""
        self.trouble = ""
        """As it was last reported."""

    def executors(self) -> list[Executor]:
        return [self.current, *self.retired]

    def change(self, plan: Plan, selector: selectors.BaseSelector) -> None:
        self.retired.append(self.current)
        self.plan = plan
        self.current = make_executor(plan, selector, self._limit)


class Runner:
    """Guarantees: each attempt submitted is reported exactly once, as ended or given up. `close` leaves no
    process behind."""

    def __init__(self, reports: Reports, mailroom: Mailroom | None = None) -> None:
        self._reports = reports
        self._mailroom = mailroom = mailroom or Mailroom()
        self._selector = selectors.DefaultSelector()
        self._mail: list[tuple[str, Sign]] = []
        self._is_draining = False
        self._lanes: dict[str, _Lane] = {}
        self._departures = Departures(guarded=True, folder=mailroom.folder)
        self._limit = ChildLimit(self._departures)
        self._calls: deque[Callable[[], None]] = deque()
        self._bell_read, self._bell_write = os.pipe()
        os.set_blocking(self._bell_read, False)
        os.set_blocking(self._bell_write, False)
        self._selector.register(self._bell_read, selectors.EVENT_READ, self._hear)
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="runner", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def is_started(self) -> bool:
        return self._thread.ident is not None

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def submit(self, lane_id: str, plan: Plan, attempts: Sequence[Attempt]) -> None:
        self._call(lambda: self._submit(lane_id, plan, attempts))

    def forget(self, lane_id: str, tokens: Sequence[Token], *, begun: bool) -> None:
        """Drop attempts that the server has taken away; running ones only when `begun`."""
        self._call(lambda: self._forget(lane_id, tokens, begun=begun))

    def stop(self, lane_id: str, tokens: Sequence[Token]) -> None:
        """Drop attempts whose jobs are finished. What running ones have printed is reported."""
        self._call(lambda: self._forget(lane_id, tokens, begun=True, reports=True))

    def notify(self, lane_id: str, tokens: Sequence[Token], word: str) -> None:
        """Let `stop_requested` of these attempts show `word`, from their beginning if they have not begun."""
        self._call(lambda: self._notify(lane_id, tokens, word))

    def drain(self) -> None:
        """Give up what has not begun, and let what runs see that the worker drains."""
        self.take_back()
        self._call(self._tell_drain)

    def look(self, see: Callable[[list[tuple[str, Token]]], None]) -> None:
        """Have `see` called soon, in the runner's thread, with the campaign and token of all that runs."""
        self._call(lambda: see(self._running()))

    def take_back(self, waiting_longer_s: float = 0.0, lane_id: str | None = None) -> None:
        """Give up, for release, attempts that have waited for longer, in one lane or all."""
        self._call(lambda: self._take_back(time.monotonic() - waiting_longer_s, lane_id))

    def drop(self, lane_id: str) -> None:
        """Kill all processes of a lane, and report nothing."""
        self._call(lambda: self._drop(lane_id))

    def close(self) -> dict[str, list[Token]]:
        """Kill everything. Returns the tokens that were running, by lane. May be called twice."""
        self._call(self._stop)
        self._thread.join()
        running: dict[str, list[Token]] = {}
        for lane_id, lane in self._lanes.items():
            running[lane_id] = [token for executor in lane.executors() for token in executor.begun()]
            for executor in lane.executors():
                executor.close(wait=False)
        self._departures.settle(CLOSE_S, then_kill=True)
        self._departures.close()
        for lane_id, lane in self._lanes.items():
            if signs := [sign for executor in lane.executors() for sign in executor.take_signs()]:
                self._reports.told(lane_id, signs)
            # Some reports were held back until their processes had ended.
            now = time.monotonic()
            if ended := [report for executor in lane.executors() for report in executor.collect(now)]:
                self._reports.ended(lane_id, ended, lane.missing_slots)
                reported = {report.token for report in ended}
                running[lane_id] = [token for token in running[lane_id] if token not in reported]
        self._lanes.clear()
        self._mailroom.close()
        return running

    # In the runner's thread ---------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            while not self._closing:
                for ready, _ in self._selector.select(self._pause()):
                    ready.data()
                while self._calls:
                    self._calls.popleft()()
                now = time.monotonic()
                self._departures.turn(now)
                # Before the pipes are judged: what came by mail was sent before the attempt ended.
                self._read_mailbox()
                self._deliver_mail()
                for lane_id, lane in list(self._lanes.items()):
                    self._collect(lane_id, lane, now)
        except Exception:  # the worker sees that this thread has ended, and ends in good order
            log.exception("the runner failed")

    def _collect(self, lane_id: str, lane: _Lane, now: float) -> None:
        ended = [report for executor in lane.executors() for report in executor.collect(now)]
        returned = [token for executor in lane.executors() for token in executor.take_returned()]
        if lane.current.take_load():
            self._reports.loaded(lane_id, lane.plan.revision)
        if signs := [sign for executor in lane.executors() for sign in executor.take_signs()]:
            self._deliver(lane_id, lane, signs)
        if printed := [news for executor in lane.executors() for news in executor.take_printed(now)]:
            self._reports.printed(lane_id, printed)
        if ended:
            failpoints.reach("worker.after-run")
            lane.used_at = now
        self._report(lane_id, lane, ended, returned)
        for executor in list(lane.retired):
            if not executor.begun() and not executor.waiting():
                executor.close(wait=False)
                lane.retired.remove(executor)
        # An executor that has lost its backend goes on looking for it: nothing is leased until it is found.
        if now - lane.used_at <= (_IDLE_CLOSE_S if lane.current.children else _EMPTY_CLOSE_S):
            return
        if lane.current.slots > 0 and not lane.current.begun() and not lane.current.waiting():
            lane.current.close(wait=False)  # its processes start again when there is work
            self._report(lane_id, lane, [], [])
            if not lane.retired and not lane.current.departing:  # most campaigns do not come back
                del self._lanes[lane_id]

    def _report(self, lane_id: str, lane: _Lane, ended: list[Ended], returned: list[Token]) -> None:
        missing_slots = lane.plan.slots - lane.current.slots
        if self._mailroom.has_told:
            for token in (*(report.token for report in ended), *returned):
                self._mailroom.forget(lane_id, token)
        if ended or missing_slots != lane.missing_slots:
            lane.missing_slots = missing_slots
            self._reports.ended(lane_id, ended, missing_slots)
        if returned:
            self._reports.given_up(lane_id, returned, missing_slots, release=True)
        if lane.current.trouble != lane.trouble:
            lane.trouble = lane.current.trouble
            self._reports.troubled(lane_id, lane.trouble)

    def _pause(self) -> float:
        deadlines = [
            deadline
            for lane in self._lanes.values()
            for executor in lane.executors()
            if (deadline := executor.next_deadline()) is not None
        ]
        deadlines.append(self._departures.next_at())
        return min(_TICK_S, max(0.0, min(deadlines) - time.monotonic()))

    def _submit(self, lane_id: str, plan: Plan, attempts: Sequence[Attempt]) -> None:
        self._open_mailroom()
        lane = self._lanes.get(lane_id)
        if lane is None:
            lane = self._lanes[lane_id] = _Lane(plan, self._selector, self._limit)
        elif lane.plan != plan:
            lane.change(plan, self._selector)
        lane.used_at = time.monotonic()
        failpoints.reach("worker.before-start")
        if self._mailroom.has_told:
            for attempt in attempts:  # forwarders do not see the mailroom, and attempts may begin at once
                if (word := self._mailroom.word_for(lane_id, attempt.token)) is not None:
                    lane.current.notify([attempt.token], word)
        lane.current.submit(attempts)
        if self._is_draining:
            self._notify(lane_id, [attempt.token for attempt in attempts], DRAIN)

    def _forget(self, lane_id: str, tokens: Sequence[Token], *, begun: bool, reports: bool = False) -> None:
        lane = self._lanes.get(lane_id)
        if lane is None:
            return
        dropped = [token for executor in lane.executors() for token in executor.forget(tokens, begun=begun)]
        stopped = [report for executor in lane.executors() for report in executor.take_stopped()]
        for token in dropped:
            self._mailroom.forget(lane_id, token)
        if reports and stopped:
            self._reports.ended(lane_id, stopped, lane.missing_slots)
            reported = {report.token for report in stopped}
            dropped = [token for token in dropped if token not in reported]
        if dropped:
            self._reports.given_up(lane_id, dropped, lane.missing_slots, release=False)

    def _take_back(self, submitted_before: float, only: str | None) -> None:
        for lane_id, lane in self._lanes.items():
            if only not in (None, lane_id):
                continue
            back = [token for executor in lane.executors() for token in executor.take_back(submitted_before)]
            if back:
                self._reports.given_up(lane_id, back, lane.missing_slots, release=True)

    def _drop(self, lane_id: str) -> None:
        lane = self._lanes.pop(lane_id, None)
        if lane is not None:
            for executor in lane.executors():
                for token in executor.close(wait=False):
                    self._mailroom.forget(lane_id, token)

    def _open_mailroom(self) -> None:
        if not self._mailroom.is_open:
            # The guard comes first: it removes the folder, should this worker be killed.
            self._departures.watch()
            self._selector.register(self._mailroom.open(), selectors.EVENT_READ, self._read_mailbox)

    def _notify(self, lane_id: str, tokens: Sequence[Token], word: str) -> None:
        self._open_mailroom()
        for token in tokens:
            self._mailroom.tell(lane_id, token, word)
        if (lane := self._lanes.get(lane_id)) is not None:
            for executor in lane.executors():
                executor.notify(tokens, word)

    def _running(self) -> list[tuple[str, Token]]:
        return [
            (lane.plan.campaign, token)
            for lane in self._lanes.values()
            for executor in lane.executors()
            for token in executor.begun()
        ]

    def _tell_drain(self) -> None:
        self._is_draining = True
        for lane_id, lane in self._lanes.items():
            running = [token for executor in lane.executors() for token in executor.begun()]
            self._notify(lane_id, running, DRAIN)

    def _read_mailbox(self) -> None:
        for lane_id, header, body in self._mailroom.receive():
            with contextlib.suppress(ValueError):  # any process of a job can write there
                self._mail.append((lane_id, parse_sign(header, body)))

    def _deliver_mail(self) -> None:
        mail, self._mail = self._mail, []
        for lane_id, sign in mail:
            if (lane := self._lanes.get(lane_id)) is not None:
                self._deliver(lane_id, lane, [sign])

    def _deliver(self, lane_id: str, lane: _Lane, signs: list[Sign]) -> None:
        self._reports.told(lane_id, signs)
        for sign in signs:
            if sign.kind == Kind.GIVE_BACK:
                self._end_given_back(lane_id, lane, sign)

    def _end_given_back(self, lane_id: str, lane: _Lane, sign: Sign) -> None:
        """End an attempt for a process of it that cannot end it by itself."""
        if any(executor.forget([sign.token], begun=True) for executor in lane.executors()):
            self._mailroom.forget(lane_id, sign.token)
            self._reports.given_back(lane_id, sign.token, sign.text, lane.missing_slots)

    def _stop(self) -> None:
        self._closing = True

    def _hear(self) -> None:
        try:
            while os.read(self._bell_read, 4096):
                pass
        except BlockingIOError:
            return

    def _call(self, call: Callable[[], None]) -> None:
        self._calls.append(call)
        with contextlib.suppress(BlockingIOError):  # the pipe is full: it wakes anyway
            os.write(self._bell_write, b"!")
