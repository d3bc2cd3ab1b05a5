from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from queue_eval import Job
from queue_eval.model.states import State


def test_config_is_a_copy_with_the_id():
    config = {"x": [1]}
    job = Job(3, config, None)
    config["x"].append(2)
    assert job.config == {"x": [1], "id": 3}
    assert config == {"x": [1, 2]}
    assert list(job.config)[-1] == "id"


def test_unpacks_to_config_without_id_and_result():
    job = Job(3, {"x": 1}, None)
    job.result = 5
    config, result = job
    assert (config, result) == ({"x": 1}, 5)
    assert job[0] == {"x": 1}
    assert job[1] == 5
    assert "id" in job.config
    config["x"] = 2
    assert job.config["x"] == 1


def test_a_new_job_is_ready():
    job = Job(1, {}, print)
    assert (Job.READY, Job.RUNNING, Job.DONE) == (0, 1, 2)
    assert job.status == Job.READY
    assert job.state == "pending"
    assert job.result is job.error is job.cause is job.submitted_at is None
    assert job.run_function is print


def test_times_are_utc():
    job = Job(1, {}, None)
    job.submitted_ms, job.started_ms, job.finished_ms = 1_000.0, 3_500.0, 4_000.0
    assert job.submitted_at == datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)
    assert job.finished_at.tzinfo is UTC
    assert (job.wait_s, job.run_s) == (2.5, 0.5)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda job: pickle.loads(pickle.dumps(job))])
def test_is_plain_data(duplicate):
    job = Job(1, {"x": 1}, "module:run")
    job.state, job.result = State.FAILED, [1]
    other = duplicate(job)
    assert (other.id, other.config, other.state, other.result) == (1, {"x": 1, "id": 1}, "failed", [1])


def test_repr_tells_id_and_state():
    assert repr(Job(7, {"x": 1}, None)) == "Job(id=7, status=0, state=pending, config={'x': 1, 'id': 7})"


def test_the_package_is_light():
    heavy = ["pandas", "numpy", "ray", "rq", "redis", "cloudpickle", "tqdm", "psutil"]
    code = f"import sys, queue_eval; print([m for m in {heavy} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_all_names_resolve():
    import queue_eval

    assert all(getattr(queue_eval, name) is not None for name in queue_eval.__all__)
    assert set(queue_eval.__all__) <= set(dir(queue_eval))
    with pytest.raises(AttributeError, match="nothing"):
        queue_eval.nothing  # noqa: B018
