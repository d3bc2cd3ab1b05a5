"""Pushes documents to browsers as server-sent events: each topic's newest document, to whoever wants it.

::

    follower (thread) ──publish──▶ Publisher: one document per topic ──wakes──▶ Subscription ──▶ EventStream
                                                                                (one per browser)

Nothing waits in a queue. A stream that is free asks for the documents that are newer than what it has sent.
A browser that reads slowly misses those in between, and costs no memory.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Collection, Hashable, Iterable
from contextlib import suppress
from typing import Any, NamedTuple

import anyio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

BEAT_S = 15.0
"""A stream with nothing to send sends a comment so often: proxies close what is silent."""

MOST_SILENT_S = 60.0
"""A browser that takes nothing for so long is dropped."""

_RECONNECT_MS = 2000


class Published(NamedTuple):
    """One document, as a server-sent event."""

    number: int
    """It grows with each document of the publisher."""
    frame: bytes


class Publisher:
    """Keeps the newest document of each topic, and wakes the subscriptions that want it.

    Safe to use from several threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._number = 0
        self._newest: dict[Hashable, Published] = {}
        self._compared: dict[Hashable, str] = {}
        self._subscriptions: set[Subscription] = set()
        self.is_closed = False

    def publish(self, topic: Hashable, event: str, document: Any, compared: str | None = None) -> int:
        """Publish a document unless it is the one that stands there. Returns its size in bytes.

        `compared`: what decides whether it is another one; None: the whole document.
        """
        text = to_json(document)
        compared = text if compared is None else compared
        with self._lock:
            if self._compared.get(topic) == compared and topic in self._newest:
                return len(text)
            self._number += 1
            frame = f"id: {self._number}\nevent: {event}\ndata: {text}\n\n".encode()
            self._newest[topic] = Published(self._number, frame)
            self._compared[topic] = compared
            self._wake(topic)
        return len(text)

    def withdraw(self, topics: Iterable[Hashable]) -> None:
        """Forget these documents; whoever comes gets none until they are published again."""
        with self._lock:
            for topic in topics:
                self._newest.pop(topic, None)
                self._compared.pop(topic, None)

    def subscribe(self, topics: Collection[Hashable]) -> Subscription:
        """Called in the event loop in which the subscription is read."""
        subscription = Subscription(self, frozenset(topics))
        with self._lock:
            self._subscriptions.add(subscription)
        return subscription

    def wanted(self) -> set[Hashable]:
        """The topics that somebody has subscribed to."""
        with self._lock:
            return {topic for subscription in self._subscriptions for topic in subscription.topics}

    def keep_only(self, topics: Collection[Hashable]) -> None:
        """Forget the documents of all other topics."""
        with self._lock:
            stale = [topic for topic in self._newest if topic not in topics]
        self.withdraw(stale)

    def close(self) -> None:
        """End all subscriptions, once they have sent what stands there."""
        with self._lock:
            self.is_closed = True
            for subscription in self._subscriptions:
                subscription.wake()

    def after(self, number: int, topics: Collection[Hashable]) -> list[Published]:
        """The documents of these topics that are newer, the oldest first."""
        with self._lock:
            found = [p for topic, p in self._newest.items() if topic in topics and p.number > number]
        return sorted(found)

    def drop(self, subscription: Subscription) -> None:
        with self._lock:
            self._subscriptions.discard(subscription)

    def _wake(self, topic: Hashable) -> None:
        for subscription in self._subscriptions:
            if topic in subscription.topics:
                subscription.wake()


class Subscription:
    """What one browser wants. It is read in one event loop, and woken from any thread."""

    def __init__(self, publisher: Publisher, topics: frozenset[Hashable]) -> None:
        self.topics = topics
        self._publisher = publisher
        self._loop = asyncio.get_running_loop()
        self._is_new = asyncio.Event()
        self._sent = 0

    def wake(self) -> None:
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._is_new.set)

    async def next_frames(self) -> bytes | None:
        """The events that are new, within BEAT_S; a comment where there are none. None: it is over."""
        with anyio.move_on_after(BEAT_S):
            while True:
                self._is_new.clear()  # before the look: what comes after the look wakes it again
                is_closed = self._publisher.is_closed
                new = self._publisher.after(self._sent, self.topics)
                if new:
                    self._sent = new[-1].number
                    return b"".join(published.frame for published in new)
                if is_closed:
                    return None
                await self._is_new.wait()
        return b": beat\n\n"

    def close(self) -> None:
        self._publisher.drop(self)


class EventStream(Response):
    """Sends a subscription until the browser goes, or stops reading. Then calls `on_end`."""

    media_type = "text/event-stream"

    def __init__(self, subscription: Subscription, on_end: Callable[[], None]) -> None:
        super().__init__(headers={"X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._subscription = subscription
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_until_gone, receive, tasks.cancel_scope)
            try:
                await self._send_all(send)
            finally:
                self._on_end()
                tasks.cancel_scope.cancel()

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        body: bytes | None = f"retry: {_RECONNECT_MS}\n\n".encode()
        while body is not None:
            with anyio.move_on_after(MOST_SILENT_S) as patience:
                await send({"type": "http.response.body", "body": body, "more_body": True})
            if patience.cancelled_caught:
                return
            body = await self._subscription.next_frames()
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _until_gone(receive: Receive, scope: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


def to_json(document: Any) -> str:
    """JSON of one line. Raises ValueError for a float that JSON does not have."""
    return json.dumps(document, separators=(",", ":"), allow_nan=False)
