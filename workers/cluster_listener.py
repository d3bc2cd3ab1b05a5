"""Hears of the markers of many campaigns on a cluster, with one thread and a bounded number of connections.

::

    the campaigns heard of last ──▶ BZPOPMIN, a connection each, MOST_BLOCKED at most ──┐
                                                                                        ├──▶ select
    all others ──▶ ZPOPMIN now and then, one pipeline for each node ────────────────────┘

Markers of two campaigns lie in different slots, and no command may block on two slots; nor may one
connection wait for two commands. So the campaigns that had jobs lately are blocked on, which makes the
latency of one-by-one jobs that of one server. The others, if there are more, are looked at in turns.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from queue_eval.transport.clients import NodeLine
from queue_eval.transport.link import Link

MOST_BLOCKED = 16
"""How many campaigns are blocked on at a time."""

LOOK_EVERY_S = 0.25
"""How often the others are looked at, while they are few (s)."""

_PER_MARKER_S = 0.005
"""So much later is the next look for each marker of theirs: an idle worker is to send no more than 200
commands a second."""

_MOST_SELDOM_S = 2.0

_MARGIN_S = 3.0

_LEFT_ALONE_S = 1.0
"""So long is nothing tried of a campaign whose node is away, or whose marker is none."""


@dataclass
class _Ear:
    """A connection that blocks on the markers of one campaign, or has just done so."""

    line: NodeLine
    campaign: str
    since: float


class ClusterListener:
    """Assumes: one thread listens; `interrupt` may be called from any.

    A marker that is popped is always told of, also when it is wanted no more: whoever has taken it owes the
    others a look.
    """

    def __init__(self, link: Link, block_s: float) -> None:
        self._link = link
        self._block_s = block_s
        self._ears: dict[str, _Ear] = {}
        self._idle: dict[str, list[NodeLine]] = {}
        """Connections to be used again, by node."""
        self._heard_at: dict[str, float] = {}
        self._left_alone: dict[str, float] = {}
        """Campaign -> until when (monotonic, s)."""
        self._look_at = 0.0
        self._selector = selectors.DefaultSelector()
        self._wakes, self._waker = socket.socketpair()
        self._waker.setblocking(False)
        self._selector.register(self._wakes, selectors.EVENT_READ)

    @property
    def are_open(self) -> bool:
        """Whether something is blocked on."""
        return bool(self._ears)

    def interrupt(self) -> None:
        """End the present `listen`: there may be more to listen for."""
        with suppress(OSError):  # it is full of such, or closed
            self._waker.send(b".")

    def close(self) -> None:
        for ear in self._ears.values():
            self._selector.unregister(ear.line)
            ear.line.close()
        for lines in self._idle.values():
            for line in lines:
                line.close()
        self._ears.clear()
        self._idle.clear()
        self._selector.close()
        self._wakes.close()
        self._waker.close()

    def listen(self, wanted: Mapping[str, str]) -> set[str]:
        """The campaigns of which a marker was taken, as soon as there is one; none after a while.

        `wanted`: the markers to listen for -> campaign.
        """
        now = time.monotonic()
        self._left_alone = {name: until for name, until in self._left_alone.items() if until > now}
        markers: dict[str, list[str]] = {}
        for key, campaign in wanted.items():
            if campaign not in self._left_alone:
                markers.setdefault(campaign, []).append(key)
        self._forget(markers)
        self._open(markers)
        heard: set[str] = set()
        others = [key for campaign, keys in markers.items() if campaign not in self._ears for key in keys]
        pause_s = self._block_s / 2
        if others:
            if now >= self._look_at:
                self._look_at = now + min(max(LOOK_EVERY_S, _PER_MARKER_S * len(others)), _MOST_SELDOM_S)
                heard |= {wanted[key] for key in self._pop(others)}
            pause_s = max(0.0, self._look_at - now)
        heard |= self._wait(0.0 if heard else pause_s)
        self._heard_at.update(dict.fromkeys(heard, time.monotonic()))
        return heard

    def _forget(self, markers: Mapping[str, list[str]]) -> None:
        if len(self._heard_at) > 2 * len(markers) + MOST_BLOCKED:
            self._heard_at = {name: at for name, at in self._heard_at.items() if name in markers}

    def _open(self, markers: Mapping[str, list[str]]) -> None:
        """Block on what was heard of last, as far as there is room."""
        room = MOST_BLOCKED - len(self._ears)
        waiting = [campaign for campaign in markers if campaign not in self._ears]
        waiting.sort(key=lambda campaign: self._heard_at.get(campaign, 0.0), reverse=True)
        for campaign in waiting[: max(0, room)]:
            keys = markers[campaign]
            line = self._link.line_to(keys[0], self._idle)
            if line is None or not line.send("BZPOPMIN", *keys, self._block_s):
                self._leave_alone(campaign)
                continue
            self._ears[campaign] = _Ear(line, campaign, time.monotonic())
            self._selector.register(line, selectors.EVENT_READ, campaign)

    def _leave_alone(self, campaign: str) -> None:
        self._left_alone[campaign] = time.monotonic() + _LEFT_ALONE_S

    def _pop(self, others: list[str]) -> list[str]:
        replies = self._link.ask_each([(key, ("ZPOPMIN", key)) for key in others])
        return [
            key
            for key, reply in zip(others, replies, strict=True)
            if reply and not isinstance(reply, Exception)
        ]

    def _wait(self, pause_s: float) -> set[str]:
        heard: set[str] = set()
        for ready, _ in self._selector.select(pause_s):
            if ready.data is None:
                self._wakes.recv(4096)
            elif self._read(ready.data):
                heard.add(ready.data)
        too_late = time.monotonic() - self._block_s - _MARGIN_S
        for ear in [ear for ear in self._ears.values() if ear.since < too_late]:
            self._take(ear.campaign).line.fail()
        return heard

    def _read(self, campaign: str) -> bool:
        """Whether its marker was taken."""
        ear = self._take(campaign)
        reply: Any = ear.line.read()
        if isinstance(reply, Exception):
            ear.line.close()
            self._leave_alone(campaign)
            return False
        if len(self._ears) + sum(map(len, self._idle.values())) < MOST_BLOCKED:
            self._idle.setdefault(ear.line.node, []).append(ear.line)
        else:
            ear.line.close()
        return reply is not None

    def _take(self, campaign: str) -> _Ear:
        ear = self._ears.pop(campaign)
        self._selector.unregister(ear.line)
        return ear
