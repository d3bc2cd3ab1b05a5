"""Jobs that report, look, save and give back, in a real child process."""

from __future__ import annotations

import ast
import math
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from queue_eval.runtime.checkpoints import newest
from tests.support.inside_child import LANE, InsideChild
from tests.support.waiting import wait_until


@pytest.fixture
def child(tmp_path: Path) -> Iterator[InsideChild]:
    with InsideChild(tmp_path) as child:
        yield child


def result(report) -> object:  # type: ignore[no-untyped-def]
    assert report.outcome == "ok", report.body.decode()
    return ast.literal_eval(report.body.decode().replace("null", "None").replace("true", "True"))


def test_a_job_knows_itself(child):
    assert result(child.run(3, 7, do="facts", lr=1)) == [
        3, "search", 7, {"do": "facts", "lr": 1, "id": 3}, "w1", 1, None, 0
    ]  # fmt: skip
    child.start(4, 1, 5, do="facts", lr=1)
    assert result(child.report(4))[5] == 5


def test_time_left(tmp_path):
    with InsideChild(tmp_path, time_limit_s=50.0, ends_at=time.monotonic() + 1000) as child:
        assert 40 < result(child.run(1, do="facts"))[6] <= 50
    (tmp_path / "b").mkdir()
    with InsideChild(tmp_path / "b", time_limit_s=50.0, ends_at=time.monotonic() + 10) as child:
        assert 0 < result(child.run(1, do="facts"))[6] <= 10
    (tmp_path / "c").mkdir()
    with InsideChild(tmp_path / "c", ends_at=time.monotonic() - 10) as child:
        assert result(child.run(1, do="facts"))[6] == 0


def test_points_come_before_the_report_and_with_their_attempt(child):
    for job, attempt in ((1, 1), (2, 5), (1, 2)):
        assert result(child.run(job, attempt, do="reports", steps=300)) == 300
        points = child.points(job, attempt)
        assert [step for step, _ in points] == list(range(300))
        assert points[4][1]["loss"] == 2
        assert math.isnan(points[4][1]["bad"])
        assert child.kinds(job, attempt)[-1] == "report"
        assert child.dropped(job, attempt) == 0


def test_a_point_does_not_wait_for_the_next_one(child, tmp_path):
    child.start(1, do="reports_then_waits", steps=40, until=str(tmp_path / "go"))
    wait_until(lambda: len(child.points(1)) == 40, 5)
    assert (1, 1) not in child.reports
    (tmp_path / "go").touch()
    assert result(child.report(1)) == "waited"


def test_too_many_points_are_thinned_and_counted(child):
    begun = time.monotonic()
    made = result(child.run(1, do="reports_for", time_s=1.0))
    took_s = time.monotonic() - begun
    points = child.points(1)
    assert len(points) + child.dropped(1) == made
    assert len(points) <= 1000 * took_s + 1200
    assert (points[0][0], points[-1][0]) == (0, made - 1)
    assert child.kinds(1).count("points") <= 50 * took_s + 5


def test_what_is_no_number_is_refused_with_a_sentence(child):
    sentences = result(child.run(1, do="refused"))
    assert len(sentences) == 8
    assert all(len(sentence) < 120 and "'loss'" in sentence for sentence in sentences)
    assert child.points(1) == []
    report = child.run(2, do="reports_text")
    assert report.outcome == "error"
    assert report.body.decode().endswith("ReportError: report: 'loss' is a str; give numbers only\n")
    assert report.body.decode().count("File ") == 2


def test_a_job_that_does_not_read_is_not_waited_for(tmp_path):
    """The worker is frozen: the pipe is full, and the job goes on."""
    with InsideChild(tmp_path, reads=False) as child:
        child.start(1, do="reports_for", time_s=1.0)
        child.start(2, do="facts")
        child.read()
        assert result(child.report(2))[0] == 2
        made = result(child.report(1))
        assert len(child.points(1)) + child.dropped(1) == made


def test_stop(child, tmp_path):
    child.start(1, do="looks", begun=str(tmp_path / "begun"))
    wait_until((tmp_path / "begun").exists)
    wait_until(lambda: "looked" in child.kinds(1))
    told_at = time.time()
    child.tell("stop", 1)
    report = child.report(1)
    assert report.outcome == "stopped"
    word, seen_at = ast.literal_eval(report.body.decode())
    assert word == "stop"
    assert seen_at - told_at < 1  # a tenth, on a machine with time
    assert child.kinds(1) == ["looked", "report"]


def test_a_drain_and_a_failure_are_no_early_success(child, tmp_path):
    child.tell("drain", 1)
    assert result(child.run(1, do="looks", begun=str(tmp_path / "begun")))[0] == "drain"
    child.tell("stop", 2)
    assert child.run(2, do="stops_and_fails", begun=str(tmp_path / "begun")).outcome == "error"
    child.tell("stop", 3)
    assert child.run(3, do="facts").outcome == "ok"  # it did not look


@pytest.mark.parametrize(
    ("function", "reason"),
    [("gives_back", "no GPU"), ("swallows", "kept"), ("swallows_and_fails", "kept"),
     ("gives_back_in_task", "in a task")],
)  # fmt: skip
def test_given_back(child, function, reason):
    report = child.run(1, do=function)
    assert (report.outcome, report.body.decode()) == ("given back", reason)
    assert child.run(1, 2, do="facts").outcome == "ok"  # the child goes on


def test_a_thread_gives_back_by_the_worker(child, tmp_path):
    child.start(1, do="gives_back_in_thread", until=str(tmp_path / "go"))
    frame = wait_until(lambda: [header for header, _ in child.frames if header[0] == "give-back"])
    assert frame[0] == ["give-back", 1, 1, "from a thread"]
    (tmp_path / "go").touch()
    assert child.report(1).outcome == "ok"  # whatever the worker makes of it


def test_a_program_gives_back_by_the_worker(child):
    child.start(1, do="gives_back_in_program")
    wait_until(lambda: ["give-back", 1, 1, "from a program"] in [header for header, _ in child.letters])


def test_tasks_and_threads(child):
    assert result(child.run(1, do="in_tasks")) == "done"
    assert sorted(child.points(1)) == [(step, {"loss": step}) for step in range(6)]
    assert result(child.run(2, do="in_threads")) == 10
    assert sorted(child.points(2)) == [(step, {"job": 2}) for step in range(10)]
    assert b"generator" in child.run(3, do="generator").body


@pytest.mark.parametrize("threads", [1, 2])
def test_a_thread_that_stays_is_never_taken_for_the_next_job(tmp_path, threads):
    with InsideChild(tmp_path, threads=threads) as child:
        until, said = tmp_path / "go", tmp_path / "said"
        child.run(1, do="leaves_thread", until=str(until), said=str(said))
        child.start(2, do="reports_then_waits", steps=1, until=str(said))
        wait_until(lambda: child.points(2))
        until.touch()
        assert child.report(2).outcome == "ok"
        assert said.read_text().splitlines() == [
            "AttemptEndedError: the attempt of this job is over; report while the run function runs"
        ] * 2  # fmt: skip
        assert child.points(2) == [(0, {"loss": 0.5})]
        assert child.points(1) == []


def test_a_pool_from_the_import_works_for_each_job(tmp_path):
    with InsideChild(tmp_path, "tests.support.import_pool:report_in_pool") as child:
        for job in (1, 2, 3):
            assert result(child.run(job)) == job
            assert [values for _, values in child.points(job)] == [{"job": job}]


def test_a_kept_pool_and_a_kept_object(child):
    assert result(child.run(1, do="in_kept_pool")) == "taken"
    assert result(child.run(2, do="in_kept_pool")) == "refused"
    assert (child.points(1), child.points(2)) == ([(1, {"job": 1})], [(2, {"job": 2})])
    assert result(child.run(3, do="keeps_job")) == "- | - | - | -"
    said = result(child.run(4, do="keeps_job")).split(" | ")
    assert ["the attempt of this job is over" in sentence for sentence in said] == [True] * 4
    assert child.kinds(3) == ["report"]


def test_slots_are_kept_apart(tmp_path):
    with InsideChild(tmp_path, threads=4) as child:
        for job in range(1, 41):
            child.start(job, do="in_threads")
        for job in range(1, 41):
            assert result(child.report(job)) == 10
            assert sorted(child.points(job)) == [(step, {"job": job}) for step in range(10)]
            assert child.kinds(job)[-1] == "report"


def test_a_fork_reports_by_the_mailbox(child):
    assert result(child.run(1, do="in_fork", steps=15)) == 0
    wait_until(lambda: len(child.sent_points(1)) == 15)
    assert child.points(1) == []
    wait_until(lambda: "looked" in child.sent_kinds(1))


def test_a_fork_that_returns_is_not_the_job(child):
    assert result(child.run(1, do="returns_in_fork")) == "job"
    wait_until(lambda: len(child.sent_points(1)) + child.dropped(1) == 500)
    assert child.kinds(1).count("report") == 1


@pytest.mark.parametrize("kind", ["fork", "spawn"])
def test_multiprocessing(child, kind):
    assert result(child.run(1, do="in_multiprocessing", kind=kind)) == 0
    wait_until(lambda: len(child.sent_points(1)) + child.dropped(1) == 500)
    assert child.sent_points(1)[-1] == (499, {"loss": 499})


def test_a_program_with_the_token(child):
    said = result(child.run(5, 3, do="in_program"))
    assert said.splitlines() == ["5 3 {'do': 'in_program', 'id': 5} 3-1 True", "False 0"]
    assert child.sent_points(5, 3) == [(7, {"loss": 1.5})]
    assert child.sent_kinds(5, 3) == ["points", "saved", "folder"]


def test_a_program_is_shown_stop(child):
    child.tell("stop", 1)
    assert result(child.run(1, do="looks_in_program")) == ""
    assert child.sent_kinds(1) == ["looked", "shown"]


def test_a_program_whose_worker_is_gone_is_told(child):
    Path(child.facts["mailbox"]).unlink()
    last_line = result(child.run(1, do="in_program")).splitlines()[-1]
    assert last_line.startswith("queue_eval.errors.AttemptEndedError: the worker of this job is gone")


def test_handlers_that_report_and_raise_break_nothing(child):
    made = result(child.run(1, do="with_handler", alarms=300))
    assert made > 300
    assert len(child.points(1)) + child.dropped(1) >= made
    assert result(child.run(2, do="facts"))[0] == 2


def test_the_working_folder(child, tmp_path):
    folder, mode = result(child.run(2, 3, do="works_in_folder"))
    assert Path(folder) == tmp_path / "folders" / f"search-{LANE}" / "2-3"
    assert mode == "0o700"
    assert child.kinds(2, 3) == ["folder", "report"]


def checkpoints(tmp_path: Path, job: int = 1) -> Path:
    return tmp_path / "checkpoints" / f"search-{LANE}" / str(job)


def test_checkpoints_go_on_over_attempts(child, tmp_path):
    assert result(child.run(1, 1, do="saves", steps=3)) == ["1-3", "3"]
    assert result(child.run(1, 4, do="saves", steps=2)) == ["4-2", "5"]
    assert sorted(path.name for path in checkpoints(tmp_path).iterdir()) == [".begun-4", "4-2"]
    place = (tmp_path / "checkpoints" / ".place").read_text()
    saved = [header[3:] for header, _ in child.frames if header[:3] == ["saved", 1, 4]]
    assert saved == [[1, place], [2, place]]


def test_a_job_without_checkpoints_leaves_no_folder(child, tmp_path):
    assert child.run(1, do="facts").outcome == "ok"
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_killed_while_it_saves(tmp_path):
    with InsideChild(tmp_path) as child:
        child.start(1, do="is_killed_while_it_saves", steps=2, begun=str(tmp_path / "begun"))
        wait_until((tmp_path / "begun").exists)
        child.process.kill()
        child.process.wait()
    found = newest(checkpoints(tmp_path))
    assert found is not None
    assert (found.name, (found / "step").read_text()) == ("1-2", "2")
    Path(tmp_path / "mailbox").unlink()
    with InsideChild(tmp_path) as child:
        assert result(child.run(1, 2, do="saves", steps=1)) == ["2-1", "3"]
    assert sorted(path.name for path in checkpoints(tmp_path).iterdir()) == [".begun-2", "2-1"]


def test_an_error_while_it_saves(child, tmp_path):
    assert result(child.run(1, do="fails_while_it_saves", steps=2)) == "2"
    assert sorted(path.name for path in checkpoints(tmp_path).iterdir()) == [".begun-1", "1-2"]


def test_a_full_disk(child, tmp_path):
    assert result(child.run(1, do="fills_the_disk", steps=1)) == ["OSError", "1-1", "1"]
    assert sorted(path.name for path in checkpoints(tmp_path).iterdir()) == [".begun-1", "1-1"]
    assert child.report(1).outcome == "ok"
