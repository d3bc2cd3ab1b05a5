from __future__ import annotations

import csv
import os
import socket
import stat
import subprocess
from pathlib import Path

import pytest

from queue_eval.driver.results import convert_for_csv, data_frame, write_results
from queue_eval.driver.results_owner import Owner, owner_of
from queue_eval.errors import UsageError
from queue_eval.model.codec import FAIL_RETURN_VALUE
from queue_eval.model.job import Job
from queue_eval.model.states import State


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
        ["x", "y", "id", "objective", "elapsed_sec", "duration", "state"],
        ["1", "a", "1", "0.5", "2.5", "0.25", "succeeded"],
    ]


def test_different_keys_give_the_union_of_columns(tmp_path):
    write_results([finished(1, x=1), finished(2, y=2, x=3), finished(3, z=4)], None, tmp_path)
    assert rows(tmp_path) == [
        ["x", "y", "z", "id", "objective", "elapsed_sec", "duration", "state"],
        ["1", "", "", "1", "0.5", "2.5", "0.25", "succeeded"],
        ["3", "2", "", "2", "0.5", "2.5", "0.25", "succeeded"],
        ["", "", "4", "3", "0.5", "2.5", "0.25", "succeeded"],
    ]


@pytest.mark.parametrize("spill", [False, True])
def test_keys_named_like_our_columns_are_all_kept(tmp_path, spill):
    config = {"objective": 1, "config.objective": 2, "duration": 3, "state": 4}
    other = {"config.objective": 5, "config.duration": None}
    jobs = [finished(1, **config), finished(2, **other), finished(3, objective=6)]
    write_results(iter(jobs), None, tmp_path, spill=spill)
    assert [row[:-3] for row in rows(tmp_path)] == [
        ["config.config.objective", "config.objective", "config.config.duration", "config.state",
         "config.duration", "id", "objective"],
        ["1", "2", "3", "4", "", "1", "0.5"],
        ["", "5", "", "", "null", "2", "0.5"],
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
    assert rows(tmp_path)[0] == ["x", "id", "objective", "elapsed_sec", "duration", "state"]
    write_results([finished(1, x=1)], lambda job: {"x": 1, "objective": 7, "id": 8}, tmp_path)
    assert rows(tmp_path)[1][:3] == ["1", "1", "0.5"]


def test_a_callable_may_give_a_state_of_its_own(tmp_path):
    write_results([finished(1, state="solid")], lambda job: dict(job.config), tmp_path)
    assert rows(tmp_path)[0] == ["config.state", "id", "objective", "elapsed_sec", "duration", "state"]
    assert [rows(tmp_path)[1][i] for i in (0, -1)] == ["solid", "succeeded"]
    for ours in (lambda job: {"state": job.state}, lambda job: {"state": job.state.value}):
        write_results([finished(1, x=1)], ours, tmp_path)
        assert rows(tmp_path)[0] == ["id", "objective", "elapsed_sec", "duration", "state"]


def test_saved_keys(tmp_path):
    write_results([finished(1, x=[1, 2], y=2)], ["x", "absent"], tmp_path)
    assert rows(tmp_path)[0] == ["x", "absent", "id", "objective", "elapsed_sec", "duration", "state"]
    assert rows(tmp_path)[1] == ["[1, 2]", "", "1", "0.5", "2.5", "0.25", "succeeded"]
    write_results([finished(1, x=1)], lambda job: {"double": job.config["x"] * 2}, tmp_path)
    assert rows(tmp_path)[0] == ["double", "id", "objective", "elapsed_sec", "duration", "state"]
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


def test_state_stands_last_and_keeps_a_key_of_that_name(tmp_path):
    failed = finished(2, FAIL_RETURN_VALUE, x=2, state="b")
    failed.state = State.FAILED
    write_results([finished(1, x=1, state="a"), failed], None, tmp_path)
    assert rows(tmp_path) == [
        ["x", "config.state", "id", "objective", "elapsed_sec", "duration", "state"],
        ["1", "a", "1", "0.5", "2.5", "0.25", "succeeded"],
        ["2", "b", "2", str(FAIL_RETURN_VALUE), "2.5", "0.25", "failed"],
    ]


@pytest.mark.parametrize("spill", [False, True])
def test_cells_are_json_where_they_are_no_text(tmp_path, spill):
    values = [True, None, {"a": [None, "é"]}, [1, "a"], 1.5, 2**70, 1e-7]
    write_results([finished(i, v, x=v) for i, v in enumerate(values)], None, tmp_path, spill=spill)
    cells = ["true", "null", '{"a": [null, "\\u00e9"]}', '[1, "a"]', "1.5", str(2**70), "1e-07"]
    assert [row[0] for row in rows(tmp_path)[1:]] == cells
    assert [row[2] for row in rows(tmp_path)[1:]] == ["" if cell == "null" else cell for cell in cells]


@pytest.mark.parametrize("spill", [False, True])
def test_text_is_quoted_only_where_it_would_be_read_as_another_value(tmp_path, spill):
    configs = [{"a": "adam", "b": "sqrt", "c": "1", "d": ""}, {"a": None, "b": 0.5, "c": "NaN", "d": "x y"}]
    write_results([finished(i, **config) for i, config in enumerate(configs)], None, tmp_path, spill=spill)
    assert [row[:4] for row in rows(tmp_path)[1:]] == [
        ["adam", '"sqrt"', '"1"', '""'], ["null", "0.5", "NaN", "x y"],
    ]  # fmt: skip


@pytest.mark.parametrize("spill", [False, True])
def test_what_a_callable_gives_is_written_as_it_can_be(tmp_path, spill):
    given = {"path": Path("/x"), "pair": (1, "a"), "odd": {(1, 2): 3}, "text": "1", "none": None, "no": False}
    write_results([finished(1, x=1)], lambda _: given, tmp_path, spill=spill)
    assert rows(tmp_path)[1][:6] == ["/x", '[1, "a"]', "{(1, 2): 3}", "1", "", "false"]


def test_lists_of_saved_keys_stay_as_deephyper_writes_them(tmp_path):
    write_results([finished(1, x=["a", None], y={"a": 1}, z="1")], ["x", "y", "z"], tmp_path)
    assert rows(tmp_path)[1][:3] == ["['a', None]", '{"a": 1}', "1"]


A, B = Owner("a", "u1"), Owner("b", "u2")


@pytest.fixture(params=[True, False])
def marks(request, monkeypatch):
    """Whether the file system keeps marks."""
    if not request.param:
        monkeypatch.delattr(os, "setxattr", raising=False)
        monkeypatch.delattr(os, "getxattr", raising=False)
    elif not hasattr(os, "setxattr"):
        pytest.skip("this system has no extended attributes")
    return request.param


def timed(id_, elapsed_sec, **config):
    job = finished(id_, **config)
    job.elapsed_sec = elapsed_sec
    return job


def test_results_of_another_campaign_are_kept(tmp_path, marks):
    mine, others = [timed(i, i + 0.5, x=i) for i in range(3)], [timed(i, i + 0.25, x=-i) for i in range(2)]
    for jobs in (mine[:1], mine[:2], mine):  # one's own are replaced
        write_results(jobs, None, tmp_path, owner=A)
    assert names(tmp_path) == ["results.csv"]
    before = rows(tmp_path)
    with pytest.warns(UserWarning, match=r"csv held results of .*, not of campaign 'b'; they are now in"):
        write_results(others, None, tmp_path, owner=B)
    assert len(rows(tmp_path)) == 3
    (kept,) = set(tmp_path.iterdir()) - {tmp_path / "results.csv"}
    with kept.open(newline="") as file:
        assert list(csv.reader(file)) == before
    if marks:
        assert kept.name == "results.a.csv"
        for jobs, owner in ((mine, A), (others, B)):  # both live on: no file for each turn
            with pytest.warns(UserWarning, match="held results of campaign"):
                write_results(jobs, None, tmp_path, owner=owner)
        assert sorted(names(tmp_path)) == ["results.a.csv", "results.b.csv", "results.csv"]


def test_a_new_campaign_of_the_same_name_is_another(tmp_path):
    write_results([timed(1, 0.5)], None, tmp_path, owner=A)
    is_marked = owner_of(tmp_path / "results.csv") is not None
    whose = "an earlier campaign of that name" if is_marked else "something else"
    with pytest.warns(UserWarning, match=f"held results of {whose}, .*; they are now in results"):
        write_results([timed(1, 0.75)], None, tmp_path, owner=Owner("a", "u9"))
    assert len(names(tmp_path)) == 2


def test_own_long_results_are_known_again(tmp_path, marks):
    for count in (1, 2):
        jobs = [finished(i, "x" * 200_000, x=i) for i in range(count)]
        write_results(jobs, None, tmp_path, owner=A)
    assert names(tmp_path) == ["results.csv"]


def test_a_file_that_is_none_of_ours_is_kept(tmp_path):
    (tmp_path / "results.csv").write_text("mine,all mine\n1,2\n")
    with pytest.warns(UserWarning, match="held results of something else"):
        write_results([finished(1, x=1)], None, tmp_path, owner=A)
    assert sorted(path.read_text()[:4] for path in tmp_path.iterdir()) == ["mine", "x,id"]


def test_results_of_the_build_before_are_known_again(tmp_path):
    old = "x,id,objective,elapsed_sec,duration\n1,1,0.5,2.5,0.25\n2,2,0.5,9.0,0.25\n3,3,0.5,2.5,0.25\n"
    (tmp_path / "results.csv").write_text(old)
    write_results([finished(i, x=i) for i in range(4)], None, tmp_path, owner=A)
    assert names(tmp_path) == ["results.csv"]
