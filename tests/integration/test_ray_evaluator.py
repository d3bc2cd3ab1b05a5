"""``method="ray"`` as a user meets it, on a real Ray."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from queue_eval import Evaluator, RayEvaluator
from queue_eval.campaign.keys import Keys
from queue_eval.errors import MethodUnavailableError, UsageError
from queue_eval.server.lifecycle import start_server
from queue_eval.transport.access import find_access, write_access
from tests.support.executor_harness import is_running
from tests.support.fault_fleet import Fleet
from tests.support.ray_cluster import RayCluster
from tests.support.waiting import wait_until

NAME = "tests.support.functions:run"
EXAMPLE = Path(__file__).parents[2] / "examples" / "tune_digits.py"


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    cluster = RayCluster()
    yield cluster
    cluster.close()


@pytest.mark.parametrize(
    ("arguments", "num_workers", "in_flight"),
    [
        ({"num_cpus": 6, "num_cpus_per_task": 2}, 3, 3),
        ({"num_cpus": 3, "num_cpus_per_task": 0.5, "num_workers": -1}, 6, 6),
        ({"num_cpus": 6, "num_workers": 4}, 4, 4),
        ({}, os.cpu_count(), None),
        ({"address": "10.0.0.1:6379", "num_cpus_per_task": 1e6}, 1, None),
    ],
)
def test_how_many_at_a_time(server, arguments, num_workers, in_flight):
    with RayEvaluator(NAME, home=server, local_workers=False, **arguments) as evaluator:
        assert evaluator.num_workers == num_workers
        meta = evaluator._session.queue.link.client.hgetall(Keys(evaluator.campaign).meta)
        assert f'"in_flight":{in_flight or "null"}'.encode() in meta[b"options"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_cpus_per_task": 0}, "num_cpus_per_task is 0"),
        ({"num_cpus_per_task": "2"}, "num_cpus_per_task is '2'"),
        ({"num_cpus": 1, "num_cpus_per_task": 2}, "num_cpus is 1, less than the 2 CPUs"),
        ({"num_cpus": 1.5}, "num_cpus is 1.5"),
        ({"num_gpus": -1}, "num_gpus is -1"),
        ({"num_gpus_per_task": float("nan")}, "num_gpus_per_task is nan"),
        ({"num_workers": 0}, "num_workers is 0"),
        ({"address": 5}, "address is a int; give a str"),
        ({"ray_kwargs": ["x"]}, "ray_kwargs is a list"),
        ({"address": "ray://host:10001", "time_limit": 5}, "a time_limit needs a Ray that is joined"),
        ({"ray_kwargs": {"x": object()}}, "ray_kwargs.x is an object; give JSON values only"),
    ],
)
def test_arguments_that_are_off(tmp_path, arguments, message):
    with pytest.raises(UsageError, match=message):
        RayEvaluator(NAME, home=tmp_path / "home", **arguments)
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("method", ["ray", "rq"])
def test_a_package_that_is_missing(tmp_path, monkeypatch, method):
    monkeypatch.setattr("queue_eval.driver.evaluators.find_spec", lambda _: None)
    with pytest.raises(MethodUnavailableError, match=rf"pip install 'queue-eval\[{method}\]'"):
        Evaluator.create(NAME, method, {"home": tmp_path / "home"})
    assert not (tmp_path / "home").exists()


def test_a_driver_needs_no_ray_when_workers_are_elsewhere(server, monkeypatch):
    monkeypatch.setattr("queue_eval.driver.evaluators.find_spec", lambda _: None)
    with RayEvaluator(NAME, home=server, local_workers=False) as evaluator:
        assert evaluator.method == "ray"


@pytest.mark.parametrize("way", ["access", "environment", "home", "url"])
def test_a_driver_needs_no_ray_where_the_server_is_another_ones(server, tmp_path, monkeypatch, way):
    """No worker starts here then, however the server is named."""
    monkeypatch.setattr("queue_eval.driver.evaluators.find_spec", lambda _: None)
    access = find_access(None, server)
    assert access is not None
    home = tmp_path / "home"
    home.mkdir()
    options: dict[str, Any] = {"home": home}
    if way == "home":
        write_access(home, access.url, access.key)
    elif way == "url":
        options["url"] = access.url
    elif way == "access":
        options["access"] = server / "access.json"
    else:
        monkeypatch.setenv("QUEUE_EVAL_ACCESS", str(server / "access.json"))
    with RayEvaluator(NAME, **options) as evaluator:
        assert evaluator._workers is None
    with pytest.raises(MethodUnavailableError, match="pip install"):
        RayEvaluator(NAME, local_workers=True, **options)


@pytest.mark.long
@pytest.mark.timeout(200)
def test_by_value_and_with_what_ray_gives(own_home: Path, cluster: RayCluster) -> None:
    """A closure travels without being importable; each attempt is a task with the resources asked for."""
    factor = 3

    def evaluate(config):
        import ray

        print("seen", config["x"])
        if config["x"] == 13:
            raise ValueError("unlucky")
        return {"y": factor * config["x"], "cpus": ray.get_runtime_context().get_assigned_resources()["CPU"]}

    options = {"address": cluster.address, "num_cpus_per_task": 1, "home": own_home}
    with Evaluator.create(evaluate, "ray", options) as evaluator:
        evaluator.submit([{"x": x} for x in (5, 13)])
        evaluator.submit([{"x": 1}], slots=2)
        good, bad, wide = sorted(evaluator.gather("ALL", timeout=120), key=lambda job: job.id)
        assert good.result == {"y": 15, "cpus": 1}
        assert wide.result == {"y": 3, "cpus": 2}
        assert (bad.state, bad.cause) == ("failed", "error")
        assert bad.error.endswith("ValueError: unlucky\n")
        output = evaluator._session.queue.outputs_of([1])[0]
    assert output == b"seen 5\n"


@pytest.mark.long
@pytest.mark.timeout(200)
def test_a_ray_of_its_own(own_home: Path, tmp_path: Path) -> None:
    """Without an address and with a size, a worker starts a Ray for itself, which ends with it."""
    script = tmp_path / "search.py"
    script.write_text(
        "from queue_eval import Evaluator\n"
        "def run(config):\n"
        "    import os\n"
        "    return os.getppid()\n"
        "if __name__ == '__main__':\n"
        "    with Evaluator.create(run, 'ray', {'num_cpus': 2}) as evaluator:\n"
        "        evaluator.submit([{'x': x} for x in range(20)])\n"
        "        print(*{job.result for job in evaluator.gather('ALL')})\n"
    )
    environment = {**os.environ, "QUEUE_EVAL_HOME": str(own_home)}
    done = subprocess.run(
        [sys.executable, script], env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    (raylet,) = map(int, done.stdout.split())
    wait_until(lambda: not is_running(raylet), timeout_s=90)


@pytest.mark.long
@pytest.mark.timeout(300)
def test_the_example(own_home: Path, tmp_path: Path, cluster: RayCluster) -> None:
    """The README's example, by one word."""
    pytest.importorskip("sklearn")
    script = tmp_path / "tune_digits.py"
    script.write_text(EXAMPLE.read_text("utf-8").replace("max_iter=40", "max_iter=2"), "utf-8")
    environment = {**os.environ, "QUEUE_EVAL_HOME": str(own_home), "RAY_ADDRESS": cluster.address}
    subprocess.run(
        [sys.executable, script, "--method", "ray"], env=environment, cwd=tmp_path, check=True,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    with (tmp_path / "results.csv").open(newline="") as file:
        ids = [int(row["id"]) for row in csv.DictReader(file)]
    assert sorted(ids) == list(range(1, 61))


@pytest.mark.long
@pytest.mark.timeout(100)
def test_a_cluster_that_asks_for_a_token(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = "0123456789abcdef" * 4
    cluster = RayCluster(token=token)
    try:
        monkeypatch.setenv("RAY_AUTH_MODE", "token")
        monkeypatch.setenv("RAY_AUTH_TOKEN", token)
        with Evaluator.create(NAME, "ray", {"address": cluster.address, "home": own_home}) as evaluator:
            evaluator.submit([{"x": 7}])
            assert [job.result for job in evaluator.gather("ALL", timeout=60)] == [7]
    finally:
        cluster.close()


@pytest.mark.long
@pytest.mark.timeout(100)
def test_more_cpus_than_there_are_wait(own_home: Path, cluster: RayCluster) -> None:
    start_server(own_home, keep=True)
    options = {"address": cluster.address, "num_cpus_per_task": 64, "home": own_home, "local_workers": True}
    with Evaluator.create(NAME, "ray", options) as evaluator:
        evaluator.submit([{"x": 1}])
        assert evaluator.gather("ALL", timeout=12) == []
        assert evaluator.cancel() == 1
        assert [job.state for job in evaluator.gather("ALL", timeout=30)] == ["cancelled"]


@pytest.mark.long
def test_a_job_wider_than_the_worker_is_run_where_ray_has_room(server, campaign, cluster, tmp_path):
    fleet = Fleet(server, tmp_path)
    try:
        with fleet.driver(campaign, method="ray", address=cluster.address) as driver:
            driver.submit([fleet.config(5)], slots=2)
            fleet.worker("--campaign", campaign, slots=1)
            assert [job.result for job in driver.gather("ALL", timeout=40)] == [5]
    finally:
        fleet.close()
