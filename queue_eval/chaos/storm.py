"""Runs an attack from its beginning to its end: faults, then calm, then the collection of evidence.

::

    fleet: server, driver, workers ◀── attack: faults by the schedule
       │                           ◀── observer: samples
       ▼ the campaign ends
    drain ──▶ search for leftovers ──▶ evidence
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from queue_eval.campaign.registry import live_workers
from queue_eval.campaign.view import CampaignView
from queue_eval.chaos import processes, reading
from queue_eval.chaos.attack import Attack
from queue_eval.chaos.driver import CAMPAIGN, LOG, read_log
from queue_eval.chaos.evidence import Evidence, write_faults
from queue_eval.chaos.fleet import Fleet
from queue_eval.chaos.inside_work import read_inside_log
from queue_eval.chaos.observer import Observer, StallDetector
from queue_eval.chaos.settings import Settings
from queue_eval.chaos.stopper import Stopper
from queue_eval.chaos.workload import plan, read_side_log
from queue_eval.errors import CampaignNotFoundError, GiveUp
from queue_eval.model.states import Method
from queue_eval.transport.link import Link

_TICK_S = 0.02
_STUCK_AFTER_S = 90.0
"""A campaign in which nothing happens for so long after the last fault counts as stuck."""

_MAX_CASUALTIES = 10
"""The attack ends after so many processes that ended by themselves: there is nothing more to learn."""

_START_TIMEOUT_S = 10.0

_MARKER_TIMEOUT_S = 6.0
"""How long idle workers may take to remove markers: they block on them for 2 s at a time."""


@dataclass(frozen=True)
class Progress:
    """The progress of an attack."""

    finished: int
    evaluations: int
    faults: int
    elapsed_s: float
    is_calm: bool


def storm(
    settings: Settings, folder: Path, *, is_temporary: bool, on_progress: Callable[[Progress], None]
) -> Evidence:
    """Attack a campaign whose files are all in `folder`. Returns the evidence when it is over.

    Guarantees: no process of the attack runs any more when this returns or raises. `is_temporary`: the folder
    is removed if this very process is killed.
    """
    with Fleet(settings, folder, is_temporary=is_temporary) as fleet:
        attack = Attack(fleet)
        observer, detector = Observer(fleet.access), StallDetector()
        stopper = Stopper(fleet.access, settings.seed)
        observer.start()
        detector.start()
        stopper.start()
        try:
            evidence = _Storm(fleet, attack, observer, on_progress).run()
            return dataclasses.replace(
                evidence, stalls=detector.stalls, asked=stopper.asked, tried_to_stop=stopper.tried,
                blind=[*evidence.blind, *stopper.errors],
            )  # fmt: skip
        finally:
            stopper.stop()
            detector.stop()
            observer.stop()
            write_faults(attack.faults, folder)


class _Storm:
    def __init__(
        self, fleet: Fleet, attack: Attack, observer: Observer, on_progress: Callable[[Progress], None]
    ) -> None:  # fmt: skip
        self._fleet = fleet
        self._settings = fleet.settings
        self._observer = observer
        self._attack = attack
        self._began_at = time.monotonic()
        self._on_progress = on_progress
        self._reported_at = 0.0

    def run(self) -> Evidence:
        fleet, attack = self._fleet, self._attack
        until = self._began_at + self._settings.attack_s
        while not (fleet.is_done or self._is_hopeless()) and time.monotonic() < until:
            attack.step()
            self._turn(is_calm=False)
        attack.calm()
        calm_from = time.monotonic()
        has_ended = self._await_end()
        calm_s = time.monotonic() - calm_from
        return self._collect(has_ended=has_ended, calm_s=calm_s)

    def _turn(self, *, is_calm: bool) -> None:
        self._fleet.keep()
        now = time.monotonic()
        if now - self._reported_at > 1.0:
            self._reported_at = now
            self._on_progress(
                Progress(
                    self._observer.finished, self._settings.evaluations, len(self._attack.faults),
                    now - self._began_at, is_calm,
                )
            )  # fmt: skip
        time.sleep(_TICK_S)

    def _await_end(self) -> bool:
        """Wait until the driver ends, while all processes run again. False if the campaign is stuck."""
        log = self._fleet.folder / LOG
        state, changed_at = None, time.monotonic()
        # Ask `is_calm` in every turn: that is when the attack notes which faults are over.
        while not (self._attack.is_calm and self._fleet.is_done):
            self._turn(is_calm=True)
            size = log.stat().st_size if log.exists() else 0
            now = time.monotonic()
            if (size, self._observer.finished) != state:
                state, changed_at = (size, self._observer.finished), now
            if now - changed_at > _STUCK_AFTER_S or self._is_hopeless():
                return False
        return True

    def _is_hopeless(self) -> bool:
        return self._fleet.is_server_lost or len(self._fleet.casualties) > _MAX_CASUALTIES

    def _collect(self, *, has_ended: bool, calm_s: float) -> Evidence:
        fleet, observer = self._fleet, self._observer
        ended_at = time.time()
        evidence = Evidence(
            settings=self._settings,
            planned=plan(
                self._settings.evaluations, self._settings.seed, fleet.folder,
                only_short=self._settings.only_short,
            ),
            side=(), driver=read_log(fleet.folder), table=reading.read_table(fleet.folder),
            entries=(), seen=observer.seen, index={}, failures=(), told=(), points={},
            samples=observer.samples,
            faults=self._attack.faults, stalls=(), casualties=fleet.casualties,
            ended_at=ended_at, blind=observer.errors, has_ended=has_ended, calm_s=calm_s,
        )  # fmt: skip
        link = Link(fleet.access, name="queue-eval-chaos", on_wait=self._while_away)
        try:
            view = CampaignView.attach(link, CAMPAIGN)[0]
            markers = self._markers(link, view)
            self._await_register(link, view)
            not_drained = fleet.drain()
            observer.finish()
            evidence = dataclasses.replace(
                evidence,
                entries=list(reading.entries_after(view)),
                index=reading.read_index(link, view),
                failures=list(reading.read_failures(link, view, self._failed_at)),
                points=reading.read_points(view),
                last_id=view.snapshot().last_id,
                final_memory=reading.used_memory(link),
                left={"leases": reading.read_leases(link, view), "markers": markers},
            )
        except CampaignNotFoundError:  # the driver never opened it
            not_drained = fleet.drain()
        except GiveUp as reason:
            fleet.casualties.append(str(reason))
            not_drained = fleet.drain()
        finally:
            link.close()
        return dataclasses.replace(
            evidence,
            side=list(read_side_log(fleet.folder)),
            told=read_inside_log(fleet.folder),
            checkpoints=reading.read_checkpoints(fleet.home),
            left={
                **evidence.left,
                "spools": reading.read_spools(fleet.home),
                "processes": [*not_drained, *self._processes()],
                "files": [*reading.read_strays(fleet.folder), *fleet.temporary_files()],
            },
        )

    @property
    def _failed_at(self) -> dict[str, tuple[float, float]]:
        """When failures were recorded, if the server's clock was moved, so that its own times are wrong."""
        return self._observer.failed_at if self._settings.has("clock-back") else {}

    def _while_away(self, away_s: float) -> None:
        if self._fleet.is_server_lost or away_s > _START_TIMEOUT_S:
            raise GiveUp("the server does not answer when all is over")

    def _markers(self, link: Link, view: CampaignView) -> list[str]:
        """The markers that stay though idle workers should have removed them."""
        deadline = time.monotonic() + _MARKER_TIMEOUT_S
        while (markers := reading.read_markers(link, view)) and time.monotonic() < deadline:
            self._fleet.keep()
            time.sleep(0.1)
        return markers

    def _await_register(self, link: Link, view: CampaignView) -> None:
        """Wait until the registered workers are those that run, and no other ones attend the campaign.

        Dead workers disappear when their cards and leases expire. Workers that have only just started cannot
        drain yet.
        """

        def is_settled() -> bool:
            self._fleet.keep()
            running = {seat.name: seat.pid for seat in self._fleet.workers if seat.is_up}
            registered = {worker.card.name: worker.card.pid for worker in live_workers(link)}
            if registered != running or set(reading.read_register(link)) != set(running):
                return False
            return set(reading.read_attendance(link, view)) <= set(running)

        processes.wait_for(is_settled, 2 * self._settings.lease_s + _START_TIMEOUT_S, 0.1)

    def _processes(self) -> list[str]:
        """Stop the server, and describe the processes that still run after some time."""
        self._fleet.stop_server()
        mark = self._fleet.mark
        # RQ's work horses finish what they run when their worker is gone. Ray's processes take time to notice
        # that their node is gone.
        patience_s = {Method.RAY: 60.0, Method.RQ: 25.0}.get(self._settings.method, 5.0)
        processes.wait_for(lambda: not processes.marked(mark), patience_s)
        return [processes.describe(process) for process in processes.marked(mark)]
