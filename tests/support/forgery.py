"""Control sequences in every string that a server holds; no test itself."""

from __future__ import annotations

import json
import re
from typing import Any

from queue_eval.campaign import keys
from queue_eval.campaign.keys import Keys

TITLE = "\x1b]0;FORGED\x07"
FORGED = f"{TITLE}\x1b[2J\x1b[31m\x9b5m\x85\x7f\u202e\x08"
"""Sets a title, clears the screen, begins a colour, blinks, turns the direction. Without a blank."""
FORGED_LINES = f"{FORGED}\r\n2026-01-01 00:00:00,000 INFO a line of another\r"

_OURS = re.compile(r"\x1b\[3[1-6]m|\x1b\[0m")
"""What our own colours are made of."""
_NUMBERS = re.compile(rb"[-+0-9. ]*|\d+-\d+")


def forge_campaign(client: Any, campaign: str) -> None:
    """Forge all that the server holds of a campaign, so that it can still be read as far as possible."""
    columns = Keys(campaign)
    forge_meta(client, columns)
    for column in ("configs", "outputs", "roster"):
        key = columns.column(column)
        for field, value in client.hgetall(key).items():
            client.hset(key, field, _value(value))
    for key in (columns.results, columns.column("failures")):
        _forge_stream(client, key)
    forge_holders(client, columns)


def forge_holders(client: Any, columns: Keys) -> None:
    """The names of the workers that hold jobs of a campaign."""
    for worker in client.zrange(columns.column("workers"), 0, -1):
        score = client.zscore(columns.column("workers"), worker)
        client.zrem(columns.column("workers"), worker)
        client.zadd(columns.column("workers"), {worker + FORGED.encode(): score})
        if client.exists(columns.held(worker.decode())):
            client.rename(columns.held(worker.decode()), columns.held(worker.decode() + FORGED))


def forge_meta(client: Any, columns: Keys) -> None:
    for field, value in client.hgetall(columns.meta).items():
        if value and field not in (b"method", b"payload", b"uid") and not _NUMBERS.fullmatch(value):
            client.hset(columns.meta, field, _value(value))
    client.hincrby(columns.meta, "revision", 1)


def forge_workers(client: Any, campaign: str) -> list[str]:
    """Workers of forged names, one of which refuses the campaign; their names."""
    names = [f"loyal{FORGED}", f"refuses{FORGED}"]
    seconds, _ = client.time()
    for name in names:
        card = {
            "name": name, "host": FORGED_LINES, "machine": FORGED, "pid": 7, "created": seconds - 5,
            "slots": 1, "campaigns": [campaign, FORGED], "queues": [FORGED, "default"],
            "state": f"up{FORGED}",
            "scheduler": FORGED_LINES, "scheduler_job": FORGED, "node": FORGED_LINES, "restarts": 1,
            "allocation_ends": seconds + 600, "launch": FORGED, "lease_s": 300.0,
            "refused": {campaign: FORGED_LINES} if name.startswith("refuses") else {},
        }  # fmt: skip
        client.set(keys.worker_key(name), json.dumps(card), ex=600)
        client.zadd(keys.WORKERS, {name: seconds * 1000})
    return names


def unforge_workers(client: Any, names: list[str]) -> None:
    client.zrem(keys.WORKERS, *names)
    client.srem(keys.DRAIN, *names)
    client.delete(*map(keys.worker_key, names))


def forge_whole_key(client: Any, key: bytes) -> None:
    """Every name and every value in a key becomes forged, whatever it meant."""
    kind, forged = client.type(key), FORGED_LINES.encode()
    if kind == b"hash":
        for field in client.hkeys(key):
            client.hset(key, field, forged)
        client.hset(key, forged, forged)
    elif kind == b"zset":
        members = client.zrange(key, 0, -1, withscores=True)
        client.delete(key)
        client.zadd(key, {forged + member: score for member, score in members})
    elif kind == b"set":
        client.sadd(key, forged)
    elif kind == b"stream":
        client.xadd(key, {forged: forged, b"outcome": forged, b"body": forged})
    else:
        client.set(key, forged)


def controls(seen: str, *, colours: bool = True) -> list[str]:
    """What a terminal would obey of what it was sent, but for our own colours and the ends of lines."""
    seen = seen.replace("\r\n", "\n")
    if colours:
        seen = _OURS.sub("", seen)
    return sorted({c for c in seen if not c.isprintable() and c not in "\n\t"})


def _forge_stream(client: Any, key: str) -> None:
    entries = client.xrange(key)
    client.delete(key)
    for entry, fields in entries:
        forged = {field: _value(value) for field, value in fields.items()}
        if b"outcome" in fields:
            words = fields[b"outcome"].split(b" ")
            words[5:] = [word + FORGED.encode() for word in words[5:]]
            forged[b"outcome"] = b" ".join(words)
        client.xadd(key, forged, id=entry)


def _value(value: bytes) -> bytes:
    if value[8:9] == b"{" and value[:8].isalnum():  # a config, behind the time of its submission
        return value[:8] + _value(value[8:])
    if _NUMBERS.fullmatch(value):
        return value
    try:
        return json.dumps(_walk(json.loads(value))).encode()
    except ValueError:
        return value + FORGED_LINES.encode()


def _walk(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _walk(item) for key, item in value.items()} | {f"key{FORGED}": FORGED_LINES}
    if isinstance(value, list):
        return [*map(_walk, value), FORGED]
    return value + FORGED_LINES if isinstance(value, str) else value
