"""The real scripts on the real server, but for one line: their clock stands still until it is moved."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from queue_eval.transport.access import Access
from queue_eval.transport.link import Link
from queue_eval.transport.script import Script
from queue_eval.transport.script_calls import ScriptCall

CLOCK = "still-clock"
TIME = "redis.call('TIME')"


@cache
def stilled(script: Script) -> str:
    source = script.source
    # No script reads the time but by this function, of which it has one at most.
    assert source.count(TIME) == source.count("local function now_ms()") <= 1, "one clock"
    return source.replace(TIME, f"redis.call('HMGET', '{CLOCK}', 'seconds', 'micros')")


class StillLink(Link):
    """A link whose scripts read their time from a key."""

    def __init__(self, access: Access) -> None:
        super().__init__(access, name="still")
        self.calls = 0

    def set_clock(self, now_ms: int) -> None:
        self.client.hset(CLOCK, mapping={"seconds": now_ms // 1000, "micros": now_ms % 1000 * 1000})

    def run_script(self, script: Script, keys: Iterable[str], *arguments: Any) -> Any:
        self.calls += 1
        keys = tuple(keys)
        return self.client.eval(stilled(script), len(keys), *keys, *arguments)

    def run_scripts(self, script: Script, calls: Sequence[ScriptCall]) -> list[Any]:
        return [self.run_script(script, keys, *arguments) for keys, arguments in calls]
