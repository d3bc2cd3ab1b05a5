"""Spools: whose file it is, and what is no settlement."""

from __future__ import annotations

import fcntl
import json
import logging
from types import SimpleNamespace
from typing import Any

import pytest

from queue_eval.model.moves import Settlement
from queue_eval.model.states import Outcome
from workers import spool
from workers.repeated_log import RepeatedLog
from workers.spool import Spool, deliver_orphans

QUEUE: Any = SimpleNamespace(campaign="search", uid="u1")
LINK: Any = SimpleNamespace(call=lambda _: (1_000_000, 0))
FOREIGN = json.dumps({
    "campaign": "../up", "uid": "u", "worker": "w", "id": 1, "attempt": 1, "outcome": "ok", "run_ms": 1,
    "ended_s": 1, "source": "", "body": "", "output": "",
})  # fmt: skip
COMPLAINTS = RepeatedLog(logging.getLogger("test"))


def settlement(job: int) -> Settlement:
    return Settlement(job, 1, Outcome.OK, 1.0, 0.0, "", b"1", b"", "r-1", "d")


@pytest.fixture
def delivered(monkeypatch) -> list[int]:
    """The jobs whose settlements reach the server."""
    jobs: list[int] = []
    monkeypatch.setattr(spool, "_deliver", lambda queue, worker, these: jobs.extend(s.id for s in these))
    return jobs


def test_a_living_worker_keeps_the_file_that_it_has_begun_anew(tmp_path, monkeypatch, delivered):
    """Another one opened the former, and locks it when that is gone already."""
    worker = Spool(tmp_path, "w1")
    worker.keep(QUEUE, [settlement(1)])

    def flock(file: Any, how: int) -> None:
        monkeypatch.setattr(spool.fcntl, "flock", real)
        worker.clear()
        worker.keep(QUEUE, [settlement(2)])
        real(file, how)

    real = fcntl.flock
    monkeypatch.setattr(spool.fcntl, "flock", flock)
    deliver_orphans(tmp_path, LINK, COMPLAINTS)
    assert delivered == []
    (path,) = tmp_path.iterdir()
    assert [json.loads(line)["id"] for line in path.read_text().splitlines()] == [2]
    worker.clear()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "line",
    [
        "{", "[]", "null", '{"id": 1}', '{"id": 1e999}', "[" * 100_000, "7" * 5000,
        FOREIGN,
    ],
)  # fmt: skip
def test_what_is_no_settlement_is_dropped(tmp_path, delivered, line):
    worker = Spool(tmp_path, "w1")
    worker.keep(QUEUE, [settlement(1)])
    (path,) = tmp_path.iterdir()
    with (tmp_path / "dead.jsonl").open("w") as dead:
        dead.write(f"{line}\n{path.read_text()}")
    assert deliver_orphans(tmp_path, LINK, COMPLAINTS) == 1
    assert delivered == [1]
    assert list(tmp_path.iterdir()) == [path]
    worker.clear()


def test_what_is_refused_stays_in_a_file_of_its_own(tmp_path, monkeypatch):
    lines = []
    for campaign in ("bad", "good"):
        one = Spool(tmp_path, campaign)
        one.keep(SimpleNamespace(campaign=campaign, uid="u"), [settlement(3)])  # type: ignore[arg-type]
        lines.append((tmp_path / f"{campaign}.jsonl").read_text())
        one.clear()
    (tmp_path / "w1.jsonl").write_text("".join(lines))
    taken: list[str] = []

    def settle(queue: Any, worker: str, these: object) -> None:
        if queue.campaign in refusing:
            raise RuntimeError("damaged")
        taken.append(queue.campaign)

    refusing = {"bad"}
    monkeypatch.setattr(spool, "_deliver", settle)
    for _ in range(3):
        deliver_orphans(tmp_path, LINK, COMPLAINTS)
        (left,) = tmp_path.iterdir()
        assert left.name.startswith("w1+")
        assert left.read_text() == lines[0]
    assert taken == ["good"]
    refusing.clear()
    deliver_orphans(tmp_path, LINK, COMPLAINTS)
    assert taken == ["good", "bad"]
    assert list(tmp_path.iterdir()) == []


def test_equal_tokens_of_different_leases_are_both_kept(tmp_path, delivered):
    """A campaign made anew, and a server that has gone back in time, give the same tokens again."""
    worker = Spool(tmp_path, "w1")
    first = settlement(1)
    anew: Any = SimpleNamespace(campaign="search", uid="u2")
    leased_again, for_another_config = first._replace(request="r-2"), first._replace(digest="e")
    for queue, one in ((QUEUE, first), (anew, first), (QUEUE, leased_again), (QUEUE, for_another_config)):
        worker.keep(queue, [one])
        worker.keep(queue, [one])
    (path,) = tmp_path.iterdir()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["uid"], line["request"], line["digest"]) for line in lines] == [
        ("u1", "r-1", "d"), ("u2", "r-1", "d"), ("u1", "r-2", "d"), ("u1", "r-1", "e"),
    ]  # fmt: skip
    worker.clear()


def test_a_spool_of_a_version_without_leases_is_delivered(tmp_path, delivered):
    worker = Spool(tmp_path, "w1")
    worker.keep(QUEUE, [settlement(1)])
    (path,) = tmp_path.iterdir()
    line = json.loads(path.read_text())
    worker.clear()
    del line["request"], line["digest"]
    (tmp_path / "dead.jsonl").write_text(json.dumps(line) + "\n")
    deliver_orphans(tmp_path, LINK, COMPLAINTS)
    assert delivered == [1]


def test_a_file_without_a_line_of_ours_is_set_aside(tmp_path, delivered):
    (tmp_path / "thesis.jsonl").write_text("years of work\n")
    assert deliver_orphans(tmp_path, LINK, COMPLAINTS) == 0
    assert deliver_orphans(tmp_path, LINK, COMPLAINTS) == 0
    (path,) = tmp_path.iterdir()
    assert path.name.startswith("thesis.jsonl.")
    assert path.suffix == ".unreadable"
    assert path.read_text() == "years of work\n"


def test_a_link_is_no_spool(tmp_path, delivered):
    (tmp_path / "spool").mkdir()
    marker = tmp_path / "marker"
    marker.write_text("years of work\n")
    (tmp_path / "spool" / "w1.jsonl").symlink_to(marker)
    assert deliver_orphans(tmp_path / "spool", LINK, COMPLAINTS) == 0
    Spool(tmp_path / "spool", "w1").keep(QUEUE, [settlement(1)])
    assert marker.read_text() == "years of work\n"
    assert [path.name for path in (tmp_path / "spool").iterdir()] == ["w1.jsonl"]
