"""A history in which every law holds: what a small attack with one killed worker might have left."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from queue_eval.chaos.driver import DriverLog, Gathered, digest
from queue_eval.chaos.evidence import Entry, Evidence, Failure, Fault, Point, Row, Sample
from queue_eval.chaos.inside_work import Told
from queue_eval.chaos.settings import VICTIMS, Settings, checked
from queue_eval.chaos.workload import MAX_ATTEMPTS, Planned, SideLine, plan, value_of

KILLED_AT = 1000.0
END = 1100.0
VICTIM = "w0"
OTHER = "w1"

_RUN_S = 0.6

_OWN = {"error": ("error", "raise"), "timeout": ("timeout", ""), "lost": ("lost", "die")}


def settings(**changes: object) -> Settings:
    given = {
        "evaluations": 40, "method": "process", "workers": 2, "slots": 2, "seed": 5, "minutes": 1,
        "fault_every_s": 1.0, "lease_s": 4.0,
    }  # fmt: skip
    kinds = {kind.replace("-", "_"): kind for kind in VICTIMS}
    faults = {"kill": "worker"} | {kinds[name]: value for name, value in changes.items() if name in kinds}
    others = {name: value for name, value in changes.items() if name not in kinds}
    return checked(**(given | others), faults=faults)


def sound(**changes: object) -> Evidence:
    """A whole history. One short job was lost with the worker that was killed, and ran again."""
    chosen = settings(**changes)
    planned = plan(chosen.evaluations, chosen.seed, "/nowhere")
    unlucky = job_of(planned, "short")
    side: list[SideLine] = []
    told: list[Told] = []
    failures: list[Failure] = []
    for one in planned:
        for line, failure in _life(one, is_unlucky=one.x + 1 == unlucky):
            side += line
            failures += failure
            told.append(_told(line, told))
    entries = [_entry(one, sum(t.x == one.x for t in told)) for one in planned]
    gathered = [
        Gathered(2, False, e.id, e.id - 1, e.state, e.cause, e.token, e.digest) for e in entries
    ]  # fmt: skip
    early = [replace(one, life=1) for one in gathered[:10]]
    adopted = [replace(one, adopted=True) for one in gathered[10:12]]
    samples = [
        Sample(KILLED_AT + i / 10, len(planned), len(planned), 5, i, {VICTIM: 0, OTHER: 2}, 2**20)
        for i in range(100)
    ]
    return Evidence(
        settings=chosen, planned=planned, side=sorted(side, key=lambda line: line.at),
        driver=DriverLog(
            [*early, *adopted, *gathered], 2, has_ended=True,
            shown={job: len(points) for job, points in _points(told).items()},
        ),
        table=[Row(e.id, e.id - 1, e.token, e.digest) for e in entries], entries=entries,
        seen={entry.entry: entry for entry in entries}, index={entry.id: entry.entry for entry in entries},
        failures=failures, samples=samples, told=told, points=_points(told),
        checkpoints={one.id: _checkpoint(one) for one in told if planned[one.x].outcome != "succeeded"},
        faults=[Fault("kill", "worker", KILLED_AT, KILLED_AT + 0.5, (VICTIM,))], stalls=[], casualties=[],
        ended_at=KILLED_AT + 9, left={"spools": [], "processes": []}, final_memory=2**21,
        last_id=len(planned),
    )  # fmt: skip


def job_of(planned: list[Planned], kind: str) -> int:
    """The first job of a kind."""
    return next(one.x + 1 for one in planned if one.kind == kind)


def _life(one: Planned, *, is_unlucky: bool) -> Iterator[tuple[list[SideLine], list[Failure]]]:
    """What each execution has logged, and what the server has recorded of it."""
    job, at = one.x + 1, KILLED_AT + 5 + one.x
    attempt = 0

    def line(what: str) -> SideLine:
        ran_s = _RUN_S if what == "end" else 0.0
        return SideLine(
            what, one.x, job, 100 + 50 * job + attempt, at + attempt + ran_s, _token(one, attempt)
        )

    if is_unlucky:
        attempt += 1
        at = KILLED_AT - 2.5
        yield [line("start")], [Failure(job, attempt, "lost", VICTIM, KILLED_AT + 1)]
        at = KILLED_AT + 5 + one.x
    times = {"succeeded": one.config.get("times", 0)}.get(one.outcome, MAX_ATTEMPTS)
    cause, what = _OWN.get(one.outcome) or _OWN["error" if one.kind == "flaky" else "lost"]
    for _ in range(times):
        attempt += 1
        lines = [line("start"), *([line(what)] if what else [])]
        yield lines, [Failure(job, attempt, cause, OTHER, at + attempt)]
    if one.outcome == "succeeded":
        attempt += 1
        yield [line("start"), line("end")], []


def _token(one: Planned, attempt: int) -> str:
    return f"{attempt:04x}{one.x:012x}"


def _entry(one: Planned, attempt: int) -> Entry:
    if one.outcome != "succeeded":
        return Entry(f"{one.x}-1", one.x + 1, "failed", one.outcome, OTHER, 3, "", "")
    value = digest(value_of(one.config))
    return Entry(f"{one.x}-1", one.x + 1, "succeeded", "", OTHER, 1, _token(one, attempt), value)


def _told(lines: list[SideLine], before: list[Told]) -> Told:
    """An execution that finds the checkpoint of the one before, reports thrice and saves once."""
    start = lines[0]
    found = next((_checkpoint(one) for one in reversed(before) if one.x == start.x), None)
    attempt = 1 + sum(one.x == start.x for one in before)
    worker = VICTIM if start.at < KILLED_AT else OTHER
    at = start.at
    return Told(
        start.token, start.x, start.id, attempt, worker, looks=True, floods=False,
        began_at=at, found_at=at + 0.01,
        found=found, reports=[(at + 0.1, 1), (at + 0.2, 2), (at + 0.5, 3)], saving={1: at + 0.3},
        saved={1: at + 0.4}, has_left=worker == OTHER, last_at=at + (1.4 if worker == VICTIM else _RUN_S),
    )  # fmt: skip


def _checkpoint(one: Told) -> dict[str, object]:
    return {"x": one.x, "token": one.token, "attempt": one.attempt, "save": 1}


def _points(told: list[Told]) -> dict[int, list[Point]]:
    """All reports, but for the last one of the attempt that was killed."""
    points: dict[int, list[Point]] = {}
    for one in told:
        for step in range(1, one.made + one.has_left):
            values = {"job": one.x, "attempt": one.attempt, "run": one.run, "n": step}
            points.setdefault(one.id, []).append(Point(step, one.attempt, step, values))
    return points
