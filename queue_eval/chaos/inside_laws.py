"""Judges what running jobs have told and were told: reports, checkpoints and requests to stop early.

The logs of the executions (`inside_work`) are compared with what stands on the server, and what each found.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from statistics import median
from typing import Any

from queue_eval.chaos.evidence import Asked, Entry, Evidence, Fault, Point
from queue_eval.chaos.inside_work import GONE, Told
from queue_eval.model.states import Method

ON_ITS_WAY_S = 1.0
"""A report may be lost with its attempt for so long after it was made."""

_RECOVERS_S = 5.0
"""A worker that was frozen or cut off, or whose server was away, may take so long to tell what waits."""

_RECONNECTS_S = 2.5
"""A worker that was cut off tries to reconnect every two seconds."""

_UNHARMED = ("drain", "term-all", "clock-back", "second-server")
"""Faults that cost no report: a worker that ends tells first what waits."""

_REMOVES_S = 2.0
"""The checkpoints of a job that has succeeded are removed within so long."""

_Save = tuple[int, int]
"""A checkpoint: the number of its attempt, and of its save there."""


def no_report_of_another(evidence: Evidence) -> Iterator[str]:
    """Each report names the job, attempt and execution under which it stands, and stands there once."""
    made = {(told.x, told.attempt, told.run): told for told in evidence.told}
    for job, points in evidence.points.items():
        before, steps = (0, 0), set[tuple[int, int, int]]()
        for point in points:
            values = point.values
            x, attempt, run = (int(values.get(name, -1)) for name in ("job", "attempt", "run"))
            told = made.get((x, attempt, run))
            if x != job - 1 or told is None or not may_stand_under(evidence, attempt, point.attempt):
                yield f"job {job} has under attempt {point.attempt} a report of another: {dict(values)}"
                continue
            if values.get("n") != point.step:
                yield f"job {job}: step {point.step} of attempt {point.attempt} has the values of another"
            if (point.attempt, run, point.step) in steps:
                yield f"job {job} has step {point.step} of attempt {point.attempt} twice"
            if (point.attempt, point.number) <= before:
                yield f"job {job}: report {point.number} of attempt {point.attempt} stands behind {before}"
            before = (point.attempt, point.number)
            steps.add((point.attempt, run, point.step))
            # One that has not told all may have died before it logged its last reports.
            if told.has_left and point.step > told.made:
                yield f"job {job}: step {point.step} of attempt {point.attempt} was never made"
    yield from evidence.driver.wrong
    total, shown = sum(map(len, evidence.points.values())), evidence.driver.shown
    for job in evidence.points.keys() | shown.keys() if evidence.driver.has_ended else ():
        kept = len(evidence.points.get(job, ()))
        if shown.get(job, 0) != kept:
            yield f"the last life of the driver was shown {shown.get(job, 0)} of {kept} reports of job {job}"
    yield (
        f"{total} reports of {len(evidence.points)} jobs, {sum(shown.values())} shown to the driver" if total
        else "not observed: no job has reported"
    )  # fmt: skip


def may_stand_under(evidence: Evidence, attempt: int, lease: int) -> bool:
    """Whether a report that names this attempt may stand under this lease. With RQ, a lease joins what runs
    for an earlier one of the job."""
    return attempt == lease or (evidence.settings.method is Method.RQ and attempt < lease)


def reports_are_complete(evidence: Evidence) -> Iterator[str]:
    """All reports are there, or counted as dropped, up to the last second before an attempt's death."""
    fates = _Fates(evidence)
    settled = dropped = demanded = 0
    for told in evidence.told:
        kept = fates.points(told)
        has_settled = fates.has_settled_in_order(told)
        due = told.made if has_settled else fates.due(told)
        there = len({point.step for point in kept if point.step <= due})
        # The server takes each gap between the numbers for what was dropped. Only who floods drops any.
        gaps = max((point.number for point in kept), default=0) - len(kept) if told.floods else 0
        settled += has_settled
        demanded += due
        dropped += gaps
        if there + gaps < due:
            end = "settled in order" if has_settled else f"last heard of at {told.last_at:.2f}"
            yield (
                f"job {told.id} has {there} of {due} reports of attempt {told.attempt} on {told.worker}, and "
                f"{gaps} dropped; it {end}"
            )
    if not demanded:
        yield "not observed: no report was due"
    else:
        attempts = len(evidence.told)
        yield f"{demanded} due, {dropped} dropped; {settled} of {attempts} attempts settled in order"


def checkpoints_are_monotone(evidence: Evidence) -> Iterator[str]:
    """What an attempt finds is whole, and never older than what was complete or found before it began."""
    by_job: dict[int, list[Told]] = defaultdict(list)
    for told in evidence.told:
        by_job[told.id].append(told)
    fates = _Fates(evidence)
    found = 0
    for job, attempts in by_job.items():
        for one in attempts:
            if one.found_at is None:
                continue
            found += one.found is not None
            yield from _judge_found(f"job {job}, attempt {one.attempt}", one, attempts, fates.over_at(job))
        left = evidence.checkpoints.get(job)
        yield from _judge_left(f"job {job}", attempts, left, fates.entry(job))
        if left is not None and not fates.may_leave(job, attempts):
            yield f"job {job} has succeeded and left {_named(_save_of(left))}"
    saved = sum(len(told.saved) for told in evidence.told)
    yield f"{found} found, {saved} saved, {len(evidence.checkpoints)} left" if saved else (
        "not observed: no checkpoint was saved"
    )


def stops_are_told(evidence: Evidence) -> Iterator[str]:
    """A job that was asked to stop is told at the beginning of its next attempt; nobody else is."""
    late, at_once = 0, []
    asked: dict[int, Asked] = {}
    # The driver does not know which lease is the newest: one may have come since the report.
    by_driver = [Asked(job, at, attempt + 1) for job, at, attempt in evidence.driver.stopped]
    for one in sorted([*evidence.asked, *by_driver], key=lambda one: one.at):
        asked.setdefault(one.id, one)
    tried = {*evidence.tried_to_stop, *evidence.driver.stops}
    for told in evidence.told:
        request = asked.get(told.id)
        told_at = told.notices.get("stop")
        if told_at is not None and told.id not in tried:
            yield f"job {told.id} was told to stop in attempt {told.attempt}, and nobody has asked it"
        if request is None or told.found_at is None or not told.looks:
            continue
        if told.attempt > request.attempt and told.began_at > request.at:
            late += 1
            if told.first_notice != "stop":
                yield (
                    f"job {told.id} was asked to stop at {request.at:.2f}, in attempt {request.attempt} or "
                    f"before, and attempt {told.attempt} was told {told.first_notice} at its beginning"
                )
        elif told_at is not None and told.began_at < request.at:
            at_once.append(told_at - request.at)
    shown = {told.token: "stop" in told.notices for told in evidence.told}
    for entry in evidence.entries:
        if entry.token in shown and entry.has_stopped != shown[entry.token]:
            said = {True: "stopped early", False: "not stopped early"}
            yield f"job {entry.id} is recorded as {said[entry.has_stopped]}, which is wrong"
    if not asked:
        yield "not observed: no job was asked to stop"
    else:
        middle = f", after {median(at_once):.2f} s in the middle" if at_once else ""
        yield (
            f"{len(asked)} asked; {len(at_once)} told while they ran{middle}, {late} at a later beginning"
        )


class _Fates:
    """How each execution has ended, as far as it matters for what it told."""

    def __init__(self, evidence: Evidence) -> None:
        self._evidence = evidence
        self._points: dict[tuple[int, int], list[Point]] = defaultdict(list)
        for job, points in evidence.points.items():
            for point in points:
                if may_stand_under(evidence, int(point.values.get("attempt", -1)), point.attempt):
                    self._points[job, int(point.values.get("run", -1))].append(point)
        self._entries: dict[int, Entry] = {entry.id: entry for entry in evidence.entries}
        self._causes: dict[tuple[int, int], set[str]] = defaultdict(set)
        self._recorded_at: dict[tuple[int, int], float] = {}
        for failure in evidence.failures:
            self._causes[failure.id, failure.attempt].add(failure.cause)
            at = failure.at if failure.after is None else failure.after
            self._recorded_at.setdefault((failure.id, failure.attempt), at)
        self._began: dict[int, list[tuple[int, float]]] = defaultdict(list)
        for told in evidence.told:
            self._began[told.id].append((told.attempt, told.began_at))
        self._raised = {line.token: line.at for line in evidence.side if line.what == "raise"}
        self._ended = {line.token: line.at for line in evidence.side if line.what == "end"}
        self._died = {line.token: line.at for line in evidence.side if line.what == "die"}
        self._harm = [
            (fault, fault.at, (fault.at if fault.until is None else fault.until) + _RECOVERS_S)
            for fault in evidence.faults
            if fault.what not in _UNHARMED
        ]

    def points(self, told: Told) -> list[Point]:
        """The reports of this execution on the server."""
        return self._points[told.id, told.run]

    def entry(self, job: int) -> Entry | None:
        return self._entries.get(job)

    def may_leave(self, job: int, told: list[Told]) -> bool:
        """Whether checkpoints of a job may be left: it has not succeeded; or somebody did not live to remove
        them; or an attempt that lived on has saved afterwards."""
        entry, over_at = self._entries.get(job), self.over_at(job)
        if entry is None or entry.state != "succeeded":
            return True
        return any(
            one.last_at > over_at or self._was_hindered(one.worker, one.began_at, over_at + _REMOVES_S)
            for one in told
        )

    def over_at(self, job: int) -> float:
        """When the execution that has won returned; infinity without one."""
        entry = self._entries.get(job)
        return self._ended.get(entry.token, float("inf")) if entry is not None else float("inf")

    def has_settled_in_order(self, told: Told) -> bool:
        """Whether this execution came to its own end, and was settled under its lease."""
        key = told.id, told.attempt
        causes = self._causes[key]
        entry = self._entries.get(told.id)
        if "lost" in causes or any(number > told.attempt for number in self._begun_before_end(told)):
            return False
        if entry is not None and entry.token == told.token:
            has_ended, at = not causes, self._settled_at(entry)
        else:
            has_ended = bool(causes) and (told.gave_back_at is not None or told.token in self._raised)
            at = self._recorded_at.get(key, 0.0)
        return has_ended and not self._is_spooled(told, at) and not self._may_have_expired(told, at)

    def due(self, told: Told) -> int:
        """How many reports must be there of an execution that was interrupted, or had lost its lease."""
        until = min(
            told.last_at, self._died.get(told.token, float("inf")),
            self._recorded_at.get((told.id, told.attempt), float("inf")),
            self.over_at(told.id),
            *(at for number, at in self._began[told.id] if number > told.attempt),
        )  # fmt: skip
        due = 0
        for at, made in told.reports:
            if at + ON_ITS_WAY_S <= until and not self._was_hindered(told.worker, at, at + ON_ITS_WAY_S):
                due = made
        return due

    def _begun_before_end(self, told: Told) -> list[int]:
        """The numbers of the job's attempts that had begun when this one ended."""
        return [number for number, at in self._began[told.id] if at <= told.last_at]

    def _settled_at(self, entry: Entry) -> float:
        """When it was recorded, at the latest."""
        if self._evidence.settings.has("clock-back"):
            return self._evidence.ended_at
        return int(entry.entry.partition("-")[0]) / 1000

    def _is_spooled(self, told: Told, settled_at: float) -> bool:
        """Whether its end may have been settled from the disk, where no reports are: its worker ended while
        the server was away."""
        return self._was_hindered(told.worker, told.last_at, settled_at) and any(
            told.worker in fault.workers and fault.what in ("kill", "drain", "term-all")
            for fault in self._evidence.faults
            if fault.at <= settled_at and (fault.until is None or fault.until >= told.last_at)
        )

    def _may_have_expired(self, told: Told, settled_at: float) -> bool:
        """Whether its worker was silent for so long that the server may have taken the lease back. Of a lease
        that had not begun, as far as the server knew, that is not on record."""
        silent_s = 2 * self._evidence.settings.lease_s / 3
        return any(
            told.worker in fault.workers and fault.lasted_s + more_s > silent_s
            for fault in self._evidence.faults
            if (more_s := {"pause": 0.0, "cut": _RECONNECTS_S}.get(fault.what)) is not None
            if fault.at <= settled_at and (fault.until is None or fault.until + more_s >= told.began_at)
        )

    def _was_hindered(self, worker: str, since: float, until: float) -> bool:
        """Whether the server or this worker were out of order meanwhile, or not long before."""
        if any(begun <= until and since <= ended for begun, ended in self._evidence.stalls):
            return True
        return any(
            begun <= until and since <= ended
            for fault, begun, ended in self._harm
            if _is_of(fault, worker)
        )


def _is_of(fault: Fault, worker: str) -> bool:
    return fault.victim == "server" or worker in fault.workers


def _judge_found(name: str, one: Told, told: list[Told], over_at: float) -> Iterator[str]:
    assert one.found_at is not None
    is_replaced = any(o.attempt > one.attempt and o.began_at <= one.found_at for o in told)
    is_over = over_at <= one.found_at
    if one.found is not None:
        wrong = one.found.get("wrong")
        if wrong is not None and not (wrong == GONE and (is_replaced or is_over)):
            yield f"{name} found a checkpoint that is not whole: {wrong}"
        if wrong is not None:
            return
        if (problem := _unmade(one.found, told, one.found_at)) is not None:
            yield f"{name} found {problem}"
            return
    if is_over:  # the checkpoints of a job that has succeeded are removed
        return
    least, why = _least(one.began_at, told, before=one)
    seen = _save_of(one.found)
    if seen < least:
        yield f"{name} found {_named(seen)}, and {_named(least)} had been {why} before it began"


def _unmade(found: Mapping[str, Any], told: list[Told], until: float) -> str | None:
    """Why nobody can have found this checkpoint then; None: it was saved before."""
    makers = [one for one in told if one.token == found["token"]]
    if not makers or (makers[0].x, makers[0].attempt) != (found["x"], found["attempt"]):
        return f"a checkpoint of another: {dict(found)}"
    if makers[0].saving.get(found["save"], float("inf")) > until:
        return f"a checkpoint that was not complete: {dict(found)}"
    return None


def _least(until: float, told: list[Told], *, before: Told | None = None) -> tuple[_Save, str]:
    """The newest checkpoint that was found, or completed by the newest attempt, before a moment."""
    least, why = (0, 0), ""
    for one in told:
        if one is before:
            continue
        if one.found_at is not None and one.found_at < until and (seen := _save_of(one.found)) > least:
            least, why = seen, f"found by attempt {one.attempt}"
        newer = min((o.began_at for o in told if o.attempt > one.attempt), default=float("inf"))
        for save, at in one.saved.items():
            if at < min(until, newer) and (one.attempt, save) > least:
                least, why = (one.attempt, save), "saved"
    return least, why


def _judge_left(
    name: str, told: list[Told], left: Mapping[str, Any] | None, entry: Entry | None
) -> Iterator[str]:
    """The newest checkpoint of a failed job is still there when all is over."""
    if left is not None:
        problem = left.get("wrong") or _unmade(left, told, float("inf"))
        if problem is not None:
            yield f"{name} has left a checkpoint that is not whole, or {problem}"
            return
    least, why = _least(float("inf"), told)
    if entry is not None and entry.state == "failed" and _save_of(left) < least:
        yield f"{name} has failed and left {_named(_save_of(left))}, and {_named(least)} had been {why}"


def _save_of(found: Mapping[str, Any] | None) -> _Save:
    return (0, 0) if found is None or "wrong" in found else (found["attempt"], found["save"])


def _named(save: _Save) -> str:
    return f"checkpoint {save[0]}-{save[1]}" if save != (0, 0) else "no checkpoint"
