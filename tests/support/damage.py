"""What something else may write into our keys: one entry for each key and kind of garbage."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from queue_eval.campaign import keys
from queue_eval.campaign.keys import COLUMNS, EXTRA_COLUMNS, Keys
from queue_eval.machine import machine_id

GARBAGE = b"\xff\x00garbage"
Act = Callable[[Any, Keys], object]


@dataclass(frozen=True)
class Damage:
    """`act` does it to a campaign of two pending jobs; `ends`: both end all the same, in these states."""

    act: Act
    ends: tuple[str, str] | None = None


def _ends(*states: str) -> tuple[str, str]:
    first, second = states or ("succeeded", "succeeded")
    return first, second


def _another_type(name: str) -> Act:
    def act(client: Any, columns: Keys) -> None:
        key = name if name.startswith("qe:") else columns.column(name)
        is_string = client.type(key) == b"string"
        client.delete(key)
        if is_string:
            client.hset(key, "a", "b")
        else:
            client.set(key, GARBAGE)

    return act


def _field(column: str, name: str | int | bytes, value: Any) -> Act:
    def act(client: Any, columns: Keys) -> None:
        key = columns.column(column)
        if value is None:
            client.hdel(key, name)
        else:
            client.hset(key, name, value)
        if column == "meta" and name != "revision":
            client.hincrby(key, "revision", 1)

    return act


def _member(column: str, member: Any, score: float | str = 0) -> Act:
    return lambda client, columns: client.zadd(columns.column(column), {member: score})


def _all_fields(column: str) -> Act:
    def act(client: Any, columns: Keys) -> None:
        key = columns.column(column)
        for field in client.hkeys(key):
            client.hset(key, field, GARBAGE)

    return act


_OUTCOME = {
    "job": "1", "state": "s", "attempts": "1", "run_ms": "1", "age_ms": "0", "source": "",
    "worker": "w", "cause": "",
}  # fmt: skip


def _entry(*, body: Any = "1", **fields: Any) -> Act:
    told = [value for value in (_OUTCOME | fields).values() if value is not None]
    outcome = b" ".join(value if isinstance(value, bytes) else value.encode() for value in told)
    return lambda client, columns: client.xadd(columns.results, {"outcome": outcome, "body": body})


def _card(text: bytes) -> Act:
    def act(client: Any, columns: Keys) -> None:
        client.zadd(keys.WORKERS, {"ghost": time.time() * 1000})
        client.set(keys.worker_key("ghost"), text, px=3000)

    return act


def _held(worker: str, value: Any, *, as_hash: bool = True) -> Act:
    def act(client: Any, columns: Keys) -> None:
        client.zadd(columns.column("workers"), {worker: 1})
        if as_hash:
            client.hset(columns.held(worker), GARBAGE, value)
            client.hset(columns.held(worker), "77", value)
        else:
            client.set(columns.held(worker), value)

    return act


def _both(*acts: Act) -> Act:
    return lambda client, columns: [act(client, columns) for act in acts]


_HARMLESS_TYPES = (
    "priorities", "failures", "outputs", "fingerprints", "widths", "reserving", "wake_wide",
    "reports", "report_heads", "reported", "stops", "checkpoints", "give_backs", "time_lacks", "distant",
    "tags", "summary", "live", "live_heads",
)  # fmt: skip
_HARMLESS_META = (
    "source", "max_attempts", "max_losses", "retry_first_ms", "retry_factor", "retry_max_ms", "num_workers",
    "most_running", "paused", "server_run", "reclaim_from", "reclaim_seen", "retried", "extras", "total",
    "time_limit_s",
)  # fmt: skip
_META = (
    "uid", "schema", "created_ms", "last_id", "function", "method", "options", "payload", "signature",
    "queue", "revision",
)  # fmt: skip
_OPTIONS = {
    "null": "null", "list": "[]", "deep": "[" * 100_000, "nan": '{"path":[],"kwargs":{},"time_limit":NaN}',
    "types": '{"path":5,"kwargs":[],"time_limit":"x"}',
    "negative": '{"path":[],"kwargs":{},"time_limit":-1}',
    "forward": '{"path":[],"kwargs":{},"time_limit":null,"forward":5}',
}  # fmt: skip
_CARD_TYPES = {
    "pid": "x", "slots": "many", "created": [1], "campaigns": 5, "queues": {"a": 1}, "lease_s": "x",
    "host": 5, "machine": {}, "state": [], "refused": [1], "longest_job_s": "x",
}  # fmt: skip
_MACHINE = keys.machine_key(machine_id())

DAMAGES: dict[str, Damage] = {
    **{
        f"type of {name}": Damage(_another_type(name), _ends() if name in _HARMLESS_TYPES else None)
        for name in (*COLUMNS, *EXTRA_COLUMNS)
    },
    **{f"meta {name}": Damage(_field("meta", name, GARBAGE), _ends()) for name in _HARMLESS_META},
    **{f"meta {name}": Damage(_field("meta", name, GARBAGE)) for name in _META},
    **{f"meta without {name}": Damage(_field("meta", name, None)) for name in ("uid", "options", "last_id")},
    "a newer schema": Damage(_field("meta", "schema", "9")),
    **{f"options {name}": Damage(_field("meta", "options", text)) for name, text in _OPTIONS.items()},
    # A job whose config is garbage fails; its neighbour does not.
    **{
        f"config {name}": Damage(_field("configs", 1, value), _ends("failed", "succeeded"))
        for name, value in {
            "garbage": GARBAGE, "short": "12", "list": "loyw3v28[1]", "missing": None,
            "deep": "loyw3v28" + "[" * 200_000,
        }.items()
    },
    "pending member": Damage(_member("pending", GARBAGE), _ends()),
    "pending unknown": Damage(_member("pending", "999"), _ends()),
    "scheduled member": Damage(_member("scheduled", GARBAGE), _ends()),
    "scheduled for ever": Damage(_member("scheduled", "999", "+inf"), _ends()),
    "wide member": Damage(_member("wide", GARBAGE), _ends()),
    "a request for time": Damage(
        _both(_member("wide", "1@60", 1), _field("widths", 1, "1@" + "9" * 30)), _ends()
    ),
    "a width": Damage(_both(_member("wide", "2", 2), _field("widths", 1, GARBAGE)), _ends()),
    "pending:2 member": Damage(_both(_member("wide", "2", 2), _member("pending:2", GARBAGE)), _ends()),
    "workers member": Damage(_member("workers", GARBAGE, 1), _ends()),
    "workers for ever": Damage(_member("workers", "ghost", "+inf"), _ends()),
    "held by a dead worker": Damage(_held("ghost", GARBAGE), _ends()),
    "held by this worker": Damage(_held("w0", GARBAGE), _ends()),
    "type of held": Damage(_held("ghost", GARBAGE, as_hash=False)),
    "attempts": Damage(_field("attempts", 1, GARBAGE), _ends()),
    "attempts beyond count": Damage(_field("attempts", 1, "9" * 400 + " 0 0 0 0"), _ends()),
    "priorities": Damage(_field("priorities", 1, GARBAGE), _ends()),
    "failed member": Damage(lambda c, k: c.sadd(k.column("failed"), GARBAGE), _ends()),
    "cancelled member": Damage(lambda c, k: c.sadd(k.column("cancelled"), GARBAGE), _ends()),
    "fingerprints": Damage(_all_fields("fingerprints"), _ends()),
    "requests": Damage(_all_fields("requests"), _ends()),
    "index member": Damage(_field("index", GARBAGE, "5-5"), _ends()),
    "roster": Damage(_field("roster", "w0", GARBAGE), _ends()),
    "wake member": Damage(_member("wake", GARBAGE), _ends()),
    "give-backs for ever": Damage(_member("give_backs", "1", "+inf"), _ends()),
    "how often time was lacked": Damage(_field("time_lacks", 1, GARBAGE), _ends()),
    "a give-back of nothing": Damage(_member("give_backs", GARBAGE, 50), _ends()),
    "report heads": Damage(_field("report_heads", 1, GARBAGE), _ends()),
    "a hint of nothing": Damage(lambda c, k: c.xadd(k.reported, {"ids": GARBAGE}), _ends()),
    "outputs": Damage(_field("outputs", 1, GARBAGE), _ends()),
    "an entry of nothing": Damage(lambda c, k: c.xadd(k.results, {"a": "b"}), _ends()),
    "an entry of no job": Damage(_entry(job="99"), _ends()),
    "an entry of a huge job": Damage(_entry(job="9" * 5000), _ends()),
    **{
        f"an entry with {name} {value!r}": Damage(_entry(**{name: value}), _ends("failed", "succeeded"))
        for name in ("state", "attempts", "run_ms", "age_ms", "cause")
        for value in (GARBAGE, None)
    },
    "an entry with a deep body": Damage(_entry(body="[" * 200_000), _ends("failed", "succeeded")),
    "a failure of nothing": Damage(lambda c, k: c.xadd(k.column("failures"), {"job": "1"}), _ends()),
    "a failure": Damage(
        lambda c, k: c.xadd(k.column("failures"), {"job": "1", "attempt": GARBAGE, "cause": GARBAGE}), _ends()
    ),
    "a notice": Damage(lambda c, k: c.xadd(keys.NOTICES, {GARBAGE: GARBAGE}), _ends()),
    "a campaign's name": Damage(lambda c, k: c.zadd(keys.CAMPAIGNS, {GARBAGE: 1, "a b": 2, "": 3}), _ends()),
    "a worker's name": Damage(lambda c, k: c.zadd(keys.WORKERS, {GARBAGE: 1}), _ends()),
    "a card": Damage(_card(GARBAGE), _ends()),
    "a card of other types": Damage(_card(json.dumps(_CARD_TYPES).encode()), _ends()),
    "a deep card": Damage(_card(b"[" * 100_000), _ends()),
    "a neighbour": Damage(lambda c, k: c.hset(_MACHINE, "ghost", GARBAGE), _ends()),
    "a neighbour's name": Damage(lambda c, k: c.hset(_MACHINE, GARBAGE, "1 2"), _ends()),
    "a name to drain": Damage(lambda c, k: c.sadd(keys.DRAIN, GARBAGE), _ends()),
    **{
        f"type of {name}": Damage(_another_type(name), _ends() if name != keys.WORKERS else None)
        for name in (keys.NOTICES, keys.CAMPAIGNS, keys.WORKERS, keys.DRAIN)
    },
    "type of qe:machine": Damage(_another_type(_MACHINE), _ends()),
}
"""By what is damaged."""

REGISTRIES = (keys.NOTICES, keys.CAMPAIGNS, keys.WORKERS, keys.DRAIN, _MACHINE, keys.worker_key("ghost"))
"""Keys of all campaigns: to be put back after each damage."""
