"""Each law holds for a sound history, and notices one that is broken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from queue_eval.chaos.blame import Blame
from queue_eval.chaos.evidence import SAME_NAME, TWICE, Evidence, Failure, Fault, Sample, records_before
from queue_eval.chaos.invariants import LAWS, judge
from queue_eval.chaos.report import print_report, report_on
from queue_eval.chaos.workload import SideLine
from queue_eval.model.states import RELEASED
from tests.chaos.history import END, KILLED_AT, OTHER, VICTIM, job_of, sound
from tests.chaos.test_inside_laws import BREAKS as INSIDE_BREAKS
from workers.signals import DOUBT_S

STOPS = "a stop by signal costs no job anything"
ENDED = "it ended with: killed by SIGTERM"

Break = Callable[[Evidence], Evidence]


def broken(evidence: Evidence) -> set[str]:
    return {verdict.law for verdict in judge(evidence) if not verdict.holds}


def test_a_sound_history_holds() -> None:
    verdicts = judge(sound())
    assert [verdict.law for verdict in verdicts] == list(LAWS)
    assert [verdict for verdict in verdicts if not verdict.holds] == []


def job(evidence: Evidence, kind: str = "short") -> int:
    return job_of(evidence.planned, kind)


def with_entry(evidence: Evidence, kind: str, **changes: object) -> Evidence:
    """Another outcome of the first job of this kind; whoever gathered it, was given that."""
    wanted = job(evidence, kind)
    entries = [replace(e, **changes) if e.id == wanted else e for e in evidence.entries]
    return replace(evidence, entries=entries, seen={e.entry: e for e in entries})


def without_index(evidence: Evidence) -> Evidence:
    return replace(evidence, index={k: v for k, v in evidence.index.items() if k != job(evidence)})


def with_failures(evidence: Evidence, kind: str, cause: str, worker: str, times: int) -> Evidence:
    more = [Failure(job(evidence, kind), 9 + i, cause, worker, KILLED_AT + 2) for i in range(times)]
    return replace(evidence, failures=[*evidence.failures, *more])


def with_lines(evidence: Evidence, *lines: SideLine) -> Evidence:
    return replace(evidence, side=sorted([*evidence.side, *lines], key=lambda line: line.at))


def with_log(evidence: Evidence, **changes: object) -> Evidence:
    return replace(evidence, driver=replace(evidence.driver, **changes))


def killed_by_a_neighbour(evidence: Evidence) -> Evidence:
    """A job ran in the process that a poison job ended."""
    poison, other = job(evidence, "poison"), job(evidence, "instant")
    death = next(line for line in evidence.side if line.what == "die" and line.x == poison - 1)
    return with_lines(evidence, SideLine("start", other - 1, other, death.pid, death.at - 0.5, "x"))


def test_who_has_left_a_process_is_not_harmed_by_its_end() -> None:
    evidence = killed_by_a_neighbour(sound())
    started = next(line for line in evidence.side if line.token == "x")
    left = with_lines(evidence, replace(started, what="leave", at=started.at + 0.2))
    assert Blame(evidence).harmed_by_neighbours
    assert not Blame(left).harmed_by_neighbours


def idle(evidence: Evidence, running: int = 1, every_s: float = 0.1) -> Evidence:
    """A worker with a free slot for five seconds, while jobs wait, and nothing had been done for long."""
    extra = [
        Sample(END + i * every_s, 40, 40, 3, 40, {OTHER: running}, 2**20) for i in range(int(5 / every_s))
    ]
    return replace(evidence, samples=[*evidence.samples, *extra])


def never_run(evidence: Evidence) -> Evidence:
    wanted = job(evidence, "instant")
    return replace(evidence, side=[line for line in evidence.side if line.x + 1 != wanted])


def many_runs(evidence: Evidence) -> Evidence:
    first = evidence.side[0]
    return with_lines(evidence, *(replace(first, pid=9000 + i, at=END + i) for i in range(30)))


def doubled(items: object) -> list[object]:
    return [*items, items[-1]]  # type: ignore[misc,index]


def stopped(evidence: Evidence, kind: str = "bad", **changes: object) -> Evidence:
    """Half a second before the first job of this kind was first charged, its worker was sent SIGTERM."""
    charged_at = next(f.at for f in evidence.failures if f.id == job(evidence, kind))
    stop = Fault("term-all", "worker", charged_at - 0.5, charged_at + 0.5, (OTHER,), "first")
    return replace(evidence, faults=[*evidence.faults, replace(stop, **changes)])


def given_back(evidence: Evidence, text: str = "drain: SIGTERM") -> Evidence:
    """A short job was given back once, and its outcome says so."""
    wanted = job(evidence, "instant")
    release = Failure(wanted, 1, RELEASED, OTHER, KILLED_AT + 2, text)
    evidence = replace(evidence, failures=[*evidence.failures, release])
    return with_entry(evidence, "instant", releases=1)


BREAKS: list[tuple[str, Break]] = [
    ("the campaign comes to its end", lambda e: replace(e, has_ended=False)),
    ("every job in one terminal state", without_index),
    ("every job in one terminal state", lambda e: replace(e, last_id=e.last_id + 1)),
    ("every job in one terminal state", lambda e: replace(e, index=e.index | {99: "9-9"})),
    ("and in the expected one", lambda e: with_entry(e, "short", state="failed", cause="error")),
    ("and in the expected one", lambda e: with_entry(e, "short", state="failed", cause="lost")),
    ("and in the expected one", lambda e: with_entry(e, "hang", cause="error")),
    ("and in the expected one", lambda e: with_entry(e, "bad", state="cancelled", cause="")),
    ("one entry per job in the result stream", lambda e: replace(
        e, entries=[*e.entries, replace(e.entries[0], entry="77-1")])),
    ("one entry per job in the result stream", lambda e: replace(e, index=e.index | {1: "77-1"})),
    ("no entry ever changes", lambda e: replace(
        e, seen=e.seen | {"0-1": replace(e.seen["0-1"], token="other")})),
    ("no entry ever changes", lambda e: replace(
        e, seen=e.seen | {"77-1": replace(e.seen["0-1"], entry="77-1")})),
    ("no entry ever changes", lambda e: replace(e, seen={})),
    ("no entry ever changes", lambda e: replace(
        e, seen={k: v for k, v in e.seen.items() if k != "0-1"})),
    ("results are what was returned", lambda e: with_entry(e, "short", token="nobody's")),
    ("results are what was returned", lambda e: with_entry(e, "short", digest="another's")),
    ("gathered once per life", lambda e: with_log(e, gathered=doubled(e.driver.gathered))),
    ("gathered once per life", lambda e: with_log(
        e, gathered=[*e.driver.gathered[:-1], replace(e.driver.gathered[-1], state="cancelled")])),
    ("as if the driver had never been killed", lambda e: with_log(e, gathered=e.driver.gathered[:-1])),
    ("as if the driver had never been killed", lambda e: with_log(e, has_ended=False)),
    ("as if the driver had never been killed", lambda e: with_log(
        e, gathered=[*e.driver.gathered[:-1], replace(e.driver.gathered[-1], x=0)])),
    ("as if the driver had never been killed", lambda e: replace(e, table=e.table[1:])),
    ("as if the driver had never been killed", lambda e: replace(e, table=doubled(e.table))),
    ("as if the driver had never been killed", lambda e: replace(
        e, table=[replace(e.table[0], digest="x"), *e.table[1:]])),
    ("failures are the job's own", lambda e: with_failures(e, "short", "error", OTHER, 1)),
    ("failures are the job's own", lambda e: with_failures(e, "short", "timeout", OTHER, 1)),
    ("failures are the job's own", lambda e: with_failures(e, "hang", "timeout", OTHER, 1)),
    ("losses are explained, and bounded", lambda e: with_failures(e, "short", "lost", OTHER, 1)),
    # The worker had two slots, and one loss is explained by its death already.
    ("losses are explained, and bounded", lambda e: with_failures(e, "instant", "lost", VICTIM, 2)),
    ("losses are explained, and bounded", lambda e: replace(
        e, faults=[Fault("kill", "server", KILLED_AT, KILLED_AT + 9)])),
    ("losses are explained, and bounded", lambda e: replace(
        e, faults=[Fault("pause", "worker", KILLED_AT, KILLED_AT + 1, (VICTIM,))])),
    ("losses are explained, and bounded", lambda e: with_failures(e, "poison", "lost", OTHER, 1)),
    (STOPS, stopped),
    (STOPS, lambda e: stopped(e, what="drain")),
    (STOPS, lambda e: stopped(e, "mortal")),
    (STOPS, given_back),
    (STOPS, lambda e: given_back(stopped(e, at=KILLED_AT), f"drain: SIGTERM; {ENDED}")),
    (STOPS, lambda e: with_entry(e, "instant", releases=1)),
    (STOPS, lambda e: with_entry(e, "instant", attempts=2)),
    ("executions are bounded", many_runs),
    ("executions are bounded", never_run),
    ("poison is quarantined, neighbours unharmed", lambda e: with_entry(
        e, "poison", state="succeeded", cause="")),
    ("poison is quarantined, neighbours unharmed", lambda e: replace(
        e, failures=[f for f in e.failures if f.id != job(e, "poison")])),
    ("poison is quarantined, neighbours unharmed", killed_by_a_neighbour),
    ("conservation at every sample", lambda e: replace(
        e, samples=[*e.samples, replace(e.samples[-1], placed=39)])),
    ("conservation at every sample", lambda e: replace(
        e, samples=[*e.samples, replace(e.samples[-1], placed=39, last_id=39)])),
    ("conservation at every sample", lambda e: replace(e, samples=[])),
    ("conservation at every sample", lambda e: replace(e, ended_at=END)),
    ("conservation at every sample", lambda e: replace(e, blind=["the observer failed"])),
    ("nobody idle while jobs wait", idle),
    ("one server at a time", lambda e: replace(
        e, faults=[*e.faults, Fault("second-server", "server", END, END, detail="started: pid 7")])),
    ("nothing left over", lambda e: replace(e, left={"spools": ["w0.jsonl"]})),
    ("nobody died unasked", lambda e: replace(e, casualties=["worker w1 ended by itself"])),
    ("server memory bounded", lambda e: replace(e, final_memory=2**30)),
    ("server memory bounded", lambda e: replace(
        e, samples=[replace(e.samples[0], memory=2**30), *e.samples[1:]])),
]  # fmt: skip


@pytest.mark.parametrize(("law", "do"), BREAKS, ids=[f"{i}: {law}" for i, (law, _) in enumerate(BREAKS)])
def test_a_broken_history_is_noticed(law: str, do: Break) -> None:
    assert law in broken(do(sound()))


def test_every_law_can_be_broken() -> None:
    assert {law for law, _ in [*BREAKS, *INSIDE_BREAKS]} == set(LAWS)


IDLE = "nobody idle while jobs wait"


@pytest.mark.parametrize(
    "fault",
    [
        Fault("kill", "server", END - 1, None),
        Fault("pause", "worker", END + 1.5, END + 2.5, (OTHER,)),
        Fault("kill", "worker", END - 20, END - 19, (OTHER,)),
    ],
    ids=["server away", "a second ago", "the idle one is dead"],
)
def test_idleness_during_a_fault_does_not_count(fault: Fault) -> None:
    evidence = idle(sound())
    assert IDLE not in broken(replace(evidence, faults=[*evidence.faults, fault]))


def test_a_worker_that_came_back_under_its_name_is_not_dead() -> None:
    evidence = idle(sound())
    fault = Fault("kill", "worker", END - 20, END - 19, (OTHER,), SAME_NAME)
    assert IDLE in broken(replace(evidence, faults=[*evidence.faults, fault]))


def test_idleness_is_not_guessed_between_samples() -> None:
    assert IDLE not in broken(idle(sound(), every_s=1.2))


def test_idleness_that_nobody_could_see_is_not_called_none() -> None:
    figures = [
        {verdict.law: verdict.figure for verdict in judge(evidence)}[IDLE]
        for evidence in (replace(sound(), faults=[Fault("kill", "server", 0.0)]), sound())
    ]
    assert "not observed" in figures[0]
    assert "longest 0.0 s, in " in figures[1]


def test_an_abandoned_thread_keeps_its_slot() -> None:
    assert IDLE not in broken(idle(sound(method="thread")))
    assert IDLE in broken(idle(sound(method="thread"), running=0))


def test_in_one_process_neighbours_share_a_death() -> None:
    assert broken(killed_by_a_neighbour(sound(method="thread"))) == set()


def test_a_machine_that_stood_still_explains_a_loss() -> None:
    evidence = replace(sound(), faults=[])
    assert "losses are explained, and bounded" in broken(evidence)
    evidence = replace(evidence, stalls=[(KILLED_AT - 3, KILLED_AT)])
    assert "losses are explained, and bounded" not in broken(evidence)


def test_a_drain_costs_nothing_unless_nobody_can_be_told() -> None:
    law = "losses are explained, and bounded"
    once = Fault("drain", "worker", KILLED_AT, KILLED_AT + 1, (VICTIM,))
    twice = replace(once, detail=TWICE)
    away = Fault("kill", "server", KILLED_AT - 2, KILLED_AT + 0.5)
    cut = Fault("cut", "network", KILLED_AT - 1, KILLED_AT + 0.1, (VICTIM,))
    elsewhere, before = replace(cut, workers=(OTHER,)), replace(away, until=KILLED_AT - 1)
    for faults in ([once], [twice], [once, elsewhere], [twice, elsewhere], [once, before], [twice, before]):
        assert law in broken(replace(sound(), faults=faults))
    # Also after one request: a grant may be on its way for which there is nobody any more.
    for faults in ([once, away], [once, cut], [twice, away], [twice, cut]):
        assert law not in broken(replace(sound(), faults=faults))


def test_an_error_that_its_worker_took_with_it_is_one_loss_more() -> None:
    """It waited for the worker to see whether a stop signal explains it, and had no slot any more."""
    evidence = with_failures(sound(), "instant", "lost", VICTIM, 1)
    bad = job(evidence, "bad")
    second = [f for f in evidence.failures if f.id == bad][1]
    kill = Fault("kill", "worker", second.at - 0.1, second.at, (second.worker,))
    full = [replace(f, worker=OTHER, at=second.at) if f.worker == VICTIM else f for f in evidence.failures]
    failures = [replace(f, cause="lost") if f is second else f for f in full]
    evidence = replace(evidence, failures=failures, faults=[kill])
    assert Blame(evidence).unexplained == []
    silent = [line for line in evidence.side if (line.what, line.x + 1) != ("raise", bad)]
    assert len(Blame(replace(evidence, side=silent)).unexplained) == 1
    assert len(Blame(replace(evidence, faults=[])).unexplained) == 3


def test_a_loss_is_noticed_late_when_the_server_was_away() -> None:
    law = "losses are explained, and bounded"
    evidence = sound()
    late = [replace(f, at=f.at + 40) if f.worker == VICTIM else f for f in evidence.failures]
    away = [Fault("kill", "server", KILLED_AT + s, KILLED_AT + s + 6) for s in (5, 50)]
    assert law in broken(replace(evidence, failures=late))
    assert law in broken(replace(evidence, failures=late, faults=[*evidence.faults, away[1]]))
    late = [replace(f, at=f.at - 8) if f.worker == VICTIM else f for f in late]
    assert law in broken(replace(evidence, failures=late))
    assert law not in broken(replace(evidence, failures=late, faults=[*evidence.faults, away[0]]))


def test_what_is_given_back_may_run_again() -> None:
    evidence = replace(sound(), faults=[])
    drain = Fault("drain", "worker", END, END + 1, (OTHER,), TWICE)
    away = Fault("kill", "server", END, END + 1)
    assert Blame(replace(evidence, faults=[drain])).most_interrupted == 0
    assert Blame(given_back(replace(evidence, faults=[drain]))).most_interrupted == 1
    # Nobody was there to take it, and it is lost when its lease expires.
    assert Blame(replace(evidence, faults=[drain, away])).most_interrupted == 2


@pytest.mark.parametrize("what", ["drain", "term-all"])
def test_what_is_given_back_after_a_signal_breaks_no_law(what: str) -> None:
    stop = Fault(what, "worker", KILLED_AT + 1, KILLED_AT + 3, (OTHER,))
    evidence = given_back(sound())
    assert broken(replace(evidence, faults=[*evidence.faults, stop])) == set()
    assert broken(given_back(sound(), "the child never became ready")) == set()


def test_what_else_ended_it_is_not_the_signals_doing() -> None:
    text = f"drain: SIGTERM; {ENDED}"
    stop = Fault("term-all", "worker", KILLED_AT + 1, KILLED_AT + 3, (OTHER,))
    child = Fault("kill", "child", KILLED_AT + 1, KILLED_AT + 1, (OTHER,))
    for evidence, faults in ((sound(), [stop, child]), (sound(method="rq"), [stop])):
        given = given_back(evidence, text)
        assert STOPS not in broken(replace(given, faults=[*given.faults, *faults]))


def test_a_death_that_was_given_back_explains_no_loss() -> None:
    """The job died once, and that was given back: the loss of another attempt is somebody else's doing."""
    evidence = stopped(sound(), "mortal")
    (charged,) = (f for f in evidence.failures if f.id == job(evidence, "mortal"))
    release = replace(charged, cause=RELEASED, text="drain: SIGTERM; it ended with: killed by SIGKILL")
    later = replace(charged, attempt=2, at=charged.at + 5)
    failures = [f for f in evidence.failures if f is not charged]
    evidence = with_entry(evidence, "mortal", releases=1)
    assert Blame(replace(evidence, failures=[*failures, release])).unexplained == []
    assert len(Blame(replace(evidence, failures=[*failures, release, later])).unexplained) == 1


def test_a_death_explains_no_release_that_came_before_it() -> None:
    """The job was given back, ran again at once, died, and was charged as late as a worker may."""
    evidence = stopped(sound(), "mortal")
    (charged,) = (f for f in evidence.failures if f.id == job(evidence, "mortal"))
    release = replace(charged, cause=RELEASED, at=charged.at - 0.1, text="drain: SIGTERM")
    late = replace(charged, attempt=2, at=charged.at + DOUBT_S)
    failures = [f for f in evidence.failures if f is not charged]
    assert Blame(replace(evidence, failures=[*failures, release, late])).unexplained == []


@pytest.mark.parametrize(
    "changes",
    [
        {"workers": (VICTIM,)},
        {"at": 0.0, "until": 1.0},
        {"at": KILLED_AT - 60},
        {"what": "pause"},
    ],
    ids=["of another worker", "of an earlier life", "long before", "no signal to end"],
)
def test_a_signal_excuses_only_what_may_come_of_it(changes: dict[str, object]) -> None:
    assert STOPS not in broken(stopped(sound(), "bad", **changes))


def test_a_time_limit_keeps_its_outcome_after_a_signal() -> None:
    assert STOPS not in broken(stopped(sound(), "hang"))


def test_a_worker_that_is_killed_while_it_drains_cannot_give_back() -> None:
    evidence = stopped(sound(), "mortal")
    stop = evidence.faults[-1]
    kill = Fault("kill", "worker", stop.at + 0.1, stop.at + 0.4, (OTHER,))
    assert STOPS not in broken(replace(evidence, faults=[*evidence.faults, kill]))


def test_a_death_explains_the_loss_that_follows_it() -> None:
    """Not that of an attempt which never began, because its worker was killed half a second before."""
    evidence = sound()
    poison = job(evidence, "poison")
    second = [f for f in evidence.failures if f.id == poison][1]
    (killed,) = (f for f in evidence.faults if f.what == "kill")
    assert second.at - 0.5 > killed.at
    early = Failure(poison, 2, "lost", VICTIM, second.at - 0.5)
    for failures in ([early, *evidence.failures], [*evidence.failures, early]):
        blamed = replace(evidence, failures=failures)
        assert "losses are explained, and bounded" in broken(replace(blamed, faults=[]))
        again = replace(killed, at=early.at - 0.1, until=early.at)
        held = replace(blamed, faults=[*evidence.faults, again])
        assert Blame(held).unexplained == []


def test_two_records_of_one_look_lie_anywhere_since_the_look_before() -> None:
    """Else what ended between them would seem to have ended before the first."""
    first, second = (Failure(1, attempt, "error", OTHER, 20.0 + attempt, after=10.0) for attempt in (1, 2))
    assert records_before([first, second]) == {id(first): 0.0, id(second): 10.0}
    first, second = (Failure(1, attempt, "error", OTHER, 20.0 + attempt) for attempt in (1, 2))
    assert records_before([first, second]) == {id(first): 0.0, id(second): 21.0}


def test_what_was_asked_for_and_never_done_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    report = report_on(sound(kill="worker,child", cut="network"), 1.0)
    assert report.never_done == report.as_json()["never_done"] == ["cut network", "kill child"]
    assert [(line.kind, line.count) for line in report.faults] == [
        ("cut network", 0), ("kill child", 0), ("kill worker", 1),
    ]  # fmt: skip
    print_report(report)
    assert "never done, so nothing is shown of: cut network, kill child" in capsys.readouterr().out
