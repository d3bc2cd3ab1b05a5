"""The laws that must hold whatever was done to a campaign: pure functions from evidence to verdicts.

Each function judges one law: it yields a line of text for each violation, and last a figure of what it has
counted.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from queue_eval.chaos.blame import Blame
from queue_eval.chaos.driver import digest
from queue_eval.chaos.evidence import REFUSED, Evidence
from queue_eval.chaos.idleness import longest_idle
from queue_eval.chaos.inside_laws import (
    checkpoints_are_monotone,
    no_report_of_another,
    reports_are_complete,
    stops_are_told,
)
from queue_eval.chaos.stops import costs_of_stops
from queue_eval.chaos.workload import MAX_ATTEMPTS, MAX_LOSSES, value_of
from queue_eval.model.states import Method

IDLE_S = 1.0
"""How long a worker may be idle, counted from `idleness.SETTLED_S` after the last fault."""

IDLE_FORWARDING_S = 10.0
"""How long workers that forward may be idle: they lease nothing while Ray or RQ is starting."""

_MIB = 2**20
_BYTES_PER_JOB = 1200
_BYTES_PER_FAILURE = 4096
_BYTES_PER_REPORT = 256
_BUFFER_BYTES = 24 * _MIB
"""Memory that the server may take for each job beside its result, for each failure and each report on record,
and for all else."""

_BYTES_PER_CLIENT = _MIB
"""Memory that it may also take for each client while all run: data on its way, beside results."""


@dataclass(frozen=True)
class Verdict:
    """Whether a law holds. `figure`: what was counted. `broken`: the violations."""

    law: str
    figure: str
    broken: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        return not self.broken


def judge(evidence: Evidence) -> list[Verdict]:
    """Judge every law, in the order of the report."""
    facts = _Facts(evidence)
    return [Verdict(law, *_split(check(facts))) for law, check in LAWS.items()]


def _split(lines_of_check: Iterator[str]) -> tuple[str, tuple[str, ...]]:
    """The figure of a check, which it yields last, and the violations before."""
    lines = list(lines_of_check)
    return lines[-1], tuple(lines[:-1])


class _Facts:
    """Evidence, sorted by job."""

    def __init__(self, evidence: Evidence) -> None:
        self.all = evidence
        self.settings = evidence.settings
        self.planned = {planned.x + 1: planned for planned in evidence.planned}
        """By the id of the job that it must have become, as if no process had ever been killed."""
        self.entries = defaultdict(list)
        for entry in evidence.entries:
            self.entries[entry.id].append(entry)
        self.side = defaultdict(list)
        for line in evidence.side:
            self.side[line.x + 1].append(line)
        self.failures = defaultdict(list)
        for failure in evidence.failures:
            self.failures[failure.id].append(failure)
        self.blame = Blame(evidence)

    def count(self, job: int, what: str) -> int:
        return sum(line.what == what for line in self.side[job])

    def losses(self, job: int) -> int:
        return sum(failure.cause == "lost" for failure in self.failures[job])

    def describe(self, job: int) -> str:
        planned = self.planned.get(job)
        return f"job {job} ({planned.kind if planned else 'unknown'})"


Check = Callable[[_Facts], Iterator[str]]


def _comes_to_an_end(facts: _Facts) -> Iterator[str]:
    if not facts.all.has_ended:
        yield "the campaign did not end after the last fault"
    yield f"{facts.all.calm_s:.1f} s after the last fault"


def _one_terminal_state(facts: _Facts) -> Iterator[str]:
    index = facts.all.index
    for job in sorted(facts.planned.keys() | index.keys() | facts.entries.keys()):
        if job not in facts.planned:
            yield f"job {job} was never submitted"
        elif job not in index:
            yield f"{facts.describe(job)} is in no terminal state"
    if facts.all.last_id != len(facts.planned):
        yield f"{facts.all.last_id} jobs for {len(facts.planned)} configs"
    yield f"{len(index)} of {len(facts.planned)} jobs"


def _expected_outcome(facts: _Facts) -> Iterator[str]:
    lost = 0
    for job, planned in facts.planned.items():
        for entry in facts.entries[job][-1:]:
            outcome = entry.state if entry.state == "succeeded" else entry.cause or entry.state
            if outcome == "lost" and planned.outcome != "lost":
                lost += 1
                if facts.losses(job) < MAX_LOSSES:
                    yield f"{facts.describe(job)} is lost after {facts.losses(job)} losses"
            elif outcome != planned.outcome:
                yield f"{facts.describe(job)} is {outcome}, not {planned.outcome}"
    yield f"{lost} quarantined for what was done to them" if lost else "all as planned"


def _one_entry(facts: _Facts) -> Iterator[str]:
    for job, entries in facts.entries.items():
        if len(entries) > 1:
            yield f"{facts.describe(job)} has {len(entries)} entries: {', '.join(e.entry for e in entries)}"
        elif entries and facts.all.index.get(job) != entries[0].entry:
            yield f"{facts.describe(job)}: the index names {facts.all.index.get(job)}, not {entries[0].entry}"
    yield f"{len(facts.all.entries)} entries for {len(facts.planned)} jobs"


def _never_overwritten(facts: _Facts) -> Iterator[str]:
    now = {entry.entry: entry for entry in facts.all.entries}
    for entry in facts.all.seen.values():
        if now.get(entry.entry) != entry:
            yield f"{facts.describe(entry.id)}: entry {entry.entry} was {entry}, is {now.get(entry.entry)}"
    for unseen in now.keys() - facts.all.seen.keys():
        yield f"{facts.describe(now[unseen].id)}: entry {unseen} was not seen before it was judged"
    yield f"{len(facts.all.seen)} entries as they were first seen"


def _results_are_true(facts: _Facts) -> Iterator[str]:
    checked = 0
    for job, planned in facts.planned.items():
        returned = {line.token for line in facts.side[job] if line.what == "end"}
        for entry in facts.entries[job]:
            if entry.state != "succeeded":
                continue
            checked += 1
            if entry.token not in returned:
                yield f"{facts.describe(job)}: no execution of it returned {entry.token!r}"
            elif entry.digest != digest(value_of(planned.config)):
                yield f"{facts.describe(job)}: its value is that of another config"
    yield f"{checked} results as they were returned"


def _gathered_once(facts: _Facts) -> Iterator[str]:
    log = facts.all.driver
    # An adopted job that is submitted after it was gathered is gathered once more, for that submission.
    seen = Counter((job.life, job.id, job.adopted) for job in log.gathered)
    for (life, job, _), times in seen.items():
        if times > 1:
            yield f"{facts.describe(job)} was gathered {times} times in life {life}"
    known = {entry.id: entry for entry in facts.all.entries}
    for row in log.gathered:
        entry = known.get(row.id)
        if entry is None or (entry.state, entry.cause, entry.token) != (row.state, row.cause, row.token):
            yield f"{facts.describe(row.id)} was gathered as {row}, and is recorded as {entry}"
    yield f"{len(log.gathered)} in {log.lives} lives"


def _as_if_never_killed(facts: _Facts) -> Iterator[str]:
    log = facts.all.driver
    if not log.has_ended:
        yield "the last life of the driver did not end"
    last = [job for job in log.gathered if job.life == log.lives and not job.adopted]
    for missing in sorted(facts.planned.keys() - {job.id for job in last}):
        yield f"{facts.describe(missing)} was not gathered by the last life"
    for gathered in last:
        if gathered.id != gathered.x + 1:
            yield f"config {gathered.x} became job {gathered.id}"
    entries = {entry.id: entry for entry in facts.all.entries}
    for row in facts.all.table:
        entry = entries.get(row.id)
        if entry is None or (row.x + 1, row.token, row.digest) != (row.id, entry.token, entry.digest):
            yield f"results.csv says {row}, recorded is {entry}"
    rows = Counter(row.id for row in facts.all.table)
    for job in facts.planned:
        if rows[job] != 1:
            yield f"results.csv has {rows[job]} rows of {facts.describe(job)}"
    yield f"{len(last)} by the last life, {len(facts.all.table)} rows"


def _failures_are_their_own(facts: _Facts) -> Iterator[str]:
    counted = 0
    for job in facts.planned:
        causes = Counter(failure.cause for failure in facts.failures[job])
        counted += causes["error"] + causes["timeout"]
        if causes["error"] > facts.count(job, "raise"):
            raised = facts.count(job, "raise")
            yield f"{facts.describe(job)}: {causes['error']} errors, it raised {raised} times"
        if causes["timeout"] and facts.planned[job].kind != "hang":
            yield f"{facts.describe(job)}: {causes['timeout']} timeouts"
        if causes["error"] + causes["timeout"] > MAX_ATTEMPTS:
            yield f"{facts.describe(job)}: {causes['error'] + causes['timeout']} failures"
    yield f"{counted} failures"


def _losses_are_explained(facts: _Facts) -> Iterator[str]:
    yield from facts.blame.unexplained
    for job in facts.planned:
        if facts.losses(job) > MAX_LOSSES:
            yield f"{facts.describe(job)}: {facts.losses(job)} losses, of {MAX_LOSSES} at most"
    yield f"{facts.blame.own} by their own doing, {facts.blame.done} by faults"


def _stops_cost_nothing(facts: _Facts) -> Iterator[str]:
    yield from costs_of_stops(facts.all)


def _executions_are_bounded(facts: _Facts) -> Iterator[str]:
    begun = sum(line.what == "start" for line in facts.all.side)
    # A poison job that was prefetched when its worker died is suspect: that death is not charged to it.
    own = sum(planned.own_executions + (planned.kind == "poison") for planned in facts.planned.values())
    allowed = own + facts.blame.most_interrupted
    if begun > allowed:
        yield f"{begun} executions, {allowed} allowed"
    for job in facts.planned:
        succeeded = any(entry.state == "succeeded" for entry in facts.entries[job])
        if succeeded and not facts.count(job, "start"):
            yield f"{facts.describe(job)} has succeeded and was never executed"
    yield f"{begun} of {allowed}: {own} of their own, {facts.blame.most_interrupted} for faults"


def _poison_is_quarantined(facts: _Facts) -> Iterator[str]:
    poison = [job for job, planned in facts.planned.items() if planned.kind == "poison"]
    for job in poison:
        entry = facts.entries[job][-1] if facts.entries[job] else None
        if entry is None or (entry.state, entry.cause) != ("failed", "lost"):
            yield f"{facts.describe(job)} is not quarantined"
        elif facts.losses(job) != MAX_LOSSES:
            yield f"{facts.describe(job)} was quarantined after {facts.losses(job)} losses, not {MAX_LOSSES}"
    if facts.settings.method is not Method.THREAD:
        # Where each attempt has a process of its own, none dies with another.
        yield from facts.blame.harmed_by_neighbours
    yield f"{len(poison)} jobs"


def _jobs_are_conserved(facts: _Facts) -> Iterator[str]:
    last = 0
    for sample in facts.all.samples:
        if sample.placed != sample.last_id:
            yield f"at {sample.at:.2f}: {sample.last_id} jobs, {sample.placed} in all places"
        if sample.last_id < last:
            yield f"at {sample.at:.2f}: {sample.last_id} jobs, {last} before"
        last = sample.last_id
    yield from facts.all.blind
    if not facts.all.samples:
        yield "no sample was taken"
    elif facts.all.samples[-1].at < facts.all.ended_at:
        ended_at = facts.all.ended_at
        yield f"the last sample is of {facts.all.samples[-1].at:.2f}, the campaign ended at {ended_at:.2f}"
    yield f"{len(facts.all.samples)} samples"


def _nobody_idle(facts: _Facts) -> Iterator[str]:
    longest = longest_idle(facts.all)
    allowed_s = IDLE_FORWARDING_S if facts.settings.is_forwarding else IDLE_S
    if longest.seconds > allowed_s:
        yield f"worker {longest.worker} was idle for {longest.seconds:.1f} s from {longest.at:.2f}"
    if longest.looked_at:
        yield f"longest {longest.seconds:.1f} s, in {longest.looked_at} samples"
    else:
        yield "not observed: no job was pending while nothing stood in the way"


def _one_server(facts: _Facts) -> Iterator[str]:
    tried = [fault for fault in facts.all.faults if fault.what == "second-server"]
    for fault in tried:
        if fault.detail != REFUSED:
            yield f"a second server at {fault.at:.2f}: {fault.detail}"
    yield f"{len(tried)} starts beside it"


def _nothing_left(facts: _Facts) -> Iterator[str]:
    for what, names in facts.all.left.items():
        for name in names:
            yield f"{what}: {name}"
    yield ", ".join(facts.all.left)


def _nobody_else_died(facts: _Facts) -> Iterator[str]:
    yield from facts.all.casualties
    yield f"{len(facts.all.faults)} faults"


def _memory_is_bounded(facts: _Facts) -> Iterator[str]:
    payload = sum(len(value_of(planned.config)) for planned in facts.planned.values())
    records = _BYTES_PER_JOB * len(facts.planned) + _BYTES_PER_FAILURE * len(facts.all.failures)
    records += _BYTES_PER_REPORT * sum(map(len, facts.all.points.values()))
    allowed = _BUFFER_BYTES + records + payload * 5 // 4
    if facts.all.final_memory > allowed:
        yield f"{facts.all.final_memory / _MIB:.1f} MiB at the end, {allowed / _MIB:.1f} allowed"
    peak = max((sample.memory for sample in facts.all.samples), default=0)
    # The server may be about to send all results to both the driver and the observer.
    clients = facts.settings.workers + 2
    allowed_then = allowed + 2 * payload + _BYTES_PER_CLIENT * clients
    if peak > allowed_then:
        yield f"{peak / _MIB:.1f} MiB at most, {allowed_then / _MIB:.1f} allowed"
    yield (
        f"{facts.all.final_memory / _MIB:.1f} of {allowed / _MIB:.1f} MiB; "
        f"at most {peak / _MIB:.1f} of {allowed_then / _MIB:.1f}"
    )


def _on_evidence(check: Callable[[Evidence], Iterator[str]]) -> Check:
    return lambda facts: check(facts.all)


LAWS: dict[str, Check] = {
    "the campaign comes to its end": _comes_to_an_end,
    "every job in one terminal state": _one_terminal_state,
    "and in the expected one": _expected_outcome,
    "one entry per job in the result stream": _one_entry,
    "no entry ever changes": _never_overwritten,
    "results are what was returned": _results_are_true,
    "gathered once per life": _gathered_once,
    "as if the driver had never been killed": _as_if_never_killed,
    "failures are the job's own": _failures_are_their_own,
    "losses are explained, and bounded": _losses_are_explained,
    "a stop by signal costs no job anything": _stops_cost_nothing,
    "no job shows another's report": _on_evidence(no_report_of_another),
    "reports are complete, but for what was dropped": _on_evidence(reports_are_complete),
    "checkpoints are whole, and never go back": _on_evidence(checkpoints_are_monotone),
    "who was asked to stop is told": _on_evidence(stops_are_told),
    "executions are bounded": _executions_are_bounded,
    "poison is quarantined, neighbours unharmed": _poison_is_quarantined,
    "conservation at every sample": _jobs_are_conserved,
    "nobody idle while jobs wait": _nobody_idle,
    "one server at a time": _one_server,
    "nothing left over": _nothing_left,
    "nobody died unasked": _nobody_else_died,
    "server memory bounded": _memory_is_bounded,
}
