"""Each law on what running jobs tell and are told notices what breaks it, and excuses what faults explain."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from queue_eval.chaos.evidence import Asked, Evidence, Failure, Fault, Point
from queue_eval.chaos.inside_laws import stops_are_told
from queue_eval.chaos.inside_work import GONE, Told
from queue_eval.chaos.invariants import judge
from tests.chaos.history import KILLED_AT, OTHER, VICTIM, job_of, sound

REPORTS = "no job shows another's report"
COMPLETE = "reports are complete, but for what was dropped"
CHECKPOINTS = "checkpoints are whole, and never go back"
STOPS = "who was asked to stop is told"

Break = Callable[[Evidence], Evidence]


def broken(evidence: Evidence) -> set[str]:
    return {verdict.law for verdict in judge(evidence) if not verdict.holds}


def job(evidence: Evidence, kind: str) -> int:
    return job_of(evidence.planned, kind)


def with_points(evidence: Evidence, kind: str, points: Callable[[list[Point]], list[Point]]) -> Evidence:
    """Other reports of the first job of this kind. The driver was shown them."""
    wanted = job(evidence, kind)
    changed = points(list(evidence.points[wanted]))
    shown = {**evidence.driver.shown, wanted: len(changed)}
    return replace(
        evidence, points={**evidence.points, wanted: changed}, driver=replace(evidence.driver, shown=shown)
    )


def with_last(evidence: Evidence, kind: str, **changes: object) -> Evidence:
    """Another last report of the first job of this kind."""
    return with_points(evidence, kind, lambda points: [*points[:-1], replace(points[-1], **changes)])


def valued(evidence: Evidence, **values: float) -> Evidence:
    wanted = job(evidence, "short")
    return with_last(evidence, "short", values={**evidence.points[wanted][-1].values, **values})


def with_told(evidence: Evidence, kind: str, attempt: int, **changes: object) -> Evidence:
    """An attempt of the first job of this kind has told otherwise."""
    wanted = (job(evidence, kind), attempt)
    told = [replace(one, **changes) if (one.id, one.attempt) == wanted else one for one in evidence.told]
    return replace(evidence, told=told)


def told_by(evidence: Evidence, kind: str, attempt: int) -> Told:
    wanted = (job(evidence, kind), attempt)
    return next(one for one in evidence.told if (one.id, one.attempt) == wanted)


def found(evidence: Evidence, kind: str, number: int, **changes: object) -> Evidence:
    """This attempt of the first job of this kind has found another checkpoint."""
    seen = told_by(evidence, kind, number).found
    assert seen is not None
    return with_told(evidence, kind, number, found={**seen, **changes})


def asked(evidence: Evidence, kind: str, attempt: int, at: float | None = None) -> Evidence:
    """The first job of this kind was asked to stop in this attempt, and nobody of it was told."""
    wanted = job(evidence, kind)
    when = told_by(evidence, kind, attempt).last_at - 0.1 if at is None else at
    return replace(evidence, asked=[Asked(wanted, when, attempt)], tried_to_stop={wanted})


def with_driver(evidence: Evidence, **changes: object) -> Evidence:
    return replace(evidence, driver=replace(evidence.driver, **changes))


def stopped_early(evidence: Evidence, kind: str) -> Evidence:
    wanted = job(evidence, kind)
    entries = [replace(one, has_stopped=True) if one.id == wanted else one for one in evidence.entries]
    return replace(evidence, entries=entries, seen={one.entry: one for one in entries})


def without_checkpoint(evidence: Evidence, kind: str) -> Evidence:
    wanted = job(evidence, kind)
    return replace(
        evidence, checkpoints={k: value for k, value in evidence.checkpoints.items() if k != wanted}
    )


def left_by(evidence: Evidence, kind: str) -> Evidence:
    """The last checkpoint of the first job of this kind is still there."""
    last = max(
        (one for one in evidence.told if one.id == job(evidence, kind)), key=lambda one: one.attempt
    )
    kept = {"x": last.x, "token": last.token, "attempt": last.attempt, "save": 1}
    return replace(evidence, checkpoints={**evidence.checkpoints, last.id: kept})


def more_than(point: Point) -> Point:
    """A report that nobody has made."""
    number = point.number + 1
    return replace(point, number=number, step=number, values={**point.values, "n": number})


BREAKS: list[tuple[str, Break]] = [
    (REPORTS, lambda e: valued(e, job=7)),
    (REPORTS, lambda e: valued(e, attempt=7)),
    (REPORTS, lambda e: valued(e, run=7)),
    (REPORTS, lambda e: valued(e, n=7)),
    (REPORTS, lambda e: with_last(e, "bad", attempt=2)),
    (REPORTS, lambda e: with_last(e, "short", step=2, values=e.points[job(e, "short")][-2].values)),
    (REPORTS, lambda e: with_last(e, "instant", number=2)),
    (REPORTS, lambda e: with_points(e, "instant", lambda points: [*points, more_than(points[-1])])),
    (REPORTS, lambda e: with_driver(e, wrong=["job 1 was shown a report of job 2"])),
    (REPORTS, lambda e: with_driver(e, shown={**e.driver.shown, 1: 1})),
    (COMPLETE, lambda e: with_points(e, "instant", lambda points: points[:-1])),
    (COMPLETE, lambda e: with_points(e, "bad", lambda points: points[:2] + points[3:])),
    (COMPLETE, lambda e: with_points(e, "instant", lambda points: [points[0], points[2]])),
    # Those of the attempt which was killed more than a second after the first of them.
    (COMPLETE, lambda e: with_points(e, "short", lambda points: points[2:])),
    (CHECKPOINTS, lambda e: found(e, "bad", 2, wrong="its bytes are others")),
    (CHECKPOINTS, lambda e: found(e, "bad", 2, wrong=GONE)),
    (CHECKPOINTS, lambda e: found(e, "bad", 3, x=7)),
    (CHECKPOINTS, lambda e: found(e, "bad", 3, save=2)),
    (CHECKPOINTS, lambda e: found(e, "bad", 3, attempt=1, token=told_by(e, "bad", 1).token)),
    (CHECKPOINTS, lambda e: with_told(e, "bad", 3, found=None)),
    # What one attempt has found, none after it may miss, whoever has saved it.
    (CHECKPOINTS, lambda e: with_told(with_told(e, "bad", 1, saved={}), "bad", 3, found=None)),
    (CHECKPOINTS, lambda e: without_checkpoint(e, "bad")),
    (CHECKPOINTS, lambda e: left_by(e, "instant")),
    (STOPS, lambda e: asked(e, "bad", 1)),
    (STOPS, lambda e: with_driver(
        e, stopped=[(job(e, "bad"), told_by(e, "bad", 1).last_at - 0.1, 1)])),
    (STOPS, lambda e: with_told(e, "instant", 1, notices={"stop": 0.0})),
    (STOPS, lambda e: stopped_early(e, "instant")),
]  # fmt: skip


@pytest.mark.parametrize(("law", "do"), BREAKS, ids=[f"{i}: {law}" for i, (law, _) in enumerate(BREAKS)])
def test_a_broken_history_is_noticed(law: str, do: Break) -> None:
    assert law in broken(do(sound()))


def test_what_was_dropped_is_counted_by_the_numbers() -> None:
    def dropped(points: list[Point]) -> list[Point]:
        return [points[0], points[2]]

    assert broken(with_points(with_told(sound(), "instant", 1, floods=True), "instant", dropped)) == set()


def test_the_last_second_before_a_death_may_be_lost() -> None:
    evidence = sound()
    killed = told_by(evidence, "short", 1)
    assert (killed.worker, killed.made, len([p for p in evidence.points[killed.id] if p.attempt == 1])) == (
        VICTIM, 3, 2,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("fault", "excuses"),
    [
        (Fault("pause", "worker", KILLED_AT - 2, KILLED_AT - 1, (VICTIM,)), True),
        (Fault("cut", "network", KILLED_AT - 5, KILLED_AT - 4, (VICTIM,)), True),
        (Fault("kill", "server", KILLED_AT - 2, KILLED_AT - 1), True),
        (Fault("pause", "worker", KILLED_AT - 2, KILLED_AT - 1, (OTHER,)), False),
        (Fault("drain", "worker", KILLED_AT - 2, KILLED_AT - 1, (VICTIM,)), False),
        (Fault("kill", "server", KILLED_AT - 20, KILLED_AT - 19), False),
    ],
    ids=["frozen", "cut off just before", "no server", "another", "drains", "long ago"],
)
def test_reports_are_lost_by_who_cannot_send_them(fault: Fault, excuses: bool) -> None:
    evidence = with_points(sound(), "short", lambda points: points[2:])
    evidence = replace(evidence, faults=[fault, *evidence.faults])
    assert (COMPLETE not in broken(evidence)) == excuses


def test_who_has_lost_its_lease_shows_no_more() -> None:
    """A job that has raised twice while its lease was another's."""
    evidence = with_points(sound(), "bad", lambda points: points[:3] + points[6:])
    assert COMPLETE in broken(evidence)
    bad, began_at = job(evidence, "bad"), told_by(evidence, "bad", 2).began_at
    lost = Failure(bad, 2, "lost", OTHER, began_at)
    failures = [lost if (f.id, f.attempt) == (bad, 2) else f for f in evidence.failures]
    assert COMPLETE not in broken(replace(evidence, failures=failures))


def test_a_zombie_may_find_that_its_checkpoint_is_gone() -> None:
    evidence = found(sound(), "bad", 2, wrong=GONE)
    later = told_by(evidence, "bad", 2).found_at
    assert later is not None
    assert CHECKPOINTS not in broken(with_told(evidence, "bad", 3, began_at=later - 0.001))


def test_what_a_zombie_saves_need_not_be_found() -> None:
    evidence = with_told(sound(), "bad", 1, saved={1: 0.0, 2: told_by(sound(), "bad", 2).began_at + 0.1})
    assert CHECKPOINTS not in broken(evidence)


def test_a_checkpoint_that_was_complete_and_not_logged_may_be_found() -> None:
    evidence = with_told(sound(), "bad", 1, saved={})
    assert broken(evidence) == set()
    assert CHECKPOINTS not in broken(with_told(evidence, "bad", 2, found=None))


def test_checkpoints_stay_where_nobody_lived_to_remove_them() -> None:
    evidence = left_by(sound(), "instant")
    end = told_by(evidence, "instant", 1).last_at
    kill = Fault("kill", "worker", end, end + 0.1, (OTHER,))
    assert CHECKPOINTS not in broken(replace(evidence, faults=[*evidence.faults, kill]))


def test_who_is_told_breaks_nothing() -> None:
    evidence = asked(sound(), "bad", 1)
    for attempt in (2, 3):
        began_at = told_by(evidence, "bad", attempt).began_at
        evidence = with_told(
            evidence, "bad", attempt, first_notice="stop", notices={"stop": began_at + 0.01}
        )
    assert broken(evidence) == set()
    assert list(stops_are_told(evidence))[-1] == "1 asked; 0 told while they ran, 2 at a later beginning"


def test_a_lease_that_was_there_before_need_not_be_told_at_its_beginning() -> None:
    assert STOPS in broken(asked(sound(), "bad", 2))
    assert STOPS not in broken(asked(sound(), "bad", 3))
    assert STOPS not in broken(asked(sound(), "bad", 2, at=told_by(sound(), "bad", 3).began_at + 0.1))


def test_what_nobody_has_told_is_not_called_kept() -> None:
    evidence = with_driver(replace(sound(), told=[], points={}, checkpoints={}), shown={})
    figures = {verdict.law: verdict.figure for verdict in judge(evidence)}
    for law in (REPORTS, COMPLETE, CHECKPOINTS, STOPS):
        assert "not observed" in figures[law]
