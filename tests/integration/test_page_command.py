"""`queue-eval page`, of a campaign on a real server and of what was exported of it."""

from __future__ import annotations

import json
import re
from contextlib import closing

import pytest

from queue_eval.model.states import Outcome
from tests.support.cli import Filled, cli_here, complaint, document
from tests.support.hand_worker import HandWorker


@pytest.fixture
def search(server, campaign):
    """Jobs 1 to 4 have succeeded with 2, 5, 3 and 9; 5 has failed."""
    filled = Filled(server, campaign)
    filled.submit(*({"lr": 10.0**-n, "opt": "ab"[n % 2], "deep": {"n": n}, "text": "1"} for n in range(5)))
    with closing(HandWorker(server, campaign)) as worker:
        leases = worker.lease(5)
        worker.report(leases[0], (1, {"loss": 3.0}), (2, {"loss": float("nan")}))
        for lease, value in zip(leases[:4], (2, 5, 3, 9), strict=True):
            worker.finish(lease, {"objective": value, "loss": -value})
        error = "Traceback\nValueError: </script> 7"
        worker.finish(leases[4], error, Outcome.ERROR)
        (again,) = worker.lease(1)
        worker.finish(again, error, Outcome.ERROR)
    yield filled
    filled.queue.purge()
    filled.link.close()


def documents_of(path):
    found = re.search(r'<script id="documents" type="application/json">(.*?)</script>', path.read_text())
    assert found is not None
    return json.loads(found[1])


def test_a_page_of_a_campaign(search, server, campaign, tmp_path):
    out = tmp_path / "r.html"
    out.write_text("older")
    told = document(cli_here("page", campaign, "--out", out, "--json", home=server))
    assert told == {"campaign": campaign, "finished": 5, "out": str(out), "bytes": out.stat().st_size}
    assert list(tmp_path.iterdir()) == [out]
    found = documents_of(out)
    assert found["overview"]["best"]["value"] == 9
    assert found["overview"]["counts"]["failed"] == 1
    assert found["course"]["best"] == [2, 5, 5, 9, 9]
    assert len(found["course"]["depth"]) == 5
    assert [curve["points"] for curve in found["curves"]["curves"]] == [[[1, 3], [2, None]]]
    assert found["sample"]["columns"] == ["lr", "opt", "deep.n"]
    assert sum(len(lane["spans"]) for lane in found["slots"]["lanes"]) == 5
    # Who is sent a page has no use for commands with folders of this machine.
    assert str(server) not in out.read_text()


@pytest.mark.parametrize("ending", ["csv", "parquet", "jsonl"])
def test_a_page_of_an_export_is_that_of_the_campaign(ending, search, server, campaign, tmp_path):
    table, direct, out = tmp_path / f"e.{ending}", tmp_path / "direct.html", tmp_path / "r.html"
    assert cli_here("export", campaign, "--out", table, home=server).returncode == 0
    chosen = ("--key", "loss", "--minimize")
    assert cli_here("page", campaign, "--out", direct, *chosen, home=server).returncode == 0
    # In a home without a server.
    assert cli_here("page", "--from", table, "--out", out, *chosen, home=tmp_path).returncode == 0
    found, wanted = documents_of(out), documents_of(direct)
    assert found["overview"]["campaign"] == "e"
    for name in ("counts", "best", "keys", "failures"):
        assert found["overview"][name] == wanted["overview"][name], name
    assert found["sample"] == wanted["sample"]
    for name in ("key", "best", "best_id", "ms", "failed", "high", "low_id"):
        assert found["course"][name] == wanted["course"][name], name
    spans = [[lane["spans"] for lane in each["slots"]["lanes"]] for each in (found, wanted)]
    assert spans[0] == spans[1]


def test_a_page_of_results_without_times(tmp_path):
    table, out = tmp_path / "results.csv", tmp_path / "r.html"
    table.write_text(
        "x,id,objective,elapsed_sec,duration,state\n0.5,1,7,2.5,1.5,succeeded\n0.7,2,-3e38,4.5,2,failed\n"
    )
    assert cli_here("page", "mine", "--from", table, "--out", out).returncode == 0
    found = documents_of(out)
    assert found["overview"]["campaign"] == "mine"
    assert found["overview"]["best"] == {"id": 1, "key": None, "value": 7, "config": {"x": 0.5}}
    first, last = found["course"]["ms"]
    assert (last - first, round(table.stat().st_mtime * 1000) - last) == (2000, 0)


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("a.csv", "x,y\n1,2\n", "no columns of finished jobs"),
        ("a.csv", "", "no columns of finished jobs"),
        ("a.csv", "x,id,objective,elapsed_sec,duration,state\n", "no job that has finished"),
        ("a.csv", "x,id,objective,elapsed_sec,duration,state\n1,2\n", "line 2 of .* has 2 cells under 6"),
        (
            "a.csv",
            "x,id,objective,elapsed_sec,duration,state\n1,one,2,3,4,succeeded\n",
            "row 1 .* no finished job",
        ),
        ("a.jsonl", "nonsense\n", "line 1 of .* no JSON object"),
        ("a.jsonl", '{"id": 1}\n', "row 1 of .* no finished job"),
        ("a.parquet", "nonsense", "no Parquet file"),
        ("a.txt", "", "no known ending"),
        (None, None, "no file"),
    ],
)
def test_a_file_that_is_no_export_is_refused(name, text, why, tmp_path):
    source, out = tmp_path / (name or "missing.csv"), tmp_path / "r.html"
    if text is not None:
        source.write_text(text)
    done = cli_here("page", "--from", source, "--out", out)
    assert re.search(why, complaint(done, 2))
    assert not out.exists()


def test_what_is_asked_for_must_be_there(search, server, campaign, tmp_path):
    out = tmp_path / "r.html"
    assert "they have: objective, loss" in complaint(
        cli_here("page", campaign, "--out", out, "--key", "speed", home=server), 2
    )
    assert "no campaign is named" in complaint(cli_here("page", "--out", out, home=server), 2)
    assert "give a .html file" in complaint(
        cli_here("page", campaign, "--out", tmp_path / "r.txt", home=server), 2
    )
    assert "there is no folder" in complaint(
        cli_here("page", campaign, "--out", tmp_path / "no" / "r.html", home=server), 2
    )
    assert not out.exists()
