"""The only way to the server: connections that never repeat a command on their own, and one place that does.

redis-py by default repeats a command whose reply was lost, which runs it twice. Here connections never
retry; `Link.call` does, and everything that goes through it may be repeated safely (docs/protocol.md).
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.connection import HiredisRespSerializer
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import (
    ConnectionError as RedisConnectionError,
)
from redis.exceptions import (
    TimeoutError as RedisTimeoutError,
)
from redis.retry import Retry

from queue_eval.access import Access, safe_url
from queue_eval.errors import ServerRefusedError, ServerUnreachableError
from queue_eval.lua import script

log = logging.getLogger(__name__)

REPLY_TIMEOUT_S = 10.0
"""A reply that takes longer counts as lost."""

CONNECT_TIMEOUT_S = 5.0
"""How long a first connection is tried before the server counts as unreachable."""

TRANSIENT = (RedisConnectionError, RedisTimeoutError, BusyLoadingError, ReadOnlyError, OutOfMemoryError)
"""The server is away, loading, failing over or full: nothing was done, or it may be repeated."""

_TRANSIENT_PREFIXES = ("MISCONF", "NOREPLICAS", "BUSY", "CLUSTERDOWN", "MASTERDOWN", "TRYAGAIN")
"""Replies that redis-py has no class for: no writes are taken for now (full disk, no replica, busy)."""

_REFUSED = (AuthenticationError, NoPermissionError)

T = TypeVar("T")


class _Packer(HiredisRespSerializer):
    """Numbers are rendered here: a signal that arrives while hiredis renders one crashes the process."""

    def pack(self, *args: Any) -> Any:
        packed: Any = [str(a).encode() if isinstance(a, (int, float)) else a for a in args]
        return super().pack(*packed)


class GiveUp(Exception):  # noqa: N818 - a signal, not an error
    """Raised by an `on_wait` hook to end the waiting for the server."""


def is_refusal(error: Exception) -> bool:
    """Whether the server answered, but will not have us (wrong password or rights)."""
    return isinstance(error, _REFUSED) or "WRONGPASS" in str(error) or "NOAUTH" in str(error)


def is_transient(error: Exception) -> bool:
    """Whether the same call may do later, the server being away or taking no writes for now."""
    if isinstance(error, TRANSIENT):
        return True
    return isinstance(error, ResponseError) and str(error).startswith(_TRANSIENT_PREFIXES)


class Link:
    """A line to the server that outlives the server.

    Guarantees: `call` returns a reply, however often the server dies in between, or raises what is not
    transient. Assumes: what is called may be repeated after a lost reply. Safe to use from several threads.
    `on_wait(seconds_away)` is called before each pause while the server is away; it may revive an embedded
    server, or raise GiveUp.
    """

    def __init__(
        self, access: Access, *, name: str, on_wait: Callable[[float], None] | None = None
    ) -> None:
        self.access = access
        self._name = name
        self._on_wait = on_wait
        self.client = self.dedicated(REPLY_TIMEOUT_S)

    def dedicated(self, reply_timeout_s: float) -> Any:
        """A client of its own, as every blocking reader needs one: its socket waits `reply_timeout_s`."""
        tcp: dict[str, Any] = (
            {}
            if self.access.url.startswith("unix:")
            else {"socket_connect_timeout": CONNECT_TIMEOUT_S, "socket_keepalive": True}
        )
        return redis.Redis.from_url(
            self.access.url,
            protocol=2,
            command_packer=_Packer(),
            client_name=self._name,
            socket_timeout=reply_timeout_s,
            **tcp,
            retry=Retry(NoBackoff(), 0),
            retry_on_error=[],
            health_check_interval=0,
        )

    def check(self, timeout_s: float = CONNECT_TIMEOUT_S) -> None:
        """Raise unless the server answers within about `timeout_s` and will not eat the queue.

        Raises ServerUnreachableError (nobody there, wrong password) or ServerRefusedError (it evicts).
        """
        deadline = time.monotonic() + timeout_s
        probe = self.dedicated(timeout_s)  # one that accepts and says nothing is no server either
        while True:
            try:
                config = probe.config_get("maxmemory-policy", "appendonly", "save")
                break
            except RedisError as error:
                if is_refusal(error):
                    if "CONFIG" in str(error).upper() and "WRONGPASS" not in str(error):
                        return  # this user may not read the configuration; doctor says so
                    raise ServerUnreachableError(
                        f"the server at {safe_url(self.access.url)} refuses the password; "
                        "check the URL or the access file"
                    ) from error
                if isinstance(error, ResponseError) and not isinstance(error, TRANSIENT):
                    return  # a server that renames CONFIG away
                if time.monotonic() + 0.2 > deadline or not isinstance(error, BusyLoadingError):
                    raise ServerUnreachableError(
                        f"no server answers at {safe_url(self.access.url)} ({_reason(error)}); "
                        "check the address, or start one with: queue-eval server start"
                    ) from error
                time.sleep(0.1)
        policy = config.get("maxmemory-policy", "noeviction")
        if policy != "noeviction":
            raise ServerRefusedError(
                f"the server at {safe_url(self.access.url)} evicts keys (maxmemory-policy {policy}), which "
                "silently loses jobs; set it with: CONFIG SET maxmemory-policy noeviction"
            )
        if config.get("appendonly") == "no" and not config.get("save"):
            log.warning(
                "the server at %s keeps nothing on disk: its death loses the campaign; "
                "set it with: CONFIG SET appendonly yes",
                safe_url(self.access.url),
            )

    def call(self, operation: Callable[[Any], T]) -> T:
        """The reply of `operation`, repeated until the server has given one."""
        away_since: float | None = None
        pause_s = 0.02
        while True:
            try:
                reply = operation(self.client)
            except RedisError as error:
                if is_refusal(error):
                    raise ServerUnreachableError(
                        f"the server at {safe_url(self.access.url)} refuses us: {_reason(error)}"
                    ) from error
                if not is_transient(error):
                    raise
                now = time.monotonic()
                if away_since is None:
                    away_since = now
                    log.warning("server is away (%s); waiting for it", _reason(error))
                if self._on_wait is not None:
                    self._on_wait(now - away_since)
                # Jitter, so that a fleet does not come back in one instant.
                time.sleep(pause_s * random.uniform(0.5, 1.0))
                pause_s = min(2 * pause_s, 2.0)
            except BaseException:
                # Interrupted (Ctrl-C), maybe between a command and its reply, which must answer no other.
                self.client.connection_pool.disconnect()
                raise
            else:
                if away_since is not None:
                    log.warning("server is back after %.1f s", time.monotonic() - away_since)
                return reply

    def run_script(self, name: str, keys: Iterable[str], *arguments: Any) -> Any:
        """The reply of the script `name` (raw: bytes, ints, lists)."""
        chosen = script(name)
        keys = tuple(keys)

        def operation(client: Any) -> Any:
            try:
                return client.evalsha(chosen.sha, len(keys), *keys, *arguments)
            except NoScriptError:  # a restart or failover forgets scripts; nothing has run yet
                return client.eval(chosen.source, len(keys), *keys, *arguments)

        return self.call(operation)

    def close(self) -> None:
        self.client.close()


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
