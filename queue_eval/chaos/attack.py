"""Injects the faults of a schedule, and ends each when its time has come.

Faults overlap: a worker may be paused while the server is dead. A fault that cannot be injected now, because
its victim does not run, is tried again for a while, then left out.
"""

from __future__ import annotations

import heapq
import itertools
import signal
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from queue_eval.chaos import processes
from queue_eval.chaos.evidence import SAME_NAME, TWICE, Fault
from queue_eval.chaos.fleet import Fleet, Seat
from queue_eval.chaos.schedule import Strike, strikes

T = TypeVar("T")

_ASK_AGAIN_AFTER_S = 2.5
"""A worker is asked to drain again after so long: it counts signals within 2 s as one."""

_MAX_GAP_S = 0.03
"""A batch system signals the worker and its descendants at most so long apart."""

_MAX_REPEAT_GAP_S = 0.1
"""srun sends a second signal within so long after the first one."""

_MIN_BACK_S, _MAX_BACK_LEASES, _LONG_BACK_S = 1.5, 5, 3600.0
"""A clock is set back by so many seconds plus up to so many leases; now and then by an hour."""

_RETRY_PAUSE_S = 0.2
_RETRY_FOR_S = 5.0
"""How often, and for how long, a fault that cannot be injected is tried again."""


class Attack:
    """`step` injects and ends faults that are due; `calm` ends all at once.

    Assumes: all calls come from the fleet's thread.
    """

    def __init__(self, fleet: Fleet) -> None:
        self.faults: list[Fault] = []
        self._fleet = fleet
        self._strikes = strikes(fleet.settings)
        self._next = next(self._strikes, None)
        self._next_at = time.monotonic() + (self._next.after_s if self._next else 0.0)
        self._put_off: list[tuple[Strike, float, float]] = []
        """Faults that could not be injected: when to try again, and until when."""
        self._ends: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._awaited: list[tuple[Fault, Seat, int]] = []
        """Faults that end with the next life of a seat, and the number of the life that they hit."""
        self._server_kill: Fault | None = None
        self._is_server_paused = False

    def step(self) -> None:
        """Inject the fault that is due, if any, and end those that are over."""
        now = time.monotonic()
        while self._ends and self._ends[0][0] <= now:
            heapq.heappop(self._ends)[2]()
        self._note_returns()
        if self._next is not None and now >= self._next_at:
            strike, self._next = self._next, next(self._strikes)
            self._next_at = now + self._next.after_s
            self._do(strike, now, now + _RETRY_FOR_S)
        due = [retry for retry in self._put_off if retry[1] <= now]
        self._put_off = [retry for retry in self._put_off if retry[1] > now]
        for strike, _, until in due:
            self._do(strike, now, until)

    def calm(self) -> None:
        """End all faults: continue and reconnect all processes, and start the dead ones again now."""
        self._next = None
        self._put_off = []
        while self._ends:
            heapq.heappop(self._ends)[2]()
        for seat in self._fleet.seats():
            seat.due_at = 0.0
        if self._fleet.server_due_at is not None:
            self._fleet.server_due_at = 0.0

    @property
    def is_calm(self) -> bool:
        """Whether every fault is over."""
        self._note_returns()
        return all(fault.until is not None for fault in self.faults)

    # ----------------------------------------------------------------------------------------------------

    def _do(self, strike: Strike, now: float, until: float) -> None:
        fault = _ACTIONS[strike.what](self, strike)
        if fault is not None:
            self.faults.append(fault)
        elif now < until:
            self._put_off.append((strike, now + _RETRY_PAUSE_S, until))

    def _kill(self, strike: Strike) -> Fault | None:
        fleet = self._fleet
        if strike.victim == "server":
            if self._is_server_paused or not fleet.kill_server(strike.lasts_s):
                return None
            self._server_kill = Fault("kill", "server", time.time())
            return self._server_kill
        if strike.victim == "child":
            children = fleet.child_pids()
            if not children:
                return None
            pid, workers = _picked(children, strike)
            at = time.time()
            return Fault("kill", "child", at, at, workers) if processes.send(pid, signal.SIGKILL) else None
        seat = self._seat(strike)
        if seat is None:
            return None
        detail = SAME_NAME if strike.same_name else ""
        fault = Fault("kill", strike.victim, time.time(), workers=_names(seat), detail=detail)
        self._awaited.append((fault, seat, seat.lives))
        fleet.kill(seat, strike.lasts_s, same_name=strike.same_name)
        return fault

    def _drain(self, strike: Strike) -> Fault | None:
        fleet = self._fleet
        seat = self._serving_worker(strike)
        if seat is None:
            return None
        pid = seat.pid
        fault = Fault("drain", "worker", time.time(), workers=_names(seat))
        fleet.ask_to_end(seat, strike.lasts_s)
        self._awaited.append((fault, seat, seat.lives))

        def insist() -> None:
            if seat.is_up and seat.pid == pid:
                fault.detail = TWICE
                fleet.ask_again(seat)

        if strike.twice:
            self._end_after(_ASK_AGAIN_AFTER_S, insist)
        return fault

    def _term_all(self, strike: Strike) -> Fault | None:
        fleet = self._fleet
        seat = self._serving_worker(strike)
        if seat is None:
            return None
        pid = seat.pid
        # Half of the faults have no pause at all.
        gap_s = _MAX_GAP_S * max(0.0, 2 * strike.amount - 1)
        fault = Fault("term-all", "worker", time.time(), workers=_names(seat), detail=strike.mode)

        def stop() -> None:
            if seat.is_up and seat.pid == pid and not seat.is_paused:
                fleet.stop_all(seat, strike.lasts_s, turn=strike.mode, gap_s=gap_s)

        stop()
        self._awaited.append((fault, seat, seat.lives))
        if strike.twice:
            self._end_after(_MAX_REPEAT_GAP_S * strike.amount, stop)
        return fault

    def _pause(self, strike: Strike) -> Fault | None:
        if strike.victim == "server":
            return self._pause_server(strike)
        seat = self._seat(strike)
        if seat is None:
            return None
        fault = Fault("pause", strike.victim, time.time(), workers=_names(seat))
        self._fleet.pause(seat)
        pid = seat.pid

        def resume() -> None:
            if seat.is_up and seat.pid == pid:
                self._fleet.resume(seat)
            fault.until = time.time()

        self._end_after(strike.lasts_s, resume)
        return fault

    def _pause_server(self, strike: Strike) -> Fault | None:
        pid = self._fleet.server_pid
        if pid is None or self._is_server_paused or self._fleet.server_due_at is not None:
            return None
        fault = Fault("pause", "server", time.time())
        if not processes.send(pid, signal.SIGSTOP):
            return None
        self._is_server_paused = True

        def resume() -> None:
            processes.send(pid, signal.SIGCONT)
            self._is_server_paused = False
            fault.until = time.time()

        self._end_after(strike.lasts_s, resume)
        return fault

    def _cut(self, strike: Strike) -> Fault | None:
        seats = [seat for seat in self._fleet.seats() if seat.proxy is not None]
        # Now and then the whole network is cut.
        chosen = seats if strike.pick > 0.9 else [_picked(seats, strike)]
        proxies = [seat.proxy for seat in chosen if seat.proxy is not None]
        names = tuple(name for seat in chosen for name in _names(seat))
        fault = Fault("cut", "network", time.time(), workers=names, detail=strike.mode)
        actions: dict[str, Callable[[Any], None]] = {
            "refuse": lambda proxy: proxy.refuse(),
            "reset": lambda proxy: proxy.reset(),
            "blackhole": lambda proxy: proxy.blackhole(),
            "delay": lambda proxy: proxy.delay(0.5 * strike.amount),
            "drop_reply": lambda proxy: proxy.drop_reply(after=int(3 * strike.amount)),
            "cut_reply": lambda proxy: proxy.cut_reply(int(100 * strike.amount)),
        }
        for proxy in proxies:
            actions[strike.mode](proxy)

        def heal() -> None:
            for proxy in proxies:
                proxy.heal()
            fault.until = time.time()

        self._end_after(strike.lasts_s, heal)
        return fault

    def _clock_back(self, strike: Strike) -> Fault | None:
        is_long = strike.pick > 0.7
        by_s = _MIN_BACK_S + _MAX_BACK_LEASES * strike.amount * self._fleet.settings.lease_s
        by_s = _LONG_BACK_S if is_long else round(by_s, 3)
        at = time.time()
        self._fleet.set_clock_back(by_s)
        return Fault("clock-back", "server", at, at, detail=f"by {by_s:g} s")

    def _second_server(self, _: Strike) -> Fault | None:
        if self._is_server_paused or self._fleet.server_pid is None or self._fleet.server_due_at is not None:
            return None
        at = time.time()
        outcome = self._fleet.try_second_server()
        return Fault("second-server", "server", at, time.time(), detail=outcome)

    def _end_after(self, seconds: float, end: Callable[[], None]) -> None:
        heapq.heappush(self._ends, (time.monotonic() + seconds, next(self._numbers), end))

    def _seat(self, strike: Strike) -> Seat | None:
        everyone = [self._fleet.driver] if strike.victim == "driver" else self._fleet.workers
        running = [seat for seat in everyone if seat.is_up and not seat.is_paused]
        return _picked(running, strike) if running else None

    def _serving_worker(self, strike: Strike) -> Seat | None:
        """A worker that has begun to serve, and was not asked to end."""
        able = [
            seat for seat in self._fleet.workers
            if not seat.is_paused and seat.drain is None and self._fleet.can_drain(seat)
        ]  # fmt: skip
        return _picked(able, strike) if able else None

    def _note_returns(self) -> None:
        """A kill or a drain is over when the next life of its victim has begun."""
        driver, now = self._fleet.driver, time.time()
        for fault, seat, life in self._awaited:
            if seat.lives > life or (seat is driver and self._fleet.is_done):
                fault.until = now
        self._awaited = [awaited for awaited in self._awaited if awaited[0].until is None]
        if self._server_kill is not None and self._fleet.server_due_at is None:
            self._server_kill.until = now
            self._server_kill = None


def _names(seat: Seat) -> tuple[str, ...]:
    return (seat.name,) if seat.role == "worker" and seat.name else ()


def _picked(choices: Sequence[T], strike: Strike) -> T:
    return choices[int(strike.pick * len(choices)) % len(choices)]


_ACTIONS: dict[str, Callable[[Attack, Strike], Fault | None]] = {
    "kill": Attack._kill,
    "drain": Attack._drain,
    "term-all": Attack._term_all,
    "pause": Attack._pause,
    "cut": Attack._cut,
    "clock-back": Attack._clock_back,
    "second-server": Attack._second_server,
}
