"""A long-running worker: composes the services, then waits for a reason to end.

::

                 ┌───────────── parent (never runs user code) ─────────────┐
    server ◀────▶│ settler (settle + lease)    lease keeper   reclaimer    │◀─pipes─▶ children (user code)
                 │ wake and notice listeners        runner ────────────────│
                 └─────────────────────────────────────────────────────────┘

They share one `WorkerState`. The settler settles and leases in one call. The runner owns the child
processes. The keeper extends leases, whatever the other threads do. The listeners block, so that nothing
polls. The reclaimer takes back the jobs of dead workers.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

from queue_eval.campaign import keys
from queue_eval.errors import GiveUp, NodeAwayError, ServerUnreachableError, UsageError
from queue_eval.foreign_text import plain
from queue_eval.machine import is_alive, machine_id, parse_process
from queue_eval.model.attempt import Token
from queue_eval.runtime.mailroom import Mailroom
from queue_eval.server.home import spool_folder
from queue_eval.server.lifecycle import server_state
from queue_eval.transport.access import Access, safe_url
from queue_eval.transport.link import REPLY_TIMEOUT_S, Link
from queue_eval.transport.nodes import PACE_S
from queue_eval.transport.urls import parse_url
from workers.attempt_log import AttemptLog
from workers.drain import END_MARGIN_S, drain_deadline, end_margin_s, notice_s
from workers.lease_keeper import LeaseKeeper
from workers.listener import NoticeListener, WakeListener
from workers.load_failures import LoadFailures
from workers.options import WorkerOptions
from workers.reclaimer import Reclaimer
from workers.runner import Runner
from workers.settler import Settler
from workers.signals import ONE_S, Signals
from workers.spool import Spool
from workers.state.worker_state import WorkerState
from workers.sweeper import Sweeper

log = plain(logging.getLogger(__name__))

_TICK_S = 0.5

_SETTLE_S = 5.0
"""How long the call under way may take at the end."""

_SPOOL_S = 2.0
"""How long a call that was interrupted may take to end."""

_SWEEP_S = 2.0
"""How long folders that are over may take to be removed at the end; the rest is left to `doctor --clean`."""

_NODE_TIMEOUT_S = 5.0
"""How long a campaign on a cluster waits, once, when the node of another falls silent."""

_REMIND_AFTER_S = 30.0
"""A drain without a deadline that takes longer is logged, once."""


class Worker:
    """One worker. `run` returns when it has drained, has released everything, or has nothing left to do."""

    def __init__(
        self, access: Access, options: WorkerOptions, attempt_log: AttemptLog | None = None
    ) -> None:
        """`attempt_log`: where attempts that begin and end are logged; None: nowhere."""
        mailroom = Mailroom()
        options = replace(options, mailroom=mailroom.folder)
        self._options = options
        self._signals = Signals()
        self._began_at = options.began_at
        self._access = access
        spools = spool_folder(options.home) if options.home is not None else None
        name = f"queue-eval-worker:{options.name}"
        # Campaigns on one node of a cluster do not wait for those on another.
        self._link = Link(
            access, name=name, on_wait=self._while_away, on_unusable=self._end_refused, skips_nodes=True,
            pace_s=_pace_s(options.lease_s),
            reply_timeout_s=_NODE_TIMEOUT_S if parse_url(access.url).kind == "cluster" else None,
        )  # fmt: skip
        spool = Spool(spools, options.name) if spools is not None else None
        self._settler_link = Link(
            access, name=name, on_wait=self._settler_while_away, outage=self._link.outage,
            reply_timeout_s=_NODE_TIMEOUT_S if self._link.is_cluster else None,
            on_unusable=self._end_refused, skips_nodes=True,
        )  # fmt: skip
        # The keeper has a link of its own: a connection that stalls must not cost a lease.
        self._keeper_link = Link(
            access, name=name, on_wait=self._while_away, outage=self._link.outage,
            reply_timeout_s=_beat_timeout_s(options.lease_s, on_nodes=self._link.is_cluster),
            on_unusable=self._end_refused, skips_nodes=True,
        )  # fmt: skip
        self._sweeper = Sweeper()
        ends_at = options.allocation_ends_at
        self._allocation_ends_at = (
            None if ends_at is None else time.monotonic() + ends_at - time.time() - END_MARGIN_S
        )
        self._limit_nears_at = self._drains_before(self._ends_at(), options.time_limit_s or 0.0)
        limit_s = max(0.0, (self._allocation_ends_at or 0.0) + END_MARGIN_S - self._began_at)
        self._allocation_nears_at = self._drains_before(self._allocation_ends_at, limit_s)
        nears_at = [at for at in (self._limit_nears_at, self._allocation_nears_at) if at is not None]
        self._state = WorkerState(self._signals, self._sweeper.remove, min(nears_at, default=None))
        self._runner = Runner(self._state, mailroom)
        self._state.attach_runner(self._runner)
        self._keeper = LeaseKeeper(
            self._keeper_link, options, self._state, self._runner,
            on_drain=lambda: self._signals.drain("asked to"),
        )  # fmt: skip
        self._state.on_trouble = self._keeper.poke
        failures = LoadFailures(
            self._settler_link, options, self._state, self._runner, show_card=self._keeper.poke
        )
        self._settler = Settler(self._settler_link, options, self._state, self._runner, spool, failures)
        self._attempt_log = attempt_log
        if attempt_log is not None:
            self._settler.on_settled = attempt_log.settled
            self._state.on_dropped = attempt_log.dropped
        self._reclaimer = Reclaimer(self._link, options, self._state, spools)
        self._wake = WakeListener(self._link, self._state, self._settler, options.name)
        self._notices = NoticeListener(
            self._link, options.name, self._keeper.hear, self._keeper.hear_stop
        )
        self._abandon = threading.Event()
        self._refusal: ServerUnreachableError | None = None
        self._drained_at: float | None = None
        self._has_reminded = False
        self._told_running = 0
        """How many attempts ran when the log last told of a drain."""
        self._has_told_of_second = False
        """Whether the user knows what a second Ctrl-C does."""
        self._is_ending = False
        self._settler_has_ended = False
        self._settler_thread = threading.Thread(target=self._run_settler, name="settler", daemon=True)

    def run(self) -> None:
        """Serve until there is a reason to end. Call from the main thread.

        Raises ServerUnreachableError, after putting all in order, if the server has refused this worker for
        longer than a new access file may take to come.
        """
        self._signals.install()
        try:
            self._start()
            self._wait_for_end()
        except GiveUp as reason:
            log.info("%s", reason)
        finally:
            if self._settler_thread.ident is not None:
                self._end()
            self._signals.close()
        if self._refusal is not None:
            raise self._refusal

    def _start(self) -> None:
        self._check_name()
        self._runner.start()
        self._keeper.beat()
        # Deliver spools before anything is leased: jobs that are settled on disk need not run again.
        self._reclaimer.try_spools()
        self._reclaimer.reclaim_own_name()
        for service in (self._keeper, self._reclaimer, self._wake, self._notices):
            service.start()
        self._settler_thread.start()
        which = ", ".join(self._options.campaigns) if self._options.campaigns else "all campaigns"
        log.info("worker %s: %d slots for %s at %s", self._options.name, self._options.slots, which,
                 safe_url(self._access.url), extra={"event": "started"})  # fmt: skip

    def _run_settler(self) -> None:
        try:
            self._settler.run()
        except GiveUp as reason:
            log.info("%s", reason)
        except Exception:
            log.exception("the settler failed: this worker ends; its jobs are released")
        self._settler_has_ended = True
        self._signals.wake()

    def _wait_for_end(self) -> None:
        while not self._settler_has_ended and not self._abandon.is_set():
            self._signals.wait(_TICK_S)
            if not self._signals.wants_drain and (reason := self._reason_to_end()):
                self._signals.drain(reason)
            if self._signals.wants_drain and self._drained_at is None:
                self._begin_drain()
            if not self._runner.is_alive:
                log.error("the runner failed: this worker ends; its jobs are released")
                return
            if self._signals.wants_stop or self._is_overdue():
                self._tell_of_stop()
                return
            self._tell_progress()
            self._remind()
            self._log_attempts()

    def _begin_drain(self) -> None:
        self._drained_at = time.monotonic()
        deadline = self._deadline()
        within = "" if deadline is None else f"; given back after {deadline - self._drained_at:.0f} s"
        self._told_running = running = self._state.running()
        log.info(
            "draining (%s): %d running%s%s", self._signals.reason, running, within, self._next_signal(),
            extra={"event": "draining"},
        )  # fmt: skip
        self._state.drain()
        # The card says so only now: whoever asked for the drain relies on it that nothing is leased any more.
        self._keeper.is_draining = True
        self._keeper.poke()

    def _next_signal(self) -> str:
        """What another Ctrl-C does, for a user who has pressed it and has not been told yet."""
        if self._has_told_of_second or signal.SIGINT not in self._signals.received:
            return ""
        self._has_told_of_second = True
        if not self._told_running:
            return ""
        them = "it" if self._told_running == 1 else "them"
        return f"; press Ctrl-C again after {ONE_S:g} s to give {them} back and stop now"

    def _tell_progress(self) -> None:
        """Log how many attempts a drain still waits for, at changes, and what the next Ctrl-C does."""
        if self._drained_at is None:
            return
        running, before = self._state.running(), self._told_running
        self._told_running = running
        hint = self._next_signal()
        if running and (hint or running != before):
            log.info("still draining: %d running%s", running, hint, extra={"event": "draining"})

    def _tell_of_stop(self) -> None:
        why = self._signals.reason if self._signals.wants_stop else "the time of this worker is over"
        running = self._state.running()
        log.info(
            "stopping now (%s)%s", why, f": {running} running, given back" if running else "",
            extra={"event": "stopping"},
        )  # fmt: skip

    def _log_attempts(self) -> None:
        if (attempts := self._attempt_log) is None:
            return
        attempts.write()
        if self._state.running() or attempts.expects_ends:
            self._runner.look(attempts.see)  # for the next time

    def _remind(self) -> None:
        """Log once that a drain without a deadline takes long. What runs may never end, such as a pool whose
        processes have died of the signal."""
        if self._drained_at is None or self._has_reminded or self._deadline() is not None:
            return
        if time.monotonic() - self._drained_at > _REMIND_AFTER_S:
            self._has_reminded = True
            log.warning(
                "still draining: %d running; another signal gives back what runs and ends this worker",
                self._state.running(),
            )  # fmt: skip

    def _is_overdue(self) -> bool:
        deadline = self._deadline()
        return deadline is not None and time.monotonic() > deadline

    def _deadline(self) -> float | None:
        """When what still runs is given back (monotonic, s), as far as it is known now."""
        if self._drained_at is None:
            return self._ends_at()
        batch = self._options.allocation
        ends = [self._ends_at()]
        # After its end an allocation is in its grace time, which begins with SIGTERM.
        if self._allocation_ends_at is not None and self._allocation_ends_at > self._drained_at:
            ends.append(self._allocation_ends_at)
        return drain_deadline(
            self._signals.received, drained_at=self._drained_at,
            ends_at=min((at for at in ends if at is not None), default=None),
            is_batch=batch is not None and batch.is_batch, timeout_s=self._options.drain_timeout_s,
        )  # fmt: skip

    def _end(self) -> None:
        self._is_ending = True
        self._wake.stop()
        self._notices.stop()
        self._reclaimer.stop()
        self._settler.stop()
        running = self._runner.close() if self._runner.is_started else {}
        failed = "the time of this worker is over" if self._is_overdue() else "the worker failed"
        self._settle_up(running, f"drain: {self._signals.reason or failed}")
        self._sweeper.close(_SWEEP_S)
        if self._attempt_log is not None:
            self._attempt_log.see(())
            self._attempt_log.write(is_last=True)
        log.info("worker %s has ended", self._options.name, extra={"event": "ended"})

    def _settle_up(self, running: dict[str, list[Token]], reason: str) -> None:
        try:
            self._settler_thread.join(timeout=_SETTLE_S)
            if self._settler_thread.is_alive():
                # The reply does not come. What the call carries goes to disk, as when the server is away.
                self._settler_link.interrupt()
                self._settler_thread.join(timeout=_SPOOL_S)
            if self._settler_thread.is_alive() or self._abandon.is_set():
                raise GiveUp("the server is away")
            # A beat after the end would show this worker again. The leases last long enough without one.
            self._keeper.stop()
            self._settler.finish(running, reason)
            self._keeper.sign_off()
        except GiveUp:
            self._give_back_later(running, reason)

    def _give_back_later(self, running: dict[str, list[Token]], reason: str) -> None:
        """Keep on disk what cannot be settled now: the next worker on this machine delivers it."""
        kept = 0 if self._settler_thread.is_alive() else self._settler.finish_into_spool(running, reason)
        held = sum(len(tokens) for _, tokens in self._state.campaigns.holdings())
        if kept:
            log.warning(
                "the server is away: %d jobs are given back, uncharged, by the next worker on this machine "
                "if it starts before their leases expire", kept,
            )  # fmt: skip
        elif held:
            log.warning("the server is away: what was held returns to the queue when its lease expires")

    def _reason_to_end(self) -> str | None:
        idle = self._options.idle_timeout_s
        if idle is not None and self._state.idle_s() > idle:
            return f"idle for {idle:g} s"
        now = time.monotonic()
        if self._limit_nears_at is not None and now > self._limit_nears_at:
            return f"the time limit of {self._options.time_limit_s:g} s is near"
        ends_at, nears_at = self._allocation_ends_at, self._allocation_nears_at
        # After its end an allocation is in its grace time, which begins with a signal.
        if ends_at is not None and nears_at is not None and nears_at < now < ends_at:
            return "the end of the allocation is near"
        return None

    def _drains_before(self, given_back_at: float | None, limit_s: float) -> float | None:
        """When this worker drains that gives back at `given_back_at` what still runs (monotonic, s)."""
        return None if given_back_at is None else given_back_at - notice_s(limit_s, self._options.notice_s)

    def _ends_at(self) -> float | None:
        """When this worker gives back what still runs because of its time limit (monotonic, s)."""
        limit = self._options.time_limit_s
        return None if limit is None else self._began_at + limit - end_margin_s(limit)

    def _is_out_of_time(self) -> bool:
        ends_at = self._ends_at()
        return ends_at is not None and time.monotonic() > ends_at

    def _settler_while_away(self, away_s: float) -> None:
        self._settler.spool()
        self._while_away(away_s)

    def _while_away(self, away_s: float) -> None:
        """Raise GiveUp when this worker is to wait for the server no longer.

        A draining worker waits for a few seconds. A worker that was started for an embedded server ends when
        that server was stopped on purpose.
        """
        reason = self._reason_to_give_up(away_s)
        if reason is not None:
            self._abandon.set()
            self._signals.wake()
            raise GiveUp(reason)

    def _end_refused(self, refusal: ServerUnreachableError) -> None:
        """End, because the server refuses this worker. Called in the thread that was refused."""
        self._refusal = refusal
        self._abandon.set()
        self._signals.wake()
        raise GiveUp("the server refuses this worker")

    def _reason_to_give_up(self, away_s: float) -> str | None:
        if (self._signals.wants_stop or self._is_ending) and away_s > 2.0:
            return "the server is away"
        if self._state.running() > 0:
            return None
        if self._signals.wants_drain and away_s > 5.0:
            return "the server is away"
        if self._is_out_of_time():
            return f"the server is away, and the time limit of {self._options.time_limit_s:g} s is near"
        idle = self._options.idle_timeout_s
        if idle is not None and away_s > 1.0 and self._is_stopped_server():
            return "the server was stopped"
        if idle is not None and away_s > idle:
            return f"the server has been away for {away_s:.0f} s"
        return None

    def _is_stopped_server(self) -> bool:
        home: Path | None = self._access.home
        return home is not None and server_state(home).state in ("stopped", "absent")

    def _check_name(self) -> None:
        name = self._options.name
        try:
            card = self._link.call(lambda client: client.hget(keys.machine_key(machine_id()), name))
        except NodeAwayError as error:
            log.warning("cannot see whether a worker named %s is running: %s", name, error)
            return
        if card is not None:
            process = parse_process(card)
            if process is not None and is_alive(*process):
                raise UsageError(
                    f"a worker named {name!r} is running already (pid {process[0]}); choose another --name"
                )


def _pace_s(lease_s: float) -> float:
    """The pause between attempts to reach a server that is away.

    A server that was frozen may lease jobs as soon as it is back, by a call that waited in its buffers. The
    next beat must come before that lease ends.
    """
    return min(PACE_S, lease_s / 4)


def _beat_timeout_s(lease_s: float, *, on_nodes: bool) -> float:
    """After how long without a reply a beat is sent again.

    A beat that is lost must leave time for another one; on a cluster also when two nodes fall silent at once.
    """
    if on_nodes:
        return min(_NODE_TIMEOUT_S, max(0.5, lease_s / 6))
    return min(REPLY_TIMEOUT_S, max(1.0, lease_s / 3))
