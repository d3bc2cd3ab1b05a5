from __future__ import annotations

import csv
import os
import socket
import stat
import subprocess

import pytest

from queue_eval.errors import UsageError
from queue_eval.job import Job
from queue_eval.results import convert_for_csv, data_frame, write_results
from queue_eval.states import State


def finished(id_, result=0.5, **config):
    job = Job(id_, config, None)
    job.status, job.state, job.result = Job.DONE, State.SUCCEEDED, result
    job.elapsed_sec, job.duration = 2.5, 0.25
    return job


def rows(folder):
    with (folder / "results.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def names(folder):
    return [path.name for path in folder.iterdir()]


def test_columns_of_a_whole_config(tmp_path):
    write_results([finished(1, x=1, y="a")], None, tmp_path)
    assert rows(tmp_path) == [
        ["x", "y", "id", "objective", "elapsed_sec", "duration"],
        ["1", "a", "1", "0.5", "2.5", "0.25"],
    ]


def test_different_keys_give_the_union_of_columns(tmp_path):
    write_results([finished(1, x=1), finished(2, y=2, x=3), finished(3, z=4)], None, tmp_path)
    assert rows(tmp_path) == [
        ["x", "y", "z", "id", "objective", "elapsed_sec", "duration"],
        ["1", "", "", "1", "0.5", "2.5", "0.25"],
        ["3", "2", "", "2", "0.5", "2.5", "0.25"],
        ["", "", "4", "3", "0.5", "2.5", "0.25"],
    ]


@pytest.mark.parametrize("spill", [False, True])
def test_keys_named_like_our_columns_are_all_kept(tmp_path, spill):
    config = {"objective": 1, "config.objective": 2, "duration": 3, "state": 4}
    other = {"config.objective": 5, "config.duration": None}
    jobs = [finished(1, **config), finished(2, **other), finished(3, objective=6)]
    write_results(iter(jobs), None, tmp_path, spill=spill)
    assert [row[:-2] for row in rows(tmp_path)] == [
        ["config.config.objective", "config.objective", "config.config.duration", "state", "config.duration",
         "id", "objective"],
        ["1", "2", "3", "4", "", "1", "0.5"],
        ["", "5", "", "", "", "2", "0.5"],
        ["6", "", "", "", "", "3", "0.5"],
    ]  # fmt: skip
    write_results(jobs, ["config.objective", "objective"], tmp_path)
    assert rows(tmp_path)[0][:2] == ["config.objective", "config.config.objective"]
    assert rows(tmp_path)[1][:2] == ["2", "1"]
    frame = data_frame(jobs)
    assert list(frame.columns[:4]) == [
        "config.config.objective", "config.objective", "config.config.duration", "config.state",
    ]  # fmt: skip
    assert list(frame["objective"]) == [0.5] * 3
    assert list(frame["config.objective"][:2]) == [2, 5]
    assert frame["config.config.objective"][0] == 1


def test_saved_keys_named_like_our_columns(tmp_path):
    write_results([finished(1, x=1)], ["x", "objective", "id"], tmp_path)
    assert rows(tmp_path)[0] == ["x", "id", "objective", "elapsed_sec", "duration"]
    write_results([finished(1, x=1)], lambda job: {"x": 1, "objective": 7, "id": 8}, tmp_path)
    assert rows(tmp_path)[1][:3] == ["1", "1", "0.5"]


def test_saved_keys(tmp_path):
    write_results([finished(1, x=[1, 2], y=2)], ["x", "absent"], tmp_path)
    assert rows(tmp_path)[0] == ["x", "absent", "id", "objective", "elapsed_sec", "duration"]
    assert rows(tmp_path)[1] == ["[1, 2]", "", "1", "0.5", "2.5", "0.25"]
    write_results([finished(1, x=1)], lambda job: {"double": job.config["x"] * 2}, tmp_path)
    assert rows(tmp_path)[0] == ["double", "id", "objective", "elapsed_sec", "duration"]
    assert rows(tmp_path)[1][0] == "2"


@pytest.mark.parametrize("saved_keys", ["x", 3, lambda job: [1]])
def test_saved_keys_of_another_kind(tmp_path, saved_keys):
    with pytest.raises(UsageError, match="saved_keys"):
        write_results([finished(1, x=1)], saved_keys, tmp_path)
    assert not names(tmp_path)


def test_text_of_any_kind_comes_back(tmp_path):
    texts = ["it's", 'say "hi", you', "two\nlines", "car\rriage", "käse 数"]
    write_results([finished(i, t, x=t) for i, t in enumerate(texts)], None, tmp_path)
    assert [row[0] for row in rows(tmp_path)[1:]] == texts
    write_results([finished(1, x="\ud800")], None, tmp_path)
    assert rows(tmp_path)[1][0] == "\\ud800"


def test_nothing_to_dump_no_file(tmp_path):
    assert write_results([], None, tmp_path / "log") is None
    assert not (tmp_path / "log").exists()


def test_the_folder_is_made_and_holds_nothing_else(tmp_path):
    folder = tmp_path / "a" / "b"
    for n in (1, 2, 3):
        write_results([finished(i, x=i) for i in range(n)], None, folder)
    assert names(folder) == ["results.csv"]
    assert len(rows(folder)) == 4


def test_a_failure_leaves_the_old_file(tmp_path, monkeypatch):
    write_results([finished(1, x=1)], None, tmp_path)
    before = rows(tmp_path)

    def full(_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="disk full"):
        write_results([finished(1, x=1), finished(2, x=1)], None, tmp_path)
    assert rows(tmp_path) == before
    assert names(tmp_path) == ["results.csv"]


def test_what_a_killed_driver_left_is_removed(tmp_path):
    with subprocess.Popen(["true"]) as ended:
        pass
    prefix = f".results.csv.{socket.gethostname()}"
    left, live = f"{prefix}.{ended.pid}.aa", f"{prefix}.{os.getppid()}.bb"
    for name in (left, live, ".results.csv.elsewhere.1.cc"):
        (tmp_path / name).touch()
    write_results([finished(1)], None, tmp_path)
    assert sorted(names(tmp_path)) == sorted([live, ".results.csv.elsewhere.1.cc", "results.csv"])


def test_others_may_read_it_as_any_file(tmp_path):
    (tmp_path / "other").touch()
    write_results([finished(1)], None, tmp_path)
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("other", "results.csv")}
    assert len(modes) == 1


def test_only_lists_are_converted():
    assert convert_for_csv([1, "a"]) == "[1, 'a']"
    assert [convert_for_csv(v) for v in (1, "a", (1,), None)] == [1, "a", (1,), None]


def test_a_data_frame_has_a_row_per_job():
    job = finished(1, x=1)
    job.submitted_ms, job.started_ms, job.finished_ms = 0.0, 1000.0, 3000.0
    frame = data_frame([job, Job(2, {"y": 2}, None)])
    assert list(frame.columns) == [
        "x", "y", "id", "objective", "state", "attempts", "releases", "worker", "host", "submitted_at",
        "started_at", "finished_at", "run_s", "wait_s", "elapsed_sec", "duration", "error",
    ]  # fmt: skip
    assert list(frame["state"]) == ["succeeded", "pending"]
    assert str(frame["finished_at"].dtype).endswith("UTC]")
    assert (frame["run_s"][0], frame["wait_s"][0]) == (2.0, 1.0)
    assert frame["finished_at"].isna()[1]


def test_large_integers_of_a_data_frame_are_exact():
    large = 2**53 + 1
    jobs = [
        finished(1, large, a=large, b=large, c=large, d=2**63, e=1, f=large, g=0.5),
        finished(2, -3.4028235e38, b=-large, c=0.5, f=None),
        finished(3, None),
    ]
    frame = data_frame(jobs)
    assert frame["objective"][0] == frame["a"][0] == frame["b"][0] == frame["c"][0] == frame["f"][0] == large
    assert frame["b"][1] == -large
    assert frame["d"][0] == 2**63
    assert str(frame["b"].dtype) == "Int64"
    assert [str(frame[name].dtype) for name in ("e", "g")] == ["float64"] * 2, "as pandas has it"
    assert list(frame["b"].isna()) == list(frame["c"].isna()) == [False, False, True]
    assert (frame["objective"][1], frame["c"][1]) == (-3.4028235e38, 0.5)
    assert str(data_frame(jobs[:1])["a"].dtype) == "int64"


def test_a_data_frame_of_nothing():
    assert len(data_frame([])) == 0
