"""A server for a group: drivers sign all that decides what runs, and workers hold what verifies it."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from queue_eval.campaign.commands import CampaignCommands
from queue_eval.campaign.keys import NOTICES, Keys
from queue_eval.errors import FunctionError, ServerRefusedError
from queue_eval.function.signing import new_key
from queue_eval.model.moves import Submission
from queue_eval.transport.access import ACCESS_FILE, find_access
from queue_eval.transport.link import Link
from tests.support.group import (
    INVALID,
    Fields,
    Group,
    by_name,
    by_script,
    by_value,
    other_forward,
    other_kwargs,
    other_path,
    other_time_limit,
    signature_of,
    unsigned_campaign,
)
from tests.support.waiting import wait_until


def test_what_a_driver_has_signed_runs(group: Group, campaign: str):
    for name, function in (("value", lambda config, y: config["x"] + y), ("name", "marks:run")):
        marker = group.folder / f"{campaign}-{name}"
        kwargs = {"y": 1} if name == "value" else {"marker": str(marker)}
        group.folder.joinpath("driver").mkdir(exist_ok=True)
        with group.driver(f"{campaign}-{name}", function, run_function_kwargs=kwargs) as driver:
            driver.submit([{"x": 1}])
            (job,) = driver.gather("ALL", timeout=60)
            assert (job.state, job.result) == ("succeeded", 2 if name == "value" else None)
            assert marker.exists() == (name == "name")


# With the password of workers --------------------------------------------------------------------------


def signed(meta: Fields, fields: Fields, campaign: str, key: bytes) -> Fields:
    """The fields, and their signature for the next opening."""
    new = meta | fields
    return fields | {"signature": signature_of(new, campaign, key, int(new["revision"]) + 1)}


UNSIGNED = "is not signed, and this worker runs only what a driver of its group has signed"
SHARED = "is signed with a shared key"

ATTACKS: dict[str, tuple[str, Callable[[Fields, Path, str, bytes], Fields]]] = {
    "kwargs": (INVALID, lambda meta, marker, name, key: other_kwargs(meta, marker)),
    "function": (INVALID, lambda meta, marker, name, key: by_name(meta, marker)),
    "payload": (INVALID, lambda meta, marker, name, key: by_value(meta, marker)),
    "path": (INVALID, lambda meta, marker, name, key: other_path(meta, marker)),
    "script": (INVALID, lambda meta, marker, name, key: by_script(meta, marker)),
    "time-limit": (INVALID, lambda meta, marker, name, key: other_time_limit(meta, marker)),
    "forward": (INVALID, lambda meta, marker, name, key: other_forward(meta, marker)),
    "method": (INVALID, lambda meta, marker, name, key: {"method": b"thread"}),
    "revision": (INVALID, lambda meta, marker, name, key: {"signature": meta["signature"]}),
    "uid": (INVALID, lambda meta, marker, name, key: {"uid": b"0" * 16}),
    "unsigned-name": (UNSIGNED, lambda meta, marker, name, key: by_name(meta, marker) | {"signature": b""}),
    "unsigned-value": (UNSIGNED, lambda meta, marker, name, key: by_value(meta, marker) | {"signature": b""}),
    "earlier-build": (
        "was signed by an earlier build",
        lambda meta, marker, name, key: by_value(meta, marker)
        | {"signature": hmac.new(key, b"", hashlib.sha256).hexdigest().encode()},
    ),
    "shared-key": (
        SHARED,  # what a worker can check it could have signed
        lambda meta, marker, name, key: signed(meta, by_value(meta, marker), name, key[-64:]),
    ),
    "own-pair": (
        INVALID,
        lambda meta, marker, name, key: signed(meta, by_value(meta, marker), name, new_key().encode()),
    ),
    "garbage": (INVALID, lambda meta, marker, name, key: {"signature": "ed25519:жж".encode()}),
}


def key_of(file: Path) -> bytes:
    return str(json.loads(file.read_text())["key"]).encode()


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_worker_changes_nothing_of_what_runs(group: Group, campaign: str, attack: str):
    """Each part of what is signed is changed, with the rights of worker-access.json.

    The intruder comes in between when the driver opens the campaign once more: what is not changed is signed.
    """
    words, change = ATTACKS[attack]
    marker = group.folder / f"{campaign}-was-run"
    with group.driver(campaign, lambda config, marker: None, run_function_kwargs={"marker": "/"}) as driver:
        client, keys = group.client(), Keys(campaign)
        queue = CampaignCommands.attach(Link(find_access(file=group.file), name="test"), campaign)[0]
        queue.pause(True)
        driver.submit([{"x": 1}])
        meta = {name.decode(): value for name, value in client.hgetall(keys.meta).items()}
        fields = signed(meta, {}, campaign, key_of(group.home / ACCESS_FILE))
        fields |= change(meta, marker, campaign, key_of(group.file))
        client.hset(keys.meta, mapping={**fields, "paused": 0, "revision": int(meta["revision"]) + 1})
        client.xadd(NOTICES, {"what": "open", "campaign": campaign})
        group.wait_refused(campaign, words)
        # A call that was under way may have leased it; then it is given back.
        wait_until(lambda: client.zcard(keys.column("pending")) == 1)
        assert not marker.exists()
        queue.link.close()
        client.close()


@pytest.mark.filterwarnings("ignore:run_function_kwargs have changed", "ignore:the source of")
@pytest.mark.filterwarnings("ignore:worker far does not serve")  # also for a moment after it is mended
def test_an_old_payload_put_back_with_other_kwargs(group: Group, campaign: str):
    old, new = ({"run_function_kwargs": {"y": y}, "on_change": "accept"} for y in (1, 2))
    client, keys = group.client(), Keys(campaign)

    def fields() -> dict[bytes, bytes]:
        found = client.hmget(keys.meta, "payload", "signature", "signed_for", "function")
        return dict(zip((b"payload", b"signature", b"signed_for", b"function"), found, strict=True))

    with group.driver(campaign, lambda config, y: y, **old):
        first = fields()
    with group.driver(campaign, lambda config, y: -y, **new) as driver:
        driver.submit([{"x": 1}])
        assert driver.gather("ALL", timeout=60)[0].result == -2
        client.hset(keys.meta, mapping=first)
        client.hincrby(keys.meta, "revision", 1)
        driver.submit([{"x": 2}])
        group.wait_refused(campaign, INVALID)
        assert driver.gather("ALL", timeout=0.1) == []
    # Its driver mends it.
    with group.driver(campaign, lambda config, y: -y, **new) as driver:
        assert [job.result for job in driver.gather("ALL", timeout=60)] == [-2]
    client.close()


def test_the_fields_of_another_campaign(group: Group, campaign: str):
    """Also where uid and revision are the same: the name is signed, too."""
    client = group.client()
    marker = group.folder / f"{campaign}-was-run"
    with group.driver(f"{campaign}-a", "marks:run", run_function_kwargs={"marker": str(marker)}):
        meta = {name.decode(): value for name, value in client.hgetall(Keys(f"{campaign}-a").meta).items()}
    fields = {name: meta[name] for name in ("payload", "function", "options", "method", "uid")}
    with group.driver(f"{campaign}-b", lambda config: 1):
        fields |= signed(meta, {}, f"{campaign}-a", key_of(group.home / ACCESS_FILE))
        client.hset(Keys(f"{campaign}-b").meta, mapping=fields | {"revision": int(meta["revision"]) + 1})
        client.xadd(NOTICES, {"what": "open", "campaign": f"{campaign}-b"})
        group.wait_refused(f"{campaign}-b", INVALID)
    assert not marker.exists()
    client.close()


def test_a_campaign_of_another_label(group: Group, campaign: str):
    """The label decides which workers run it."""
    with group.driver(campaign, lambda config: 1, queue="big"), group.client() as client:
        meta = {name.decode(): value for name, value in client.hgetall(Keys(campaign).meta).items()}
        fields = signed(meta, {}, campaign, key_of(group.home / ACCESS_FILE)) | {"queue": "default"}
        client.hset(Keys(campaign).meta, mapping=fields | {"revision": int(meta["revision"]) + 1})
        client.xadd(NOTICES, {"what": "open", "campaign": campaign})
        group.wait_refused(campaign, INVALID)


def test_a_campaign_that_a_worker_has_made(group: Group, campaign: str):
    """It is on no list; but a worker that names it looks at it."""
    marker = group.folder / f"{campaign}-was-run"
    link = Link(find_access(file=group.file), name="test")
    with suppress(ServerRefusedError):  # the list of campaigns is for drivers
        CampaignCommands.open(link, campaign, unsigned_campaign(marker), accept_change=False)
    queue = CampaignCommands.attach(link, campaign)[0]
    queue.enqueue("d", 1, [Submission("{}", b"f" * 12, 1)], reuse=False)
    worker = group.start_worker("--campaign", campaign)
    try:
        group.wait_refused(campaign, UNSIGNED)
        assert not marker.exists()
    finally:
        worker.kill()
        worker.wait()
        link.close()


@pytest.mark.filterwarnings("ignore:worker .* does not serve")
def test_a_drivers_own_workers_run_nothing_of_a_worker(group: Group, campaign: str):
    """They run as the driver's account, which could sign."""
    marker = group.folder / f"{campaign}-was-run"
    keywords = {"local_workers": True, "queue": campaign, "run_function_kwargs": {"marker": "/"}}
    with group.driver(campaign, lambda config, marker: config["x"], **keywords) as driver:
        driver.submit([{"x": 1}])
        assert driver.gather("ALL", timeout=60)[0].result == 1
        with group.client() as client:
            keys = Keys(campaign)
            meta = {name.decode(): value for name, value in client.hgetall(keys.meta).items()}
            revision = int(meta["revision"]) + 1
            fields = by_name(meta, marker) | {"signature": b""}
            client.hset(keys.meta, mapping={**fields, "revision": revision})
            client.xadd(NOTICES, {"what": "open", "campaign": campaign})
        logs = group.folder / "driver" / "logs"
        refusal = f"campaign {campaign} is not served: marks:run {UNSIGNED}"
        wait_until(lambda: any(refusal in log.read_text() for log in logs.iterdir()))
        driver.submit([{"x": 2}])
        assert driver.gather("ALL", timeout=0.1) == []
        driver.cancel()
    assert not marker.exists()


def test_a_public_key_signs_nothing(group: Group, monkeypatch: pytest.MonkeyPatch, campaign: str):
    monkeypatch.setenv("QUEUE_EVAL_KEY", json.loads(group.file.read_text())["key"])
    with pytest.raises(FunctionError, match="the key of this driver is that of workers; give"):
        group.driver(campaign, "marks:run")


def test_an_opening_between_signing_and_opening(group: Group, campaign: str):
    """The signature is made anew for the opening that it is to be for."""
    link = Link(find_access(file=group.home / ACCESS_FILE), name="test")
    fields: dict[str, Any] = {"function": "a:b", "method": "process", "queue": "default"}
    asked: list[tuple[str, int]] = []

    def seal(uid: str, revision: int) -> str:
        asked.append((uid, revision))
        if len(asked) < 3:
            CampaignCommands.open(link, campaign, fields, accept_change=False)
        return f"for {revision}"

    queue, opened = CampaignCommands.open(link, campaign, fields, accept_change=False, sign=seal)
    meta = queue.meta()
    assert [revision for _, revision in asked] == [1, 2, 3]
    assert (meta["revision"], meta["signature"], opened.uid) == (b"3", b"for 3", asked[-1][0])
    assert meta["signed_for"].decode() == f"{opened.uid} 3"
    link.close()


def test_a_signed_opening_whose_reply_is_lost(group: Group, campaign: str, monkeypatch: pytest.MonkeyPatch):
    """The link repeats the call, which finds the campaign opened by the first one: it is signed anew."""
    link = Link(find_access(file=group.home / ACCESS_FILE), name="test")
    fields: dict[str, Any] = {"function": "a:b", "method": "process", "queue": "default"}
    run_script = link.run_script

    def lose_first(*arguments: Any) -> Any:
        monkeypatch.setattr(link, "run_script", run_script)
        run_script(*arguments)
        return run_script(*arguments)

    monkeypatch.setattr(link, "run_script", lose_first)
    queue, opened = CampaignCommands.open(
        link, campaign, fields, accept_change=False, sign=lambda uid, revision: f"for {uid} {revision}"
    )
    meta = queue.meta()
    assert (meta["revision"], opened.created) == (b"2", False)
    assert meta["signature"].decode() == f"for {queue.uid} 2"
    link.close()
