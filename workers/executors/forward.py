"""Executor of the methods that forward attempts to a backend, Ray or RQ: one process talks to it.

::

    submit ──▶ held ──▶ sent ──▶ begun ──report──▶ ended
                │         └─ recalled, not begun ─▶ returned
                └─ the backend is away for long ─▶ returned

The forwarder process may die with its backend. Attempts that had begun are then lost, and the next process
sends the rest. While the backend is away there are no slots, so that nothing more is leased.
"""

from __future__ import annotations

import logging
import os
import selectors
import time
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from queue_eval.backoff import Backoff
from queue_eval.foreign_text import plain
from queue_eval.marks import INSIDE_JOB
from queue_eval.model.attempt import Attempt, Token
from queue_eval.model.moves import Printed
from queue_eval.model.non_finite import judge_result
from queue_eval.model.states import Outcome
from queue_eval.runtime.failure_texts import describe_death
from queue_eval.runtime.notices import STOP
from queue_eval.runtime.pipe import (
    RUNNING,
    Kind,
    Report,
    Setup,
    encode_notice,
    encode_recall,
    encode_run,
    encode_stop,
    frame,
    parse_report,
)
from workers.executors.child_limit import ChildLimit
from workers.executors.piped_process import PipedProcess, is_lasting
from workers.executors.protocol import NO_INTERPRETER, Ended, Plan
from workers.executors.signs import Sign, parse_printed, parse_sign

log = plain(logging.getLogger(__name__))

_AWAY_S = 10.0
"""Attempts that cannot be forwarded for so long go back to the queue, for other workers."""

_RESTART_S = (0.5, 30.0)
"""Pause before a forwarder that has died is started again: the first, doubled up to the last."""

_STEADY_S = 60.0
"""A forwarder that has lived for so long is started again without delay."""

_TROUBLE_S = 3.0
"""Drivers get a message when the backend has been away for so long."""

_CLOSE_S = 6.0
"""How long a forwarder may take to end what it has forwarded."""


class _ForwarderProcess(PipedProcess):
    """The forwarder process, and the frames that it has sent since they were last taken."""

    def __init__(
        self, command: Sequence[str], setup: Setup, selector: selectors.BaseSelector,
        env: Mapping[str, str] | None,
    ) -> None:  # fmt: skip
        self.started_at = time.monotonic()
        self.slots: int | None = None
        """None until it has reported whether it reaches its backend."""
        self.why = ""
        self.trouble = ""
        self.was_heard = False
        self.heard: list[tuple[str, Any]] = []
        self.signs: list[Sign] = []
        self.printed: list[Printed] = []
        super().__init__(command, selector, env)
        self.add(setup.encode())
        self.flush()

    def _receive(self, header: list[Any], body: bytes) -> None:
        kind = header[0]
        if kind == Kind.SLOTS:
            self.slots, self.why = int(header[1]), str(header[2])
        elif kind == Kind.TROUBLE:
            self.trouble = str(header[1])
        elif kind == Kind.REPORT:
            self.heard.append((kind, parse_report(header, body)))
        elif kind in (Kind.BEGUN, Kind.RETURNED):
            self.heard.append((kind, [(job, attempt) for job, attempt in header[1]]))
        elif kind in RUNNING:
            self.signs.append(parse_sign(header, body))
        elif kind == Kind.PRINTED:
            self.printed.append(parse_printed(header, body))
        else:
            raise ValueError(f"not a frame of a forwarder: {kind!r}")

    def end(self, timeout_s: float) -> None:
        """Let the process end the attempts that it has forwarded, then kill it."""
        self.add(frame((Kind.CLOSE,)))
        self.flush()
        with selectors.DefaultSelector() as selector, suppress(ValueError, KeyError, OSError):
            # Its end of the pipe closes when it ends. What it still sends is ignored.
            selector.register(self._pipe, selectors.EVENT_READ)
            deadline = time.monotonic() + timeout_s
            while not self.is_dead() and (left := deadline - time.monotonic()) > 0:
                if selector.select(left):
                    self._read()
        self.kill()


class Forwarder:
    """An Executor; see `protocol.Executor` for what it guarantees and assumes.

    `backend` is the script of the forwarder. With `tells_begun` it reports which attempts have begun.
    Without, as many as there are slots count as begun, in order. With `outlives`, forwarded attempts go on
    when the forwarder dies: they are sent to the next one, which joins them. Such a forwarder is also asked
    to end when it does not reach its backend, since it may still have to remove traces of ended attempts.
    """

    def __init__(
        self, plan: Plan, backend: Path, selector: selectors.BaseSelector, limit: ChildLimit, *,
        tells_begun: bool, outlives: bool = False, env: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        self._limit = limit
        self._idle_since = time.monotonic()
        self._plan = plan
        # Run it by its path and with -P: no user's package shadows it, nor does its folder shadow others.
        self._command = [plan.python, "-P", str(backend)]
        # All processes of a Ray that the forwarder starts are its children, and inherit this.
        self._env = {**(os.environ if env is None else env), INSIDE_JOB: plan.campaign}
        self._selector = selector
        self._tells_begun = tells_begun
        self._outlives = outlives
        self._process: _ForwarderProcess | None = None
        self._held: OrderedDict[Token, Attempt] = OrderedDict()
        self._unsent: OrderedDict[Token, float] = OrderedDict()
        self._queued: deque[Token] = deque()
        """Attempts that were sent and have not begun, in order. Some may not be held any more."""
        self._submitted_at: dict[Token, float] = {}
        self._begun_at: dict[Token, float] = {}
        self._words: dict[Token, str] = {}
        """What `stop_requested` of an attempt is to show."""
        self._recalled: set[Token] = set()
        self._ended: list[Ended] = []
        self._signs: list[Sign] = []
        self._returned: list[Token] = []
        self._has_started = False
        """Whether a forwarder has reported its slots. The run function is loaded elsewhere. Loading errors
        come with each attempt."""
        self._slots = plan.slots
        self._trouble = ""
        self._why_away = ""
        self._away_since: float | None = None
        self._restart_at = 0.0
        self._backoff = Backoff(*_RESTART_S)

    @property
    def slots(self) -> int:
        return self._slots

    @property
    def trouble(self) -> str:
        return self._trouble

    def submit(self, attempts: Sequence[Attempt]) -> None:
        now = time.monotonic()
        if not attempts and self._process is None:
            self._away_since = self._away_since or now  # away until it is known how many slots there are
        for attempt in attempts:
            self._held[attempt.token] = attempt
            self._unsent[attempt.token] = self._submitted_at[attempt.token] = now
        self._advance(now)

    def forget(self, tokens: Sequence[Token], *, begun: bool) -> list[Token]:
        dropped = [t for t in tokens if t in self._held and (begun or t not in self._begun_at)]
        sent = [token for token in dropped if token not in self._unsent]
        for token in dropped:
            self._strike_off(token)
        if sent and self._process is not None:
            self._process.add(encode_stop(sent))
            self._process.flush()
        self._advance(time.monotonic())
        return dropped

    def take_back(self, submitted_before: float) -> list[Token]:
        waiting = [
            token
            for token, submitted_at in self._submitted_at.items()
            if submitted_at < submitted_before and token not in self._begun_at
        ]
        back = [token for token in waiting if token in self._unsent]
        for token in back:
            self._strike_off(token)
        # The rest is answered later: by `returned`, or by a report if an attempt has begun meanwhile.
        recalled = [token for token in waiting if token in self._held and token not in self._recalled]
        if recalled and self._process is not None:
            self._recalled.update(recalled)
            self._process.add(encode_recall(recalled))
            self._process.flush()
        return back

    def take_returned(self) -> list[Token]:
        returned, self._returned = self._returned, []
        return returned

    def collect(self, now: float) -> list[Ended]:
        self._listen(now)
        if self._process is not None and self._process.is_dead():
            self._bury(self._process, now)
        self._advance(now)
        self._note_trouble(now)
        ended, self._ended = self._ended, []
        return ended

    def take_load(self) -> bool:
        has_started, self._has_started = self._has_started, False
        return has_started

    def next_deadline(self) -> float | None:
        if self._unsent and self._process is None:
            return self._restart_at
        return None

    def begun(self) -> list[Token]:
        return list(self._begun_at)

    def waiting(self) -> int:
        return len(self._held) - len(self._begun_at)

    def close(self, *, wait: bool = True) -> list[Token]:  # noqa: ARG002 - it always waits
        unfinished = list(self._held)
        if self._process is not None:
            # Let it end also when nothing runs: if its driver is killed just after an attempt has ended, Ray
            # counts the slot of that attempt as taken for half a minute and more.
            if self._outlives or self._process.slots or len(self._held) > len(self._unsent):
                self._process.end(_CLOSE_S)
            else:
                self._process.kill()
            self._process = None
        self._limit.leave(self)
        for token in unfinished:
            self._strike_off(token)
        self._queued.clear()
        self._slots = self._plan.slots
        self._trouble = self._why_away = ""
        self._away_since = None
        return unfinished

    @property
    def children(self) -> int:
        return int(self._process is not None)

    @property
    def departing(self) -> int:
        return 0

    @property
    def busy_slots(self) -> int:
        return 0  # forwarded attempts take none here

    def take_stopped(self) -> list[Ended]:
        return []

    def notify(self, tokens: Sequence[Token], word: str) -> None:
        # Also of attempts that are yet to be submitted.
        new = [token for token in tokens if self._words.get(token) != STOP]
        self._words |= dict.fromkeys(new, word)
        sent = [token for token in new if token in self._held and token not in self._unsent]
        if sent and self._process is not None:
            self._process.add(encode_notice(sent, word))
            self._process.flush()

    def take_signs(self) -> list[Sign]:
        signs, self._signs = self._signs, []
        return signs

    def take_printed(self, now: float) -> list[Printed]:  # noqa: ARG002 - who sends it looks once a second
        if self._process is None or not self._process.printed:
            return []
        printed, self._process.printed = self._process.printed, []
        return printed

    @property
    def idle_since(self) -> float | None:
        # A forwarder that has lost its backend goes on looking for it.
        is_idle = self._process is not None and not self._held and self._away_since is None
        return self._idle_since if is_idle else None

    def let_go(self) -> bool:
        is_idle = self.idle_since is not None
        if is_idle:
            self.close()
        return is_idle

    # ----------------------------------------------------------------------------------------------------

    def _advance(self, now: float) -> None:
        """Start the forwarder, send it new attempts, and give back attempts that it cannot take."""
        wanted = bool(self._held) or self._away_since is not None
        if self._process is None and wanted and now >= self._restart_at:
            self._start(now)
        process = self._process
        if process is not None and process.slots:
            for token in self._unsent:
                attempt = self._held[token]
                if token in self._words:  # first: it may begin at once
                    process.add(encode_notice([token], self._words[token]))
                process.add(encode_run(*token, attempt.config, attempt.slots))
                self._queued.append(token)
            self._unsent.clear()
            process.flush()
            self._begin(now)
        elif self._away_since is not None and now - self._away_since > _AWAY_S:
            self._slots = 0  # else the same attempts would be leased again at once
            for token in [token for token in self._unsent if token not in self._begun_at]:
                self._strike_off(token)
                self._returned.append(token)

    def _start(self, now: float) -> None:
        self._limit.join(self)
        if not self._limit.make_room(self, self._plan.slots):
            self._restart_at = now + _RESTART_S[0]
            return
        try:
            self._process = _ForwarderProcess(
                self._command, self._plan.setup, self._selector, self._env
            )
        except OSError as error:
            if not is_lasting(error):
                log.warning("cannot start a process for now: %s", error)
                self._wait_before_restart(now)
                return
            reason = f"cannot start {self._plan.python} to forward this job: {error}"
            for token in list(self._held):
                self._end(token, Outcome.LOST, now, reason.encode(), NO_INTERPRETER + reason)
        else:
            self._away_since = self._away_since or now

    def _listen(self, now: float) -> None:
        process = self._process
        if process is None:
            return
        if process.slots is not None and not process.was_heard:
            process.was_heard = self._has_started = True
        if process.slots is not None and process.slots != self._slots:
            self._change_slots(process.slots, process.why, now)
        elif process.slots:
            self._away_since = None
        if process.slots is not None:
            self._why_away = process.why
        self._signs += process.signs
        process.signs = []
        heard, process.heard = process.heard, []
        for kind, content in heard:
            if kind == Kind.REPORT:
                self._take_report(content, now)
            elif kind == Kind.BEGUN:
                for token in content:
                    if token in self._held:
                        self._begun_at.setdefault(token, now)
            else:
                for token in content:
                    if token in self._held:
                        self._strike_off(token)
                        self._returned.append(token)
        self._begin(now)

    def _change_slots(self, slots: int, why: str, now: float) -> None:
        if slots == 0:
            log.warning("%s is away: %s", self._plan.method, why)
            self._away_since = self._away_since or now
        else:
            log.info("%s: %d slots", self._plan.method, slots)
            self._away_since = None
        self._slots = slots

    def _note_trouble(self, now: float) -> None:
        """Find out why no forwarded attempt runs, and log it when it is new."""
        process = self._process
        if process is not None and process.slots:
            if process.trouble and process.trouble != self._trouble:
                log.warning("%s", process.trouble)
            self._trouble = process.trouble
        elif self._away_since is None:
            self._trouble = ""
        elif self._why_away and now - self._away_since >= _TROUBLE_S:
            self._trouble = f"{self._plan.method} is away: {self._why_away}"

    def _take_report(self, report: Report, now: float) -> None:
        token = (report.id, report.attempt)
        if token not in self._held:
            return  # it was forgotten meanwhile
        begun_at = self._begun_at.get(token, now)
        slot_ms = max(report.run_ms, (now - begun_at) * 1000)
        self._strike_off(token)
        outcome, body = judge_result(report.outcome, report.body)
        self._ended.append(
            Ended(token, outcome, report.run_ms, slot_ms, now, report.source, body, report.output)
        )  # fmt: skip

    def _begin(self, now: float) -> None:
        """Count as many attempts as begun as there are slots, in order."""
        if self._tells_begun:
            self._queued.clear()
            return
        while self._queued and len(self._begun_at) < self._slots:
            token = self._queued.popleft()
            if token in self._held:
                self._begun_at.setdefault(token, now)

    def _bury(self, process: _ForwarderProcess, now: float) -> None:
        process.kill()
        self._listen(now)  # the process may have spoken before it died
        self._process = None
        death, output = process.describe_exit(), process.take_output()
        text = describe_death(f"forwarded this job to {self._plan.method}", death, output)
        log.warning("%s", text.decode(errors="replace"))
        if process.slots is None:  # the next process may not report anything either
            self._why_away = text.decode(errors="replace")
        for token in [] if self._outlives else list(self._begun_at):
            self._end(token, Outcome.LOST, now, text)
        # Send them in the order in which they came.
        self._unsent = OrderedDict((token, self._submitted_at[token]) for token in self._held)
        self._queued.clear()
        self._recalled.clear()
        if now - process.started_at > _STEADY_S:
            self._backoff.reset()
        self._wait_before_restart(now)

    def _wait_before_restart(self, now: float) -> None:
        self._slots = 0
        self._away_since = self._away_since or now
        self._restart_at = now + self._backoff.next_s()

    def _end(self, token: Token, outcome: Outcome, now: float, body: bytes, unloaded: str = "") -> None:
        run_ms = (now - self._begun_at.get(token, now)) * 1000
        self._strike_off(token)
        self._ended.append(Ended(token, outcome, run_ms, run_ms, now, "", body, b"", unloaded=unloaded))

    def _strike_off(self, token: Token) -> None:
        for place in (self._held, self._unsent, self._submitted_at, self._begun_at, self._words):
            place.pop(token, None)
        self._recalled.discard(token)
        if not self._held:
            self._words.clear()
            self._idle_since = time.monotonic()
