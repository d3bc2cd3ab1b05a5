"""Values that a config or a result may hold, from a driver to real workers and back."""

from __future__ import annotations

import enum
import json

import numpy as np
import pytest

from queue_eval import Evaluator, UsageError
from queue_eval.model.states import State
from tests.support.cli import cli, document
from tests.support.waiting import wait_until

FUNCTION = "tests.support.executor_functions:do"
LARGE = 2**60 + 1


class Colour(str, enum.Enum):  # noqa: UP042 - what users write; a StrEnum's str() is its value anyway
    RED = "red"


def test_values_come_back_as_they_went(fleet, campaign):
    fleet.worker("--campaign", campaign)
    with fleet.driver(campaign, "tests.support.executor_functions:echo") as evaluator:
        evaluator.submit([{"n": LARGE, "c": Colour.RED, "f": np.longdouble("0.1")}, {"n": None}])
        first, _ = sorted(evaluator.gather("ALL", timeout=60), key=lambda job: job.id)
        assert first.result["config"] == {"n": LARGE, "c": "red", "f": 0.1, "id": 1}
        frame = evaluator.to_dataframe()
    assert frame["n"][0] == LARGE
    assert frame["c"][0] == "red"


def test_a_result_that_is_not_json_is_kept(fleet, campaign):
    """The error has its text; with ``values="text"`` the same job, retried, succeeds."""
    fleet.worker("--campaign", campaign)
    config = {"do": "value", "value": "path"}
    with fleet.driver(campaign, FUNCTION) as evaluator:
        evaluator.submit([config])
        (job,) = evaluator.gather("ALL", timeout=60)
        assert job.state is State.FAILED
        assert json.loads(job.error.partition("The result was ")[2]) == {"best": "/models/best", "score": 0.5}
    with fleet.driver(campaign, FUNCTION, values="text") as evaluator:
        assert fleet.cli("retry", campaign, "1").returncode == 0
        evaluator.submit([config])
        (job,) = evaluator.gather("ALL", timeout=60)
        assert (job.id, job.state) == (1, State.SUCCEEDED)
        assert job.result == {"best": "/models/best", "score": 0.5}


def test_a_worker_refuses_what_it_does_not_know(fleet, campaign):
    worker = fleet.worker("--campaign", campaign)
    with fleet.driver(campaign, FUNCTION) as evaluator:
        queue = evaluator._session.queue
        meta = queue.link.client.hget(queue.keys.meta, "options")
        queue.link.client.hset(
            queue.keys.meta, "options", json.dumps(json.loads(meta) | {"values": "future"})
        )
        queue.link.client.hincrby(queue.keys.meta, "revision", 1)
        wait_until(lambda: "values='future' is not known to this worker; upgrade" in fleet.output_of(worker))


def test_run_with_values_text_and_an_async_function(own_home, tmp_path):
    (tmp_path / "search.py").write_text(
        "from pathlib import Path\n"
        "async def run(config):\n"
        "    return {'best': Path('/m'), 'x': config['x']}\n"
    )
    (tmp_path / "c.jsonl").write_text('{"x": 1}\n{"x": 2}\n')
    words = ("run", "search.py:run", "--configs", "c.jsonl", "--campaign", "values", "--method", "thread")
    assert cli(*words, "--values", "text", home=own_home, cwd=tmp_path).returncode == 0
    jobs = document(cli("jobs", "values", "--json", home=own_home))
    assert [job["result"] for job in jobs] == [{"best": "/m", "x": 1}, {"best": "/m", "x": 2}]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ("pickle", r"values is 'pickle', which this version does not know yet; give 'json' or 'text'"),
        ("yaml", r"values is 'yaml'; give 'json' or 'text'"),
        (None, r"values is None; give 'json' or 'text'"),
    ],
)
def test_other_kinds_of_values_are_refused_before_a_server_is_touched(tmp_path, values, words):
    with pytest.raises(UsageError, match=words):
        Evaluator.create(FUNCTION, "process", {"home": tmp_path / "home", "values": values})
    assert not (tmp_path / "home").exists()
