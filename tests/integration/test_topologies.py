"""Servers that are more than one: a cluster, and a primary that sentinels replace. Real ones, on loopback."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from queue_eval import Evaluator
from queue_eval.errors import ServerUnreachableError
from queue_eval.transport.access import Access
from queue_eval.transport.link import Link
from tests.support.cli import cli_here, complaint, document, start_cli
from tests.support.networks import Node, cluster, sentinels
from tests.support.waiting import wait_until
from workers.listener import _BLOCK_S

KEY = "k" * 32


@pytest.fixture(scope="module")
def nodes() -> Iterator[list[Node]]:
    with cluster() as started:
        yield started


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts workers as processes: ``worker(url, …)``."""
    started: list[subprocess.Popen[str]] = []

    def start(url: str, *words: object) -> subprocess.Popen[str]:
        words = ("worker", "--url", url, "-n", 2, "--lease", "2s", *words)
        started.append(start_cli(*words, home=tmp_path / f"worker{len(started)}", cwd=tmp_path))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUEUE_EVAL_KEY", KEY)


def cluster_url(nodes: list[Node]) -> str:
    return "redis+cluster://" + ",".join(node.address for node in nodes)


def square(config):
    time.sleep(0.02)
    return config["x"] ** 2


def check_whole(evaluator: Evaluator, count: int) -> None:
    """Every job once, with its result, and nothing out of place."""
    assert sorted(job.id for job in evaluator.jobs_done) == list(range(1, count + 1))
    assert all(job.result == job.config["x"] ** 2 for job in evaluator.jobs_done)


def check_idle_workers_hear(evaluator: Evaluator) -> None:
    """Of work on whatever node it lies. A deaf one asks a whole block after it became idle, each time."""
    took_s = []
    for _ in range(6):
        began_at = time.monotonic()
        evaluator.submit([{"x": 1}])
        evaluator.gather("ALL", timeout=30)
        took_s.append(time.monotonic() - began_at)
    # The first may come at the end of a block by chance.
    assert min(took_s[1:]) < _BLOCK_S / 2


def test_campaigns_on_a_cluster_from_end_to_end(nodes, worker, tmp_path):
    url = cluster_url(nodes)
    worker(url)
    names = ["alpha", "beta", "gamma"]  # of different slots, on different nodes
    common = {"url": url, "home": tmp_path}
    evaluators = [
        Evaluator.create(square, method="thread", method_kwargs=common | {"campaign": name}) for name in names
    ]
    try:
        for evaluator in evaluators:
            evaluator.submit([{"x": x} for x in range(20)])
        for evaluator in evaluators:
            assert len(evaluator.gather("ALL", timeout=60)) == 20
            check_whole(evaluator, 20)
        for evaluator in evaluators:
            check_idle_workers_hear(evaluator)
    finally:
        for evaluator in evaluators:
            evaluator.close()
    listed = document(cli_here("campaigns", "--url", url, "--json"))
    assert {one["campaign"] for one in listed} >= set(names)
    status = document(cli_here("status", "alpha", "--url", url, "--json"))
    assert (status["counts"]["succeeded"], len(status["workers"])) == (26, 1)
    jobs = document(cli_here("jobs", "beta", "--url", url, "--json"))
    assert [job["state"] for job in jobs] == ["succeeded"] * 26
    checks = {c["name"]: c["status"] for c in document(cli_here("doctor", "--url", url, "--json"))["checks"]}
    assert (checks["server"], checks["campaigns"], checks["persistence"]) == ("ok", "ok", "ok")
    for name in names:
        assert cli_here("purge", name, "--yes", "--url", url).returncode == 0
    assert document(cli_here("campaigns", "--url", url, "--json")) == []


def test_unnamed_campaigns_on_a_cluster_expire(nodes, tmp_path):
    url = cluster_url(nodes)
    made = [Evaluator.create(square, method_kwargs={"url": url, "home": tmp_path}) for _ in range(8)]
    for evaluator in made[1:]:
        evaluator.close()
    pruned = document(cli_here("campaigns", "--prune", "--older-than", 0, "--json", "--url", url))["pruned"]
    assert {one["campaign"] for one in pruned} == {evaluator.campaign for evaluator in made[1:]}
    (left,) = document(cli_here("campaigns", "--url", url, "--json"))
    assert left["campaign"] == made[0].campaign
    made[0].close()
    assert cli_here("purge", made[0].campaign, "--yes", "--url", url).returncode == 0


def test_a_cluster_is_not_one_server_and_the_other_way_round(nodes, worker, tmp_path):
    # Some keys lie elsewhere: one of these meets a redirection.
    for node in nodes:
        line = cli_here("workers", "--url", f"redis://{node.address}").stderr
        line += cli_here("campaigns", "--url", f"redis://{node.address}").stderr
        assert "use redis+cluster://" in line
    away = complaint(cli_here("campaigns", "--url", "redis+cluster://127.0.0.1:1"), 2)
    assert "no server answers" in away


@pytest.mark.long
def test_a_node_of_the_cluster_is_killed_and_comes_back(nodes, worker, tmp_path):
    url = cluster_url(nodes)
    for _ in range(2):
        worker(url)
    with Evaluator.create(
        square, method="thread", method_kwargs={"url": url, "home": tmp_path, "campaign": "survivor"}
    ) as evaluator:
        evaluator.submit([{"x": x} for x in range(900)])
        evaluator.gather("BATCH", 50, timeout=60)
        for node in nodes:
            node.kill()
            time.sleep(0.5)
            node.start()
            before = evaluator.num_gathered
            evaluator.gather("BATCH", 40, timeout=60)
            assert evaluator.num_gathered > before
        evaluator.gather("ALL", timeout=60)
        check_whole(evaluator, 900)
    assert cli_here("purge", "survivor", "--yes", "--url", url).returncode == 0


@pytest.mark.long
def test_the_primary_dies_in_the_middle_of_a_campaign(worker, tmp_path):
    with sentinels("jobs") as (watchers, primary, replica):
        url = "redis+sentinel://" + ",".join(node.address for node in watchers) + "/jobs"
        for _ in range(2):
            worker(url)
        with Evaluator.create(
            square, method="thread", method_kwargs={"url": url, "home": tmp_path, "campaign": "failover"}
        ) as evaluator:
            evaluator.submit([{"x": x} for x in range(400)])
            evaluator.gather("BATCH", 50, timeout=60)
            primary.kill()
            evaluator.gather("ALL", timeout=90)
            check_whole(evaluator, 400)
        assert replica.client().info("replication")["role"] == "master"
        # The former primary comes back as a replica, and nobody follows it.
        primary.start()
        wait_until(lambda: primary.says(lambda client: client.info("replication")["role"]) == "slave", 30)
        assert document(cli_here("status", "failover", "--url", url, "--json"))["counts"]["succeeded"] == 400


@pytest.mark.long
def test_sentinels_that_know_no_such_service_are_one_clear_line():
    with sentinels("jobs") as (watchers, _, _):
        line = complaint(cli_here("campaigns", "--url", f"redis+sentinel://{watchers[0].address}/other"), 2)
        assert "no sentinel knows a primary of 'other'" in line
        link = Link(Access(f"redis+sentinel://{watchers[0].address}/jobs", None, None), name="test")
        link.check()
        link.close()
        with pytest.raises(ServerUnreachableError):
            Link(Access("redis+sentinel://127.0.0.1:1/jobs", None, None), name="test").check()


def test_every_node_of_a_cluster_is_looked_at(nodes: list[Node], caplog: pytest.LogCaptureFixture) -> None:
    """Not only the one that is asked first."""
    url = cluster_url(nodes)
    for node in nodes:
        client = node.client()
        client.config_set("maxmemory-policy", "allkeys-lru")
        refused = complaint(cli_here("campaigns", "--url", url), 2)
        assert f"evicts keys on {node.address} (maxmemory-policy allkeys-lru)" in refused
        assert {f"maxmemory-policy of {node.address}": "fail"}.items() <= doctor(url).items()
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("appendonly", "no")
        caplog.clear()
        assert cli_here("campaigns", "--url", url).returncode == 0
        assert f"keeps nothing on disk on {node.address}: " in caplog.text
        assert {f"persistence of {node.address}": "fail"}.items() <= doctor(url).items()
        client.config_set("appendonly", "yes")
    caplog.clear()
    assert cli_here("campaigns", "--url", url).returncode == 0
    assert "keeps nothing" not in caplog.text
    assert {"persistence": "ok", "maxmemory-policy": "ok", "version": "ok"}.items() <= doctor(url).items()


def test_a_full_node_is_told_of(nodes: list[Node]) -> None:
    url = cluster_url(nodes)
    client = nodes[1].client()

    def told(share: float) -> str:
        """With a bound of which `share` is used now: what is used changes while clients come and go."""
        client.config_set("maxmemory", round(client.info("memory")["used_memory"] / share))
        return doctor(url)[f"maxmemory of {nodes[1].address}"]

    try:
        wait_until(lambda: told(2.0) == "fail")
        wait_until(lambda: told(0.95) == "warn")
    finally:
        client.config_set("maxmemory", 0)
    assert doctor(url)["maxmemory-policy"] == "ok"


def doctor(url: str) -> dict[str, str]:
    checks = json.loads(cli_here("doctor", "--url", url, "--json").stdout)["checks"]
    return {check["name"]: check["status"] for check in checks}
