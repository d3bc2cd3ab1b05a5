"""Commands that check and export."""

from __future__ import annotations

import csv
import json

import pandas as pd
import pytest

from queue_eval.model.codec import FAIL_RETURN_VALUE
from queue_eval.model.moves import PointBatch
from queue_eval.model.states import Outcome
from queue_eval.server.lifecycle import start_server
from queue_eval.transport.access import find_access
from queue_eval.transport.link import Link
from tests.support.cli import Filled, cli, cli_here, complaint, document, filled_campaign


@pytest.fixture
def filled(server, campaign):
    with filled_campaign(server, campaign) as filled:
        yield filled


def test_export_jsonl(filled, server, campaign, tmp_path):
    # Finished anew, so last; its former failure is not exported.
    filled.queue.cancel([5, 6])
    filled.queue.retry([3])
    filled.run(1, Outcome.OK, "3")
    out = tmp_path / "e.jsonl"
    assert document(cli("export", campaign, "--out", out, "--json", home=server))["jobs"] == 6
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["id"] for row in rows] == [1, 2, 8, 5, 6, 3]
    assert rows[-1]["result"] == 3
    assert rows[0]["config"] == {"x": 1, "deep": {"a": [1]}}
    assert list(tmp_path.iterdir()) == [out]


def test_export_tables(filled, server, campaign, tmp_path):
    out = tmp_path / "e.csv"
    out.write_text("older")
    assert cli("export", campaign, "--out", "e.csv", home=server, cwd=tmp_path).stdout.startswith("4 jobs")
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:5] == ["x", "deep", "config.state", "id", "objective"]
    assert [(row["id"], row["state"], row["objective"]) for row in rows] == [
        ("1", "succeeded", "10.5"), ("2", "succeeded", '{"score": 1, "nan": null}'),
        ("3", "failed", str(FAIL_RETURN_VALUE)), ("8", "cancelled", str(FAIL_RETURN_VALUE)),
    ]  # fmt: skip
    assert rows[0]["deep"] == '{"a": [1]}'
    assert rows[1]["config.state"] == "mine"
    assert cli("export", campaign, "--out", tmp_path / "e.parquet", home=server).returncode == 0
    frame = pd.read_parquet(tmp_path / "e.parquet")
    assert list(frame.columns) == list(rows[0])
    assert list(frame["x"]) == [1, 2, 3, 8]
    assert frame["x"].dtype == "int64"
    assert str(frame["finished_at"].dtype) == "datetime64[ms, UTC]"
    assert json.loads(frame["objective"][1]) == {"score": 1, "nan": None}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e.csv", "e.parquet"]


def test_export_for_spreadsheets(filled, server, campaign, tmp_path):
    filled.submit({"x": -9, "name": "=1+1", "@key": "a"})
    filled.queue.cancel([4, 5, 6])
    filled.run(1, Outcome.ERROR, "=HYPERLINK()")
    filled.run(1, Outcome.ERROR, "=HYPERLINK()")
    out = tmp_path / "e.csv"
    assert cli_here("export", campaign, "--out", out, "--safe-cells", home=server).returncode == 0
    with out.open(newline="") as file:
        *_, row = csv.DictReader(file)
    assert [row[key] for key in ("x", "name", "'@key", "error")] == ["-9", "'=1+1", "a", "'=HYPERLINK()"]
    assert row["objective"] == str(FAIL_RETURN_VALUE)
    refused = cli_here("export", campaign, "--out", tmp_path / "e.jsonl", "--safe-cells", home=server)
    assert "--safe-cells is for .csv" in complaint(refused, 2)


def rows_of(path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_attempts(filled, server, campaign, tmp_path):
    """Each that has ended is there once, whether the job has ended or not."""
    filled.run(1, Outcome.ERROR, "Traceback\nValueError: of 5", "printed")
    filled.queue.cancel([4])
    out = tmp_path / "a.csv"
    done = cli_here("export", campaign, "--table", "attempts", "--out", out, home=server)
    assert done.stdout == f"6 attempts of {campaign} written to {out}\n"
    rows = rows_of(out)
    assert [(row["job"], row["attempt"], row["outcome"], row["cause"]) for row in rows] == [
        ("1", "1", "succeeded", ""), ("2", "1", "succeeded", ""), ("3", "1", "failed", "error"),
        ("3", "2", "failed", "error"), ("4", "1", "cancelled", ""), ("5", "1", "failed", "error"),
    ]  # fmt: skip
    assert [row["error"].splitlines()[-1:] for row in rows] == [
        [], [], ["ValueError: first"], ["ValueError: second"], [], ["ValueError: of 5"],
    ]  # fmt: skip
    assert {(row["worker"], row["host"]) for row in rows} == {("box-1", "box")}
    assert [row["run_s"] for row in rows] == ["0.02"] * 4 + ["", "0.02"]
    # They are those that `job` tells of.
    for job in (1, 3, 5):
        told = document(cli_here("job", campaign, job, "--json", home=server))["attempts_on_record"]
        ends = [(row["started_at"], row["finished_at"]) for row in rows if row["job"] == str(job)]
        assert [(one["started_at"], one["ended_at"]) for one in told] == ends
    parquet = tmp_path / "a.parquet"
    cli_here("export", campaign, "--table", "attempts", "--out", parquet, home=server)
    frame = pd.read_parquet(parquet)
    assert list(frame.columns) == list(rows[0])
    assert str(frame["started_at"].dtype) == "datetime64[ms, UTC]"
    assert (frame["job"].dtype, frame["run_s"].dtype) == ("int64", "float64")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "a.parquet"]


def test_attempts_are_read_in_pages(server, campaign, tmp_path):
    """More jobs than fit in a page, each with a failure that is followed by another end."""
    filled = Filled(server, campaign)
    filled.submit(*({"x": i} for i in range(900)))
    for outcome in (Outcome.ERROR, Outcome.OK):
        filled.run(900, outcome, "1")
    calls = filled.link.client.info("commandstats")["cmdstat_xrange"]["calls"]
    out = tmp_path / "a.jsonl"
    done = cli_here("export", campaign, "--table", "attempts", "--out", out, "--json", home=server)
    assert document(done) == {"campaign": campaign, "attempts": 1800, "out": str(out)}
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(row["job"], row["attempt"]) for row in rows] == [(i, k) for i in range(1, 901) for k in (1, 2)]
    # The stream of failures is read once, and each of its entries once more.
    assert filled.link.client.info("commandstats")["cmdstat_xrange"]["calls"] - calls < 950
    filled.queue.purge()
    filled.link.close()


def test_reports(filled, server, campaign, tmp_path):
    """A column per name, also for a name that a column of ours has."""
    base_ms = 1_600_000_000_000
    (lease,) = filled.settle(room=1)  # of job 5
    for job, attempt, lines in (
        (4, 1, b'1 1500 0 {"loss":0.5,"k":3}\n2 2500 9 {"loss":NaN,"step":-1}\n'),
        (lease.id, lease.attempt, b'1 1 4 {"accuracy":1}\n'),
    ):
        batch = PointBatch(job, attempt, "", base_ms, 0, False, "", lines)
        assert filled.queue.report("box-1", [batch]) == [True]
    out = tmp_path / "r.csv"
    done = cli_here("export", campaign, "--table", "reports", "--out", out, home=server)
    assert done.stdout == f"3 reports of {campaign} written to {out}\n"
    assert out.read_text().splitlines() == [
        "job,attempt,step,at,loss,k,values.step,accuracy",
        "4,1,0,2020-09-13T12:26:41.500+00:00,0.5,3,,",
        "4,1,9,2020-09-13T12:26:42.500+00:00,nan,,-1,",
        "5,1,4,2020-09-13T12:26:40.001+00:00,,,,1",
    ]
    parquet, lines = tmp_path / "r.parquet", tmp_path / "r.jsonl"
    for path in (parquet, lines):
        assert cli_here("export", campaign, "--table", "reports", "--out", path, home=server).returncode == 0
    frame = pd.read_parquet(parquet)
    assert (frame["loss"].dtype, frame["step"].dtype) == ("float64", "int64")
    assert list(frame["values.step"].dropna()) == [-1]
    rows = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [row["values"] for row in rows] == [
        {"loss": 0.5, "k": 3}, {"loss": None, "step": -1}, {"accuracy": 1},
    ]  # fmt: skip


@pytest.mark.parametrize("table", ["attempts", "reports"])
@pytest.mark.parametrize("ending", ["csv", "parquet", "jsonl"])
def test_further_tables_of_nothing(server, campaign, tmp_path, table, ending):
    filled = Filled(server, campaign)
    out = tmp_path / f"e.{ending}"
    done = cli_here("export", campaign, "--table", table, "--out", out, home=server)
    assert done.stdout == f"0 {table} of {campaign} written to {out}\n"
    assert [*tmp_path.iterdir()] == [out]
    filled.queue.purge()
    filled.link.close()


def test_export_of_nothing_and_to_nowhere(server, campaign, tmp_path):
    filled = Filled(server, campaign)
    for ending in ("csv", "parquet", "jsonl"):
        assert cli_here("export", campaign, "--out", tmp_path / f"e.{ending}", home=server).returncode == 0
    assert (tmp_path / "e.jsonl").read_text() == ""
    assert len((tmp_path / "e.csv").read_text().splitlines()) == 1
    assert pd.read_parquet(tmp_path / "e.parquet").empty
    assert ".csv, .parquet or .jsonl" in complaint(
        cli_here("export", campaign, "--out", "e.xls", home=server), 2
    )
    complaint(cli_here("export", campaign, "--out", tmp_path / "no" / "e.csv", home=server), 2)
    long = tmp_path / f"{'e' * 300}.csv"
    assert "File name too long; check" in complaint(
        cli_here("export", campaign, "--out", long, home=server), 1
    )
    filled.queue.purge()
    filled.link.close()


def test_doctor(filled, server, campaign):
    done = cli("doctor", home=server)
    assert (done.returncode, done.stderr) == (0, "")
    assert {line.split()[0] for line in done.stdout.splitlines()} <= {"ok", "warn"}
    assert document(cli("doctor", "--json", home=server))["ok"] is True
    filled.link.call(lambda client: client.hincrby(filled.queue.keys.meta, "last_id", 1))
    failed = [
        check
        for check in document(cli("doctor", "--json", home=server), 1)["checks"]
        if check["status"] == "fail"
    ]
    assert [check["name"] for check in failed] == [f"campaign {campaign}"]
    filled.link.call(lambda client: client.hincrby(filled.queue.keys.meta, "last_id", -1))


def test_doctor_of_a_server_that_hurts(own_home):
    start_server(own_home)
    link = Link(find_access(None, own_home), name="test")
    for name, value in (("maxmemory-policy", "allkeys-lru"), ("maxmemory", "1gb"), ("appendonly", "no")):
        link.call(lambda client, name=name, value=value: client.config_set(name, value))
    link.close()

    def failed() -> set[str]:
        report = document(cli_here("doctor", "--json", "--home", own_home), 1)
        return {check["name"] for check in report["checks"] if check["status"] == "fail"}

    assert failed() == {"persistence", "maxmemory-policy"}
    own_home.chmod(0o777)
    # Others may have put another server's address there: it is not asked.
    assert failed() == {"home", "server"}
    own_home.chmod(0o700)
    (own_home / "access.json").chmod(0o644)
    report = document(cli_here("doctor", "--json", "--home", own_home), 1)
    assert {c["name"] for c in report["checks"] if c["status"] == "fail"} == {"server", "access file"}


def test_doctor_without_a_server(own_home):
    report = document(cli_here("doctor", "--json", "--home", own_home), 1)
    assert [check["name"] for check in report["checks"] if check["status"] == "fail"] == ["server"]
    assert not own_home.exists()
