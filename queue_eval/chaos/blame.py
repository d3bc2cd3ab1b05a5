"""Finds the cause of each recorded loss: the job itself, a fault, or none.

A fault on a worker can cost at most the attempts in its slots; a killed child costs those that ran in it. A
loss is explained by a death that the job itself has logged. Else it is explained by a fault that hit the
loss's worker not long before, and that has explained fewer losses so far than it can have caused. The death
or pause of the server explains none. Nor does a stop by a signal: the worker gives back what it holds, unless
the server is out of reach.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from queue_eval.chaos.evidence import CLOCK_S, STOPS, Evidence, Failure, Fault, records_before
from queue_eval.model.states import RELEASED, Method

_NOTICE_S = 20.0
"""A loss is noticed at most a lease and so long after the fault: there may be a grace, or the machine may be
busy. This time begins anew whenever the server was away."""

_NOTICE_RQ_S = 60.0
"""The same with RQ: an execution counts as dead after 16 s without a sign of life, in which RQ's Redis was
always there."""

_RECONNECT_S = 2.5
"""A worker that was cut off tries to reconnect every two seconds."""


class Blame:
    """The explanation of all losses of an attack."""

    def __init__(self, evidence: Evidence) -> None:
        self._evidence = evidence
        self._settings = evidence.settings
        self._before = records_before(evidence.failures)
        self._raised: dict[int, list[float]] = defaultdict(list)
        for line in evidence.side:
            if line.what == "raise":
                self._raised[line.x + 1].append(line.at)
        self.own = 0
        """Losses that the jobs themselves have caused."""
        self.done = 0
        """Losses that faults have caused."""
        self.unexplained: list[str] = []
        self.harmed_by_neighbours: list[str] = []
        self._explain()

    @property
    def most_interrupted(self) -> int:
        """How many executions faults, releases and the deaths of neighbours may have made necessary."""
        given_back = sum(failure.cause == RELEASED for failure in self._evidence.failures)
        return sum(map(self._harm, self._evidence.faults)) + given_back + self._deaths_in_company()

    def _explain(self) -> None:
        own = self._own_losses()
        budget = {id(fault): self._harm(fault) for fault in self._evidence.faults}
        neighbours = self._deaths_in_company()
        self.own = sum(id(failure) in own for failure in self._losses())
        for failure in self._losses():
            if id(failure) in own:
                continue
            candidates = list(self._candidates(failure))
            culprit = next((f for f in candidates if budget[id(f)] > 0), None)
            if self._had_raised(failure) and any(self._harm(f) for f in candidates):
                self.done += 1
            elif culprit is not None:
                budget[id(culprit)] -= 1
                self.done += 1
            elif neighbours > 0:
                neighbours -= 1
                self.done += 1
            elif not self._machine_stood_still(failure):
                self.unexplained.append(
                    f"job {failure.id} lost attempt {failure.attempt} on {failure.worker} at {failure.at:.2f}"
                )
        self._check_neighbours()

    def _losses(self) -> Iterator[Failure]:
        return (failure for failure in self._evidence.failures if failure.cause == "lost")

    def _own_losses(self) -> set[int]:
        """By `id`: each death that a job has logged explains the nearest loss or release that follows it.

        A loss shortly before the death belongs to an earlier attempt. A worker may take a moment to charge a
        death.
        """
        deaths: dict[int, list[float]] = defaultdict(list)
        for line in self._evidence.side:
            if line.what == "die":
                deaths[line.x + 1].append(line.at)
        pairs = sorted(
            (abs(failure.at - died_at), died_at, id(failure), failure.id)
            for failure in self._evidence.failures
            if failure.cause in ("lost", RELEASED)
            for died_at in deaths[failure.id]
            if died_at <= failure.at + CLOCK_S
        )
        own: set[int] = set()
        for _, died_at, failure, job in pairs:
            if failure not in own and died_at in deaths[job]:
                deaths[job].remove(died_at)
                own.add(failure)
        return own

    def _had_raised(self, failure: Failure) -> bool:
        """Whether the attempt had raised and had no slot any more. Its worker holds it for a moment, to see
        whether a stop signal explains the error."""
        return any(self._before[id(failure)] < at <= failure.at for at in self._raised[failure.id])

    def _candidates(self, failure: Failure) -> Iterator[Fault]:
        """Faults that can have caused this loss, the latest first."""
        late_s = self._settings.lease_s + (_NOTICE_RQ_S if self._settings.method is Method.RQ else _NOTICE_S)
        for fault in reversed(self._evidence.faults):
            if failure.worker not in fault.workers:
                continue
            if fault.at - 1.0 <= failure.at <= self._noticed_by(fault, late_s):
                yield fault

    def _noticed_by(self, fault: Fault, late_s: float) -> float:
        """When the losses of a fault are noticed at the latest."""
        noticed_by = _end(fault) + late_s
        for away in self._evidence.faults:  # in the order of time
            if away.victim == "server" and fault.at <= away.at <= noticed_by:
                noticed_by = max(noticed_by, _end(away) + late_s)
        return noticed_by

    @property
    def _slots(self) -> int:
        """How many attempts a worker may hold."""
        settings = self._settings
        # A worker that forwards to RQ may hold all attempts that are in flight.
        return settings.total_slots if settings.method is Method.RQ else settings.slots

    def _harm(self, fault: Fault) -> int:
        """How many attempts a fault can have cost."""
        everything = self._slots
        if fault.victim == "child":
            return everything if self._settings.method is Method.THREAD else 1
        if fault.victim == "worker" and fault.what == "kill":
            return everything
        if fault.what in STOPS:
            # It may hold attempts that it could not give back, or that a lost reply had granted.
            return everything if self._was_cut_off(fault) else 0
        # The last heartbeat was up to a third of a lease before the fault.
        outlasts_s = 2 * self._settings.lease_s / 3 - (_RECONNECT_S if fault.what == "cut" else 0.0)
        if fault.workers and fault.what in ("pause", "cut") and fault.lasted_s > outlasts_s:
            return everything * len(fault.workers)
        return 0

    def _was_cut_off(self, drain: Fault) -> bool:
        """Whether the server was out of a worker's reach while that worker gave back what it ran."""
        until = float("inf") if drain.until is None else drain.until
        return any(
            fault.at <= until and (fault.until is None or fault.until >= drain.at)
            for fault in self._evidence.faults
            if fault.victim == "server" or (fault.what == "cut" and set(drain.workers) & set(fault.workers))
        )

    def _deaths_in_company(self) -> int:
        """How many attempts may have ended because another one ended their common process."""
        if self._settings.method is not Method.THREAD:
            return 0
        deaths = sum(line.what == "die" for line in self._evidence.side)
        return deaths * (self._settings.slots - 1)

    def _check_neighbours(self) -> None:
        """Find the jobs that ran in a process when another job ended it."""
        running: dict[int, dict[int, str]] = defaultdict(dict)
        for line in self._evidence.side:
            if line.what == "start":
                running[line.pid][line.x + 1] = line.token
            elif line.what != "die":
                running[line.pid].pop(line.x + 1, None)
            else:
                killer = line.x + 1
                for job in running.pop(line.pid).keys() - {killer}:
                    self.harmed_by_neighbours.append(f"job {job} ran where job {killer} ended its process")

    def _machine_stood_still(self, failure: Failure) -> bool:
        late_s = self._settings.lease_s + _NOTICE_S
        return any(begun <= failure.at <= ended + late_s for begun, ended in self._evidence.stalls)


def _end(fault: Fault) -> float:
    return fault.at if fault.until is None else fault.until
