"""The only way to the server: a link that repeats calls until there is a reply, over clients that never do.

redis-py by default repeats a command whose reply was lost, which runs it twice. Here the clients never retry
(`clients`). `Link.call` does, and all that goes through it may be repeated safely (docs/protocol.md).
`error_kinds` judges what an error means.

A server may come back at another address, with another password or certificate. So a link that was made from
an access file reads the file again before every new try, and follows it.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from redis.exceptions import BusyLoadingError

from queue_eval import failpoints
from queue_eval.backoff import Backoff
from queue_eval.errors import DamagedError, NodeAwayError, ServerRefusedError, ServerUnreachableError
from queue_eval.foreign_text import plain
from queue_eval.transport.access import Access, renewed, safe_url
from queue_eval.transport.clients import (
    CONNECT_TIMEOUT_S,
    NodeLine,
    answering,
    drop_connections,
    drop_idle_connections,
    is_cluster,
    line_to,
    new_client,
    node_of,
)
from queue_eval.transport.error_kinds import (
    REDIS_ERRORS,
    hindrance,
    is_barred,
    is_connection_loss,
    is_cut_off,
    is_damage,
    is_refusal,
    is_scriptless,
    is_transient,
    is_unknown_command,
    reason,
    remedy,
)
from queue_eval.transport.nodes import PACE_S, NodeAway
from queue_eval.transport.outage import Outage
from queue_eval.transport.proxies import hidden_command
from queue_eval.transport.script import Script
from queue_eval.transport.script_calls import KeyCommand, ScriptCall, ask_each, run_each, run_one
from queue_eval.transport.urls import parse_url

log = plain(logging.getLogger(__name__))

REPLY_TIMEOUT_S = 10.0
"""How long a reply may take before it counts as lost."""

REFUSED_PATIENCE_S = 120.0
"""How long a server is asked again that has served us and now refuses us. It may have come back with a new
access file, which a shared folder shows after up to a minute."""

FULL_PATIENCE_S = 4.0
"""How much longer `check` waits when all connections are taken. The watcher of an embedded server drops
clients that show no password."""

_CHECK_PAUSE_S = 0.1
"""How long `check` waits between two tries."""

_CHECK_LEAST_S = 0.2
"""What `check` needs for another try: a pause, and as long for the reply."""

_FULL = "max number of clients"

SCRIPTS_AT_ONCE = 200
"""How many scripts are sent before their replies are read."""

TRIES_OF_A_NODE = 3
"""How often a call on a cluster tries before it skips a node that loses its connections. All failed tries of
the call count."""

SCRIPTS_REMEDY = "load its Lua module (loadmodule in its configuration), or use a server that has it"

T = TypeVar("T")


class Link:
    """A connection to the server that outlives the server.

    Guarantees: `call` returns a reply, however often the server dies in between, or raises an error that is
    not transient. Safe to use from several threads.
    Assumes: every call may be repeated after a lost reply.

    `on_wait(seconds_away)` is called before each pause while the server is away; it may revive an embedded
    server, or raise GiveUp. `on_unusable(error)` is called before `error` is raised for a server that keeps
    refusing us; it may raise GiveUp instead.
    `outage`: the outage of another link to the same server, which writes to the log for both.
    `pace_s`: the longest pause between two tries, unless `outage` has one.
    A reply that takes longer than `reply_timeout_s` (else REPLY_TIMEOUT_S) counts as lost.

    `skips_nodes`: on a cluster, a call raises NodeAwayError if its node is away or cannot work for now, and
    another node answers. Else the call waits for that node, too. Its command may have run nevertheless.
    """

    def __init__(
        self, access: Access, *, name: str, on_wait: Callable[[float], None] | None = None,
        outage: Outage | None = None, reply_timeout_s: float | None = None,
        on_unusable: Callable[[ServerUnreachableError], None] | None = None, skips_nodes: bool = False,
        pace_s: float = PACE_S,
    ) -> None:  # fmt: skip
        self.access = access
        self._reply_timeout_s = REPLY_TIMEOUT_S if reply_timeout_s is None else reply_timeout_s
        self.outage = outage or Outage(log, pace_s)
        self._name = name
        self._on_wait = on_wait
        self._on_unusable = on_unusable
        self._lock = threading.Lock()
        self._client: Any = None
        self._skips_nodes = skips_nodes
        self._skipping = threading.local()
        self.epoch = 0
        """Incremented on every reconnect or error. If it changed since you last looked, the server may have
        rolled back acknowledged writes."""

    @property
    def client(self) -> Any:
        """The client that all calls share, for the newest access. A cluster is asked for its layout first."""
        with self._lock:
            if self._client is None:
                self._client = self.dedicated(self._reply_timeout_s)
            return self._client

    @property
    def is_cluster(self) -> bool:
        """Whether the server is a cluster, where one command must not name keys of two campaigns."""
        return parse_url(self.access.url).kind == "cluster"

    def dedicated(self, reply_timeout_s: float) -> Any:
        """A new client that is not shared, as blocking readers need. Its sockets wait `reply_timeout_s`."""
        return new_client(
            self.access, name=self._name, reply_timeout_s=reply_timeout_s, on_connected=self._begin_epoch,
            nodes=self.outage.nodes,
        )  # fmt: skip

    @contextmanager
    def skipping_nodes(self) -> Iterator[None]:
        """Within, this thread waits for no node of a cluster while others answer: see `skips_nodes`."""
        before = getattr(self._skipping, "on", False)
        self._skipping.on = True
        try:
            yield
        finally:
            self._skipping.on = before

    def check(self, timeout_s: float = CONNECT_TIMEOUT_S) -> None:
        """Raise unless the server answers within about `timeout_s` and is set up so that it loses no jobs.

        Waits for FULL_PATIENCE_S more when all its connections are taken.

        Raises ServerUnreachableError (no answer, a wrong password, a certificate that cannot be trusted) or
        ServerRefusedError (it evicts keys, runs no scripts, or is behind a proxy that hides commands).
        """
        deadline = time.monotonic() + timeout_s
        probe: Any = None  # its short timeout also ends a wait for a peer that accepts and never replies
        while True:
            try:
                if probe is None:
                    probe = self.dedicated(timeout_s)
                scriptless = why_scriptless(probe)
                settings = read_settings(probe, only_answering=True)
                hidden = None if is_cluster(probe) else hidden_command(probe, "XREAD")
                break
            except REDIS_ERRORS as error:
                if is_refusal(error):
                    raise self._unusable(error) from error
                if is_barred(error):
                    settings, hidden = {}, None  # this user has no right to ask; `doctor` reports that
                    break
                is_odd = is_cut_off(error) or is_unknown_command(error)
                if is_odd and (hidden := self._hidden_command(timeout_s)) is not None:
                    raise self._behind_proxy(hidden) from error
                if self._may_be_full(error):
                    last_try_at = deadline + FULL_PATIENCE_S - _CHECK_LEAST_S
                elif isinstance(error, BusyLoadingError):
                    last_try_at = deadline - _CHECK_LEAST_S
                else:
                    last_try_at = -math.inf  # this does not pass by itself
                if time.monotonic() > last_try_at:
                    if (why := hindrance(error)) is not None:
                        raise ServerUnreachableError(
                            f"the server at {safe_url(self.access.url)} does nothing for now ({why})"
                        ) from error
                    raise ServerUnreachableError(
                        f"no server answers at {safe_url(self.access.url)} ({reason(error)}); "
                        f"{self._hint(error)}"
                    ) from error
                time.sleep(_CHECK_PAUSE_S)
        if scriptless is not None:
            raise self._scriptless(scriptless)
        if hidden is not None:
            raise self._behind_proxy(hidden)
        self.outage.has_served = True
        where = safe_url(self.access.url)
        for node, values in settings.items():
            policy = values.get("maxmemory-policy", "noeviction")
            if policy != "noeviction":
                raise ServerRefusedError(
                    f"the server at {where} evicts keys{_on(node)} (maxmemory-policy {policy}), which "
                    "silently loses jobs; set it with: CONFIG SET maxmemory-policy noeviction"
                )
        without_log = [node for node, values in settings.items() if values.get("appendonly") == "no"]
        if without_log and (nodes := self._saving_nothing(probe) & set(without_log)):
            log.warning(
                "the server at %s keeps nothing on disk%s: its death loses the campaign; "
                "set it with: CONFIG SET appendonly yes",
                where, _on(", ".join(sorted(nodes))),
            )  # fmt: skip

    def call(self, operation: Callable[[Any], T]) -> T:
        """The reply of `operation`, repeated until the server has given one.

        Raises:

        - ServerUnreachableError when the server refuses us: at once, or after REFUSED_PATIENCE_S if it has
          served us before and there is an access file that may be replaced;
        - ServerRefusedError when this user has no right to the operation, or the server runs no scripts;
        - DamagedError when a key holds what we have not written;
        - NodeAwayError, see `skips_nodes`.
        """
        tries = 0
        away_since: float | None = None
        refused_since: float | None = None
        backoff = Backoff(0.02, self.outage.pace_s, jitter=0.5)
        while True:
            client: Any = None
            try:
                client = self.client
                failpoints.reach("server.before-call")
                reply = operation(client)
                failpoints.reach("server.after-call")
            except REDIS_ERRORS as error:
                now = time.monotonic()
                if is_barred(error):
                    raise self._not_allowed(error) from error
                if is_refusal(error):
                    refused_since = now if refused_since is None else refused_since
                    patience_s = REFUSED_PATIENCE_S if self.outage.has_served and self.access.file else 0.0
                    if not self._renew() and now - refused_since >= patience_s:
                        unusable = self._unusable(error)
                        if self._on_unusable is not None:
                            self._on_unusable(unusable)
                        raise unusable from error
                elif is_transient(error):
                    refused_since = None
                    self._renew()
                    tries += 1
                    if client is not None and not isinstance(error, NodeAway):
                        # Idle connections may be dead, too. Each would take another timeout to show it.
                        drop_idle_connections(client)
                    if self._is_to_skip(client, error, tries):
                        raise _away(error) from error
                elif is_damage(error):
                    raise damaged(reason(error)) from error
                elif is_scriptless(error):
                    raise self._scriptless(reason(error)) from error
                elif is_unknown_command(error):
                    raise self._behind_proxy(f"a command of ours ({reason(error)})") from error
                else:
                    raise
                away_since = now if away_since is None else away_since
                self._begin_epoch()
                self.outage.begin(error)
                if self._on_wait is not None:
                    self._on_wait(now - away_since)
                time.sleep(backoff.next_s())
            except BaseException:
                # Interrupted (Ctrl-C), maybe between a command and its reply. That reply must not answer
                # another command.
                if client is not None:
                    drop_connections(client)
                raise
            else:
                self.outage.has_served = True
                if away_since is not None:
                    self.outage.end()
                return reply

    def wait_until_back(self, error: BaseException, key: str | None = None) -> None:
        """After an error of a dedicated client, wait until the server is back.

        On a cluster, wait for the node that holds `key`.
        Raises `error`, or DamagedError for it, when waiting cannot help.
        """
        if not (is_transient(error) or is_refusal(error)):
            raise damaged(reason(error)) if is_damage(error) else error
        self._begin_epoch()
        self.call(lambda client: client.ping(**({} if key is None else node_of(client, key))))

    def run_script(self, script: Script, keys: Iterable[str], *arguments: Any) -> Any:
        """The reply of a script (raw: bytes, ints, lists)."""
        call = (tuple(keys), arguments)
        failpoints.reach(f"server.before-{script.name}")
        reply = self.call(lambda client: run_one(client, script, call))
        failpoints.reach(f"server.after-{script.name}")
        return reply

    def run_scripts(self, script: Script, calls: Sequence[ScriptCall]) -> list[Any]:
        """The replies of a script for many campaigns, at the cost of one call. `calls`: keys and arguments of
        each.

        A call that fails alone has its error in place of the reply. On a cluster, so do calls to a node that
        is away, with NodeAwayError; they do not delay the others.
        """
        failpoints.reach(f"server.before-{script.name}")
        replies: list[Any] = []
        for first in range(0, len(calls), SCRIPTS_AT_ONCE):
            page = calls[first : first + SCRIPTS_AT_ONCE]
            replies += self._each(partial(run_each, script=script, calls=page), len(page))
        failpoints.reach(f"server.after-{script.name}")
        return [
            damaged(reason(reply)) if isinstance(reply, Exception) and is_damage(reply) else reply
            for reply in replies
        ]

    def ask_each(self, commands: Sequence[KeyCommand]) -> list[Any]:
        """The same for plain commands, each on keys of one slot.

        Where this user has no right to a command, ServerRefusedError stands in place of its reply.
        """
        if not commands:
            return []
        replies = self._each(partial(ask_each, commands=commands), len(commands))
        return [
            self._not_allowed(reply) if isinstance(reply, Exception) and is_barred(reply) else reply
            for reply in replies
        ]

    def _each(self, operation: Callable[[Any], list[Any]], count: int) -> list[Any]:
        try:
            replies = self.call(operation)
        except NodeAwayError as error:  # all of them lie on nodes that are away
            return [error] * count
        return [
            _away(reply) if isinstance(reply, REDIS_ERRORS) and is_transient(reply) else reply
            for reply in replies
        ]

    def line_to(self, key: str, idle: dict[str, list[NodeLine]]) -> NodeLine | None:
        """A connection to the node that holds `key` (see `clients.line_to`). None while the node is away."""
        try:
            return self.call(partial(line_to, key=key, idle=idle))
        except NodeAwayError:
            return None

    def interrupt(self) -> None:
        """Close the shared connections. A thread that waits for a reply gets an error, and its call tries
        again."""
        with self._lock:
            if self._client is not None:
                drop_connections(self._client)

    def close(self) -> None:
        with self._lock:
            if self._client is not None:
                self._client.close()
                self._client = None

    def _is_to_skip(self, client: Any, error: Exception, tries: int) -> bool:
        """Whether to raise this error of a node instead of waiting for the node, because others answer."""
        skips = self._skips_nodes or getattr(self._skipping, "on", False)
        if not skips or client is None or not is_cluster(client):
            return False
        # Perhaps only the connection is lost: the next try asks whether the node is there.
        if is_connection_loss(error) and tries < TRIES_OF_A_NODE:
            return False
        return any(True for _ in answering(client))

    def _begin_epoch(self) -> None:
        # Without a lock, two increments at once may count as one. The epoch has changed all the same.
        self.epoch += 1

    def _hidden_command(self, timeout_s: float) -> str | None:
        """A command of ours that something hides between us and the server, with the reason; else None."""
        if self.is_cluster:
            return None
        client = new_client(self.access, name=None, reply_timeout_s=timeout_s)
        try:
            return hidden_command(client)
        finally:
            client.close()

    def _saving_nothing(self, probe: Any) -> set[str]:
        try:
            return {node for node, values in read_configuration(probe).items() if values.get("save") == ""}
        except REDIS_ERRORS:  # this user has no right to CONFIG
            return set()

    def _renew(self) -> bool:
        """Read the access file again. Returns whether it names another server, or another way to it."""
        with self._lock:
            fresh = renewed(self.access)
            if fresh is None:
                return False
            before, self.access = self.access, fresh
            if fresh == before:
                return False
            # Not closed here: another thread may be about to use it. It is freed after its last use.
            self._client = None
        log.warning("the access file %s has changed: %s", fresh.file, safe_url(fresh.url))
        return True

    def _unusable(self, error: BaseException) -> ServerUnreachableError:
        where = safe_url(self.access.url)
        return ServerUnreachableError(
            f"the server at {where} cannot be used: {reason(error)}; {remedy(error)}"
        )

    def _not_allowed(self, error: BaseException) -> ServerRefusedError:
        whose = "the worker's access file" if self.access.role == "worker" else "this user"
        return ServerRefusedError(
            f"the server at {safe_url(self.access.url)} does not allow this to {whose} ({reason(error)}); "
            "use the driver's access file, or see docs/security.md"
        )

    def _scriptless(self, why: str) -> ServerRefusedError:
        return ServerRefusedError(
            f"the server at {safe_url(self.access.url)} runs no Lua scripts ({why}); {SCRIPTS_REMEDY}"
        )

    def _behind_proxy(self, what: str) -> ServerRefusedError:
        return ServerRefusedError(
            f"what answers at {safe_url(self.access.url)} does not know {what}, like a proxy that passes on "
            "only some commands (twemproxy, Envoy); give the URL of the server itself"
        )

    def _may_be_full(self, error: BaseException) -> bool:
        """Whether all connections of the server may be taken.

        With TLS, or on a socket, the server may close the connection before it can say so.
        """
        words, url = str(error), self.access.url
        if url.startswith("rediss:"):
            return "UNEXPECTED_EOF" in words
        return _FULL in words or (url.startswith("unix:") and "Broken pipe" in words)

    def _hint(self, error: BaseException) -> str:
        words = reason(error).lower()
        if self.access.url.startswith("redis:") and ("closed by server" in words or "reset by peer" in words):
            return "if it speaks TLS only, its URL begins with rediss://"
        if self.access.url.startswith("rediss:") and "timeout" in words:
            return "check the address; if it does not speak TLS, its URL begins with redis://"
        if self._may_be_full(error):
            are = "are" if _FULL in words else "may be"
            return (
                f"its connections {are} all taken: close some, or raise its maxclients; the server of a home "
                "drops those that show no password within seconds"
            )
        return "check the address, or start one with: queue-eval server start"


class BlockingClient:
    """The client of one blocking reader. It is made when needed, and again when the link has a new access."""

    def __init__(self, link: Link, reply_timeout_s: float) -> None:
        self._link = link
        self._reply_timeout_s = reply_timeout_s
        self._access: Access | None = None
        self._client: Any = None

    def get(self) -> Any:
        if self._client is not None and self._access != self._link.access:
            self.close()
        if self._client is None:
            self._access = self._link.access
            self._client = self._link.dedicated(self._reply_timeout_s)
        return self._client

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None


def _away(error: Exception) -> NodeAwayError:
    return NodeAwayError(f"{reason(error)}; it is asked again in a while")


def damaged(what: str) -> DamagedError:
    return DamagedError(
        f"what the server holds is damaged ({what}): something else has written to the keys qe:*; "
        "restore it from a backup, or purge the campaign"
    )


def why_scriptless(client: Any) -> str | None:
    """Why the server runs no Lua scripts; None when it does, or when this user has no right to ask."""
    node = next(answering(client), None) if is_cluster(client) else None
    server = client if node is None else client.get_redis_connection(node)
    try:
        server.eval("return 1", 0)
    except REDIS_ERRORS as error:
        if is_scriptless(error):
            return reason(error)
        if not is_barred(error):
            raise
    return None


def read_settings(client: Any, *, only_answering: bool = False) -> dict[str, dict[str, str]]:
    """Node -> its memory policy and persistence as INFO shows them, named as in the configuration.

    INFO is used because a user with few rights has none to CONFIG. `only_answering`: leave out nodes of a
    cluster that are away.
    """
    found = {}
    for node, where in nodes_of(client, only_answering=only_answering):
        memory, persistence = client.info("memory", **where), client.info("persistence", **where)
        found[node] = {"appendonly": "yes" if persistence.get("aof_enabled") else "no"}
        if "maxmemory_policy" in memory:
            found[node]["maxmemory-policy"] = str(memory["maxmemory_policy"])
    return found


def read_configuration(client: Any) -> dict[str, dict[str, str]]:
    """Node -> its memory policy and persistence in full. Raises redis-py's errors where CONFIG is barred or
    renamed."""
    found: dict[str, dict[str, str]] = {}
    for node, where in nodes_of(client):
        # One name in each call: several at once need Redis 7.
        for name in ("maxmemory-policy", "appendonly", "appendfsync", "save"):
            values = client.config_get(name, **where)
            found.setdefault(node, {}).update({_word(key): _word(value) for key, value in values.items()})
    return found


def nodes_of(client: Any, *, only_answering: bool = False) -> list[tuple[str, dict[str, Any]]]:
    """Each server that holds data: its name ("" when there is only one), and arguments that address it."""
    if not is_cluster(client):
        return [("", {})]
    nodes = answering(client) if only_answering else client.get_primaries()
    return [(node.name, {"target_nodes": node}) for node in nodes]


def _on(nodes: str) -> str:
    return f" on {nodes}" if nodes else ""


def _word(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
