"""What an evaluation of an attack tells, and what its log says of it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import queue_eval
from queue_eval.chaos.inside_work import (
    FLOOD,
    GONE,
    Told,
    orders_of,
    read_checkpoint,
    read_inside_log,
    run,
    run_of,
)
from queue_eval.chaos.workload import KINDS, Planned, plan, prepare, read_side_log
from queue_eval.errors import AttemptEndedError
from queue_eval.runtime.attempts import AttemptGivenBack
from queue_eval.runtime.checkpoints import Checkpoints, Saving, newest

EVERYTHING = plan(2000, 1, "/nowhere")


class FakeJob:
    """An attempt without a worker. Its checkpoints are real."""

    def __init__(self, folder: Path, number: int, job: int = 7) -> None:
        self.id, self.attempt, self.worker = job, number, "w0"
        self.notices: Iterator[str | None] = itertools.repeat(None)
        self.reports: list[tuple[int, dict[str, float]]] = []
        self.most_reports = 10**6
        self.store = Checkpoints(folder, "c", "u", job, number)
        self.home = folder / "c-u" / str(job)

    @property
    def checkpoint(self) -> Path | None:
        return self.store.newest()

    @property
    def stop_requested(self) -> str | None:
        return next(self.notices)

    def report(self, step: int, /, **values: float) -> None:
        if len(self.reports) == self.most_reports:
            raise AttemptEndedError("it is over")
        self.reports.append((step, values))

    @contextmanager
    def save_checkpoint(self) -> Iterator[Path]:
        with Saving(self.store, lambda: None, lambda *_: None) as folder:
            yield folder

    def give_back(self, reason: str) -> None:
        raise AttemptGivenBack(reason)


def some(kind: str, **wanted: Any) -> Planned:
    """The first evaluation of this kind with these orders."""
    return next(
        one
        for one in EVERYTHING
        if one.kind == kind
        and all(bool(getattr(orders_of(one.config), name)) == value for name, value in wanted.items())
    )


@pytest.fixture
def execute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    prepare(tmp_path)

    def execute(one: Planned, job: FakeJob) -> Told:
        monkeypatch.setattr(queue_eval, "current_job", lambda: job)
        run(one.config | {"folder": str(tmp_path), "seconds": 0.0})
        return read_inside_log(tmp_path)[-1]

    return execute


def test_orders_follow_from_the_config() -> None:
    orders = [orders_of(one.config) for one in EVERYTHING]
    assert orders == [orders_of(one.config) for one in EVERYTHING]
    assert all(order.reports for order in orders)
    for name in ("saves", "floods", "looks", "gives_back"):
        assert {bool(getattr(order, name)) for order in orders} == {False, True}
    unplanned = {one.kind for one in EVERYTHING if orders_of(one.config).looks}
    # Else the outcome would depend on who is asked to stop.
    assert {KINDS[kind].outcome for kind in unplanned} == {"succeeded"}


def test_an_execution_logs_what_it_has_told(tmp_path: Path, execute: Any) -> None:
    one, job = some("long", saves=True, looks=True, floods=False), FakeJob(tmp_path / "kept", 2)
    orders = orders_of(one.config | {"seconds": 0.0})
    told = execute(one, job)
    assert (told.x, told.id, told.attempt, told.worker, told.has_left) == (one.x, 7, 2, "w0", True)
    assert (told.found, told.first_notice, told.looks, told.floods) == (None, None, True, orders.floods)
    assert told.made == len(job.reports) == orders.reports + FLOOD * orders.floods
    assert [step for step, _ in job.reports] == list(range(1, told.made + 1))
    assert {(v["job"], v["attempt"], v["run"]) for _, v in job.reports} == {(one.x, 2, run_of(told.token))}
    assert all(values["n"] == step for step, values in job.reports)
    (started, _) = read_side_log(tmp_path)
    assert started.token == told.token
    if orders.saves:
        kept = newest(job.home)
        assert kept is not None
        last = len(orders.saves)
        assert read_checkpoint(kept) == {
            "x": one.x, "token": told.token, "attempt": 2, "save": last,
        }  # fmt: skip
        assert list(told.saved) == list(told.saving) == list(range(1, last + 1))


def test_the_next_attempt_finds_what_was_saved(tmp_path: Path, execute: Any) -> None:
    one = next(
        one for one in EVERYTHING if one.kind == "long" and orders_of(one.config | {"seconds": 0.0}).saves
    )
    first = execute(one, FakeJob(tmp_path / "kept", 1))
    second = execute(one, FakeJob(tmp_path / "kept", 2))
    assert second.found == {
        "x": one.x, "token": first.token, "attempt": 1, "save": max(first.saved),
    }  # fmt: skip


def test_a_stop_ends_it(tmp_path: Path, execute: Any) -> None:
    job = FakeJob(tmp_path / "kept", 1)
    job.notices = itertools.chain([None], itertools.repeat("stop"))
    told = execute(some("train", looks=True), job)
    assert (told.first_notice, list(told.notices), told.made) == (None, ["stop"], 1)


def test_a_drain_makes_it_save_and_give_back(tmp_path: Path, execute: Any) -> None:
    job = FakeJob(tmp_path / "kept", 1)
    job.notices = itertools.repeat("drain")
    one = next(
        one for one in EVERYTHING
        if one.kind == "long" and orders_of(one.config | {"seconds": 0.0}).gives_back
    )  # fmt: skip
    with pytest.raises(AttemptGivenBack):
        execute(one, job)
    (told,) = read_inside_log(tmp_path)
    assert (told.first_notice, list(told.saved), told.gave_back_at is not None) == ("drain", [1], True)
    assert not told.has_left


def test_who_is_refused_reports_no_more_and_goes_on(tmp_path: Path, execute: Any) -> None:
    job = FakeJob(tmp_path / "kept", 1)
    job.most_reports = 1
    told = execute(some("train"), job)
    assert (told.made, told.has_left) == (1, True)


def test_outside_a_job_it_tells_nothing(tmp_path: Path) -> None:
    prepare(tmp_path)
    one = next(one for one in EVERYTHING if one.kind == "instant")
    run(one.config | {"folder": str(tmp_path), "seconds": 0.0})
    assert read_inside_log(tmp_path) == []
    assert [line.what for line in read_side_log(tmp_path)] == ["start", "end"]


def test_half_a_checkpoint_is_noticed(tmp_path: Path, execute: Any) -> None:
    one = next(
        one for one in EVERYTHING if one.kind == "long" and orders_of(one.config | {"seconds": 0.0}).saves
    )
    job = FakeJob(tmp_path / "kept", 1)
    execute(one, job)
    kept = newest(job.home)
    assert kept is not None
    data = (kept / "bytes").read_bytes()
    (kept / "bytes").write_bytes(data[:-1])
    assert read_checkpoint(kept)["wrong"] == "its bytes are others"
    (kept / "bytes").unlink()
    assert "FileNotFoundError" in read_checkpoint(kept)["wrong"]
    assert read_checkpoint(tmp_path / "nothing") == {"wrong": GONE}
