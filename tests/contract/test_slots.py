"""What a slot owns reaches the process that runs its attempts; who takes several slots gets them all."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from queue_eval.model.attempt import Attempt, Token
from queue_eval.model.states import Method
from tests.support.executor_harness import Harness, is_running, result_of
from workers.executors import make_executor
from workers.resources import Means
from workers.slot_board import SlotBoard

CORES = sorted(os.sched_getaffinity(0))[:2]

needs_cores = pytest.mark.skipif(len(CORES) < 2, reason="needs two cores")


@pytest.fixture(params=[Method.THREAD, Method.PROCESS, Method.SUBPROCESS])
def method(request: pytest.FixtureRequest) -> Method:
    return request.param


@pytest.fixture
def make(method: Method) -> Iterator[Callable[..., Harness]]:
    made: list[Harness] = []

    def start(
        function: str = "tell", board: SlotBoard | None = None, library_threads: int | None = None,
        **keywords: Any,
    ) -> Harness:  # fmt: skip
        harness = Harness(method, f"tests.support.slot_functions:{function}", **keywords)
        made.append(harness)
        if board is not None or library_threads is not None:
            harness.plan = dataclasses.replace(harness.plan, board=board, library_threads=library_threads)
            harness.executor = make_executor(harness.plan, harness.selector)
        return harness

    yield start
    for harness in made:
        harness.close()


@pytest.fixture
def no_limits(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def board_of(*gpus: str, cores: bool = True) -> SlotBoard:
    return SlotBoard([
        Means((gpu,), (CORES[i % len(CORES)],) if cores else ()) for i, gpu in enumerate(gpus)
    ])  # fmt: skip


def submit(harness: Harness, config: dict[str, Any], slots: int = 1) -> Token:
    token = (len(harness.ids) + 1, 1)
    harness.ids.append(token[0])
    harness.executor.submit([Attempt(token, json.dumps(config).encode(), slots)])
    return token


def at_once(harness: Harness, folder: Any, count: int = 2) -> list[dict[str, Any]]:
    """What so many attempts tell that run at the same time."""
    gate = folder / f"gate-{len(harness.ids)}"
    started = [folder / f"{gate.name}-{i}" for i in range(count)]
    tokens = [submit(harness, {"gate": str(gate), "started": str(path)}) for path in started]
    harness.until(lambda: all(path.exists() for path in started))
    gate.touch()
    return [result_of(one) for one in harness.wait(tokens)]


@needs_cores
def test_each_slot_has_its_own(make, method, tmp_path, no_limits):
    one, other = at_once(make(board=board_of("4", "7")), tmp_path)
    if method is Method.THREAD:
        assert one["pid"] == other["pid"]
        assert {one["gpus"], other["gpus"]} == {"4,7"}
        assert one["cores"] == other["cores"] == CORES
    else:
        assert {one["gpus"], other["gpus"]} == {"4", "7"}
        assert sorted(one["cores"] + other["cores"]) == CORES
    assert one["threads"] == other["threads"] == "1", "two threads share two cores, or each process has one"


@needs_cores
def test_what_user_code_starts_stays_on_its_cores(make, method):
    harness = make("tell_of_a_process", SlotBoard([Means((), (CORES[1],))]), slots=1)
    assert result_of(harness.call()) == [CORES[1]]
    assert sorted(os.sched_getaffinity(0))[:2] == CORES, "the worker itself is where it was"


def test_a_limit_of_the_user_is_kept(make, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert result_of(make(board=board_of("0"), slots=1).call())["threads"] == "7"


def test_without_a_board_the_environment_is_left_alone(make, monkeypatch, no_limits):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    told = result_of(make().call())
    assert (told["gpus"], told["threads"], told["cores"]) == ("3,5", None, sorted(os.sched_getaffinity(0)))


@needs_cores
@pytest.mark.parametrize(
    ("board", "limit"),
    [(None, "3"), (board_of("4", cores=False), "3"), (board_of("4"), "1")],
    ids=["owns nothing", "owns a GPU", "owns a core"],
)
def test_libraries_use_the_cores_that_there_are_for_a_slot(make, no_limits, board, limit):
    assert result_of(make(board=board, library_threads=3, slots=1).call())["threads"] == limit


@needs_cores
def test_a_wide_attempt_has_what_its_slots_own(make, no_limits):
    harness = make(board=board_of("0", "1"))
    narrow = submit(harness, {})
    wide = submit(harness, {}, slots=2)
    harness.wait([narrow, wide])
    told = result_of(harness.ended[wide])
    assert sorted(told["gpus"].split(",")) == ["0", "1"]
    assert told["cores"] == CORES
    after = submit(harness, {})
    harness.wait([after])


@pytest.mark.parametrize("owned", [True, False])
def test_no_more_run_at_once_than_there_are_slots(make, owned):
    harness = make(slots=3, board=board_of("0", "1", "2") if owned else None)
    widths = {}
    for slots in (1, 1, 2, 1, 3, 1, 1, 1, 2):
        widths[submit(harness, {"sleep": 0.02}, slots)] = slots
    told = [result_of(one) for one in harness.wait(list(widths))]
    spans = [(one["begun"], one["ended"], slots) for one, slots in zip(told, widths.values(), strict=True)]
    for moment, _, _ in spans:
        assert sum(slots for begun, end, slots in spans if begun <= moment < end) <= 3
    widest = list(widths.values()).index(3)
    assert all(span[0] > spans[widest][0] for span in spans[widest + 1 :]), "none overtakes it"


def test_a_dead_process_is_replaced_on_its_slot(make, method, tmp_path):
    if method is Method.THREAD:
        pytest.skip("one process has all slots")
    harness = make(board=board_of("0", "1", cores=False))
    gate, started = tmp_path / "gate", tmp_path / "started"
    first = submit(harness, {"gate": str(gate), "started": str(started)})
    harness.until(started.exists)
    seen = [result_of(harness.wait([submit(harness, {})])[0]) for _ in range(2)]
    if method is Method.PROCESS:
        os.kill(seen[-1]["pid"], 9)
        harness.until(lambda: not is_running(seen[-1]["pid"]))
        seen.append(result_of(harness.wait([submit(harness, {})])[0]))
        assert seen[-1]["pid"] != seen[0]["pid"]
    gate.touch()
    held = result_of(harness.wait([first])[0])["gpus"]
    assert {one["gpus"] for one in seen} == {"0", "1"} - {held}


def test_two_campaigns_never_share_a_slot(make, method):
    if method is not Method.PROCESS:
        pytest.skip("only warm processes keep a slot while they are idle")
    board = board_of("0", "1", cores=False)
    mine, other = make(board=board), make(board=board)
    warm = [result_of(one)["pid"] for one in mine.run({"sleep": 0.1}, {"sleep": 0.1})]
    assert len(set(warm)) == 2
    told = result_of(other.call())
    (left,) = [pid for pid in warm if is_running(pid)]
    assert result_of(mine.call())["pid"] == left, "the one that was not in the way is still warm"
    wide = submit(mine, {}, slots=2)
    assert sorted(result_of(mine.wait([wide])[0])["gpus"].split(",")) == ["0", "1"]
    assert not is_running(told["pid"])


def test_a_process_that_cannot_start_takes_no_slot(make, method):
    board = board_of("0", cores=False)
    harness = make(board=board, slots=1, python="/nonexistent/python")
    assert harness.call().outcome == "lost"
    assert board.take(1) == (0,)


def test_a_dead_wide_process_gives_all_its_slots_back(make, method):
    harness = make("die", board_of("0", "1", cores=False))
    for slots in itertools.islice(itertools.cycle((2, 1)), 4):
        (ended,) = harness.wait([submit(harness, {}, slots)])
        assert ended.outcome == "lost"
