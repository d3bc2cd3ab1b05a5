"""A Valkey whose Lua module is missing: a check, a refusal with a reason, and no traceback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from queue_eval import Evaluator
from queue_eval.campaign.registry import live_workers
from queue_eval.errors import ServerRefusedError
from queue_eval.transport.urls import safe_url
from tests.support.cli import cli, complaint, document
from tests.support.fault_fleet import WORK, Fleet
from tests.support.rq_fleet import RqRedis
from tests.support.waiting import wait_until

REASON = "Could not find scripting engine 'lua'"


@pytest.fixture
def valkey() -> Iterator[RqRedis]:
    """One whose modules may be unloaded."""
    server = RqRedis("--enable-module-command", "yes", durable=True)
    if not any(module[b"name"] == b"lua" for module in server.client.module_list()):
        server.close()
        pytest.skip("Lua is no module of this server: it cannot be missing")
    yield server
    server.close()


def unload(server: RqRedis) -> None:
    assert server.client.module_unload("lua")


def refusal(server: RqRedis) -> str:
    return f"the server at {safe_url(server.url)} runs no Lua scripts ({REASON}); load its Lua module"


def test_nobody_begins_with_it(valkey: RqRedis, tmp_path: Path) -> None:
    unload(valkey)
    for words in (("campaigns",), ("status", "c"), ("retry", "c"), ("worker",)):
        assert refusal(valkey) in complaint(cli(*words, "--url", valkey.url, cwd=tmp_path), 2)
    with pytest.raises(ServerRefusedError) as raised:
        Evaluator.create(WORK, "process", {"url": valkey.url, "home": tmp_path / "home"})
    assert str(raised.value).startswith(refusal(valkey))


def test_doctor_says_so(valkey: RqRedis, tmp_path: Path) -> None:
    words = ("doctor", "--json", "--url", valkey.url)
    report = document(cli(*words, cwd=tmp_path, home=tmp_path))
    assert {"name": "scripts", "status": "ok", "detail": "the server runs Lua"} in report["checks"]
    unload(valkey)
    report = document(cli(*words, cwd=tmp_path, home=tmp_path), 1)
    (failed,) = [check for check in report["checks"] if check["status"] == "fail"]
    assert failed["name"] == "scripts"
    assert REASON in failed["detail"]
    assert "campaigns" not in [check["name"] for check in report["checks"]]


@pytest.mark.long
def test_it_goes_missing_while_a_campaign_runs(valkey: RqRedis, tmp_path: Path) -> None:
    fleet = Fleet(tmp_path / "home", tmp_path)
    try:
        with fleet.driver("c", home=None, url=valkey.url) as driver:
            driver.submit([fleet.gated(x) for x in range(3)])
            worker = fleet.worker("--url", valkey.url, lease="10s")
            fleet.wait_begun(1)
            unload(valkey)
            fleet.open_gate()
            with pytest.raises(ServerRefusedError, match="runs no Lua scripts") as raised:
                driver.gather("ALL", timeout=60)
            assert str(raised.value).startswith(refusal(valkey))
            link = driver._session.queue.link
            wait_until(
                lambda: any(REASON in worker.card.refused.get("c", "") for worker in live_workers(link)), 60
            )
        assert "Traceback" not in fleet.output_of(worker)
        assert REASON in fleet.output_of(worker)
    finally:
        fleet.close()
