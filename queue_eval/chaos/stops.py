"""Judges what stops by a signal have cost: a worker that ends by one charges no error or death to a job.

Attempts that raise or die after the signal are given back, and so are those that a drain stops. Each release
is on record, and does not count as an attempt. The children themselves survive the signal and finish what
they run.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

from queue_eval.chaos.evidence import CLOCK_S, STOPS, Evidence, Failure, Fault, records_before
from queue_eval.model.states import RELEASED, Method

_EXPLAINED_S = 30.0
"""An error or a death counts as caused by a stop signal if it comes within so long after it."""

_CAUSES = {"raise": "error", "die": "lost"}
"""The event that an execution logs, and the cause that it is charged as."""

_REASON = "drain"
"""The reason of a release by a worker that ends begins so."""

_HAS_ENDED = "it ended with"
"""The reason of a release contains this if the attempt was not stopped, but raised or died."""

_MAX_RECORDS = 10_000
"""A campaign keeps about so many failures on record. With more, they cannot all be counted."""


def costs_of_stops(evidence: Evidence) -> Iterator[str]:
    """The violations, and last a figure."""
    stops = [fault for fault in evidence.faults if fault.what in STOPS]
    releases = [failure for failure in evidence.failures if failure.cause == RELEASED]
    yield from _charged_after_stop(evidence, stops)
    yield from _released_without_stop(stops, releases)
    yield from _interrupted(evidence, releases)
    yield from _miscounted(evidence)
    own = sum(_HAS_ENDED in release.text for release in releases)
    yield f"{len(stops)} stops; {len(releases)} given back, {own} of which had failed or died"


def _charged_after_stop(evidence: Evidence, stops: list[Fault]) -> Iterator[str]:
    """Errors and deaths after the signal that were charged."""
    by_worker = _by_worker(stops)
    for failure, raised_at in _own_ends(evidence):
        for stop in by_worker[failure.worker]:
            until = stop.at + _EXPLAINED_S if stop.until is None else min(stop.until, stop.at + _EXPLAINED_S)
            if not stop.at <= raised_at <= until:
                continue
            if failure.cause == "lost" and _was_hindered(evidence, stop, failure):
                continue
            yield (
                f"job {failure.id} was charged {failure.cause} in attempt {failure.attempt} on "
                f"{failure.worker}, {raised_at - stop.at:.2f} s after its stop signal ({stop.kind}, "
                f"{stop.detail or 'once'})"
            )


def _own_ends(evidence: Evidence) -> Iterator[tuple[Failure, float]]:
    """Each charged error and death, with the moment at which its execution logged that it raised or died.

    If several executions of a job may be the charged one, it is the earliest.
    """
    ends: dict[tuple[int, str], list[float]] = defaultdict(list)
    for line in evidence.side:
        if line.what in _CAUSES:
            ends[line.x + 1, _CAUSES[line.what]].append(line.at)
    before = records_before(evidence.failures)
    for failure in evidence.failures:
        after, until = before[id(failure)], failure.at + CLOCK_S
        own = [at for at in ends[failure.id, failure.cause] if after < at <= until]
        if own:
            yield failure, min(own)


def _was_hindered(evidence: Evidence, stop: Fault, loss: Failure) -> bool:
    """Whether another fault kept a worker from giving back its attempts: its own death or pause, or a server
    out of reach."""
    return any(
        fault.at <= loss.at and (fault.until is None or fault.until >= stop.at)
        for fault in evidence.faults
        if fault.what not in STOPS and (fault.victim == "server" or stop.workers[0] in fault.workers)
        if fault.victim != "child"
    )


def _released_without_stop(stops: list[Fault], releases: list[Failure]) -> Iterator[str]:
    """Releases by workers that were sent no signal."""
    by_worker = _by_worker(stops)
    for release in releases:
        if not release.text.startswith(_REASON):
            continue
        if not any(stop.at <= release.at + CLOCK_S for stop in by_worker[release.worker]):
            yield f"job {release.id} was given back by {release.worker} without a signal: {release.text}"


def _interrupted(evidence: Evidence, releases: list[Failure]) -> Iterator[str]:
    """Attempts that ended with their worker's signal though the job itself neither raised nor died."""
    settings = evidence.settings
    if settings.is_forwarding:  # the signal ends a worker's own Ray, as it ends any program
        return
    before = records_before(evidence.failures)
    ends = [line for line in evidence.side if line.what in _CAUSES]
    kills = [fault for fault in evidence.faults if fault.kind == "kill child"]
    for release in releases:
        if _HAS_ENDED not in release.text:
            continue
        # A paused worker may notice the end of an attempt long after it, together with its own signal.
        since, until = before[id(release)], release.at + CLOCK_S
        # With `thread`, a job that dies takes its neighbours with it.
        own = any(
            since <= line.at <= until
            for line in ends
            if line.x + 1 == release.id or (settings.method is Method.THREAD and line.what == "die")
        )
        if not own and not any(release.worker in f.workers and since <= f.at <= until for f in kills):
            yield f"job {release.id} was interrupted on {release.worker} by its stop signal: {release.text}"


def _miscounted(evidence: Evidence) -> Iterator[str]:
    """Jobs whose outcome counts more or fewer releases than are on record, or counts releases as attempts."""
    if len(evidence.failures) >= _MAX_RECORDS:
        return
    causes: dict[int, Counter[str]] = defaultdict(Counter)
    for failure in evidence.failures:
        causes[failure.id][failure.cause] += 1
    for entry in evidence.entries:
        seen = causes[entry.id]
        if entry.releases != seen[RELEASED]:
            yield f"job {entry.id} counts {entry.releases} releases, {seen[RELEASED]} are on record"
        # An attempt that was lost with its worker may run again elsewhere, and both may count.
        charged = seen["error"] + seen["timeout"] + (entry.state == "succeeded")
        if not seen["lost"] and entry.attempts > max(1, charged):
            yield f"job {entry.id} counts {entry.attempts} attempts, {charged} were charged"


def _by_worker(stops: list[Fault]) -> dict[str, list[Fault]]:
    found: dict[str, list[Fault]] = defaultdict(list)
    for stop in stops:
        for worker in stop.workers:
            found[worker].append(stop)
    return found
