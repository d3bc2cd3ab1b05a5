"""A history in which every law holds: what a small attack with one killed worker might have left."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from queue_eval.chaos.driver import DriverLog, Gathered, digest
from queue_eval.chaos.evidence import Entry, Evidence, Failure, Fault, Row, Sample
from queue_eval.chaos.settings import VICTIMS, Settings, checked
from queue_eval.chaos.workload import MAX_ATTEMPTS, Planned, SideLine, plan, value_of

KILLED_AT = 1000.0
END = 1100.0
VICTIM = "w0"
OTHER = "w1"

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
    failures: list[Failure] = []
    for one in planned:
        for line, failure in _life(one, is_unlucky=one.x + 1 == unlucky):
            side += line
            failures += failure
    entries = [_entry(one) for one in planned]
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
        driver=DriverLog([*early, *adopted, *gathered], 2, has_ended=True),
        table=[Row(e.id, e.id - 1, e.token, e.digest) for e in entries], entries=entries,
        seen={entry.entry: entry for entry in entries}, index={entry.id: entry.entry for entry in entries},
        failures=failures, samples=samples,
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
        return SideLine(what, one.x, job, 100 + 50 * job + attempt, at + attempt, _token(one))

    if is_unlucky:
        attempt += 1
        at = KILLED_AT - 1.5
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


def _token(one: Planned) -> str:
    return f"t{one.x}"


def _entry(one: Planned) -> Entry:
    if one.outcome != "succeeded":
        return Entry(f"{one.x}-1", one.x + 1, "failed", one.outcome, OTHER, 3, "", "")
    value = digest(value_of(one.config))
    return Entry(f"{one.x}-1", one.x + 1, "succeeded", "", OTHER, 1, _token(one), value)
