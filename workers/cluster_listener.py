"""Listens for the markers of many campaigns on a cluster: one thread, a bounded number of connections.

::

    the campaigns heard of last ──▶ BZPOPMIN, a connection each, MOST_BLOCKED at most ──┐
                                                                                        ├──▶ select
    all others ──▶ ZPOPMIN now and then, one pipeline for each node ────────────────────┘

Markers of two campaigns lie in different slots, and no command may block on two slots; nor may one
connection wait for two commands. So this thread blocks on the campaigns that had jobs lately: jobs that come
one by one are then as fast as on one server. It looks at the other campaigns now and then.
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
"""How many campaigns this thread blocks on at a time."""

LOOK_EVERY_S = 0.25
"""How often it looks at the other campaigns, while they are few (s)."""

_LOOK_PER_MARKER_S = 0.005
"""Each marker delays the next look by so much: an idle worker sends at most 200 commands a second."""

_MAX_LOOK_EVERY_S = 2.0

_MARGIN_S = 3.0
"""A reply may come so much later than the block ends."""

_LEFT_ALONE_S = 1.0
"""How long a campaign is left alone whose node is away, or whose marker is damaged."""


@dataclass
class _Block:
    """A connection that blocks on the markers of one campaign, or has just done so."""

    line: NodeLine
    campaign: str
    since: float


class ClusterListener:
    """Assumes: one thread listens; `interrupt` may be called from any.

    A marker that is popped is always reported, also when it is wanted no more: the worker that has taken it
    owes the others a look.
    """

    def __init__(self, link: Link, block_s: float) -> None:
        self._link = link
        self._block_s = block_s
        self._blocks: dict[str, _Block] = {}
        self._idle: dict[str, list[NodeLine]] = {}
        """Connections to be used again, by node."""
        self._heard_at: dict[str, float] = {}
        self._left_alone: dict[str, float] = {}
        """Campaign -> until when (monotonic, s)."""
        self._look_at = 0.0
        self._selector = selectors.DefaultSelector()
        self._wake_end, self._waker = socket.socketpair()
        self._waker.setblocking(False)
        self._selector.register(self._wake_end, selectors.EVENT_READ)

    @property
    def is_blocking(self) -> bool:
        """Whether a connection blocks on markers."""
        return bool(self._blocks)

    def interrupt(self) -> None:
        """Make the present `listen` return: there may be more markers to listen for."""
        with suppress(OSError):  # the pipe is full of such bytes, or closed
            self._waker.send(b".")

    def close(self) -> None:
        for block in self._blocks.values():
            self._selector.unregister(block.line)
            block.line.close()
        for lines in self._idle.values():
            for line in lines:
                line.close()
        self._blocks.clear()
        self._idle.clear()
        self._selector.close()
        self._wake_end.close()
        self._waker.close()

    def listen(self, wanted: Mapping[str, str]) -> set[str]:
        """Wait until a marker is taken, or for a while. Returns the campaigns whose marker was taken.

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
        others = [key for campaign, keys in markers.items() if campaign not in self._blocks for key in keys]
        pause_s = self._block_s / 2
        if others:
            if now >= self._look_at:
                pause_s = max(LOOK_EVERY_S, _LOOK_PER_MARKER_S * len(others))
                self._look_at = now + min(pause_s, _MAX_LOOK_EVERY_S)
                heard |= {wanted[key] for key in self._pop(others)}
            pause_s = max(0.0, self._look_at - now)
        heard |= self._wait(0.0 if heard else pause_s)
        self._heard_at.update(dict.fromkeys(heard, time.monotonic()))
        return heard

    def _forget(self, markers: Mapping[str, list[str]]) -> None:
        if len(self._heard_at) > 2 * len(markers) + MOST_BLOCKED:
            self._heard_at = {name: at for name, at in self._heard_at.items() if name in markers}

    def _open(self, markers: Mapping[str, list[str]]) -> None:
        """Block on the campaigns that were heard of last, as far as there is room."""
        room = MOST_BLOCKED - len(self._blocks)
        waiting = [campaign for campaign in markers if campaign not in self._blocks]
        waiting.sort(key=lambda campaign: self._heard_at.get(campaign, 0.0), reverse=True)
        for campaign in waiting[: max(0, room)]:
            keys = markers[campaign]
            line = self._link.line_to(keys[0], self._idle)
            if line is None or not line.send("BZPOPMIN", *keys, self._block_s):
                self._leave_alone(campaign)
                continue
            self._blocks[campaign] = _Block(line, campaign, time.monotonic())
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
                self._wake_end.recv(4096)
            elif self._read(ready.data):
                heard.add(ready.data)
        too_late = time.monotonic() - self._block_s - _MARGIN_S
        for block in [block for block in self._blocks.values() if block.since < too_late]:
            self._take(block.campaign).line.fail()
        return heard

    def _read(self, campaign: str) -> bool:
        """Read the reply for a campaign. Returns whether its marker was taken."""
        block = self._take(campaign)
        reply: Any = block.line.read()
        if isinstance(reply, Exception):
            block.line.close()
            self._leave_alone(campaign)
            return False
        if len(self._blocks) + sum(map(len, self._idle.values())) < MOST_BLOCKED:
            self._idle.setdefault(block.line.node, []).append(block.line)
        else:
            block.line.close()
        return reply is not None

    def _take(self, campaign: str) -> _Block:
        block = self._blocks.pop(campaign)
        self._selector.unregister(block.line)
        return block
