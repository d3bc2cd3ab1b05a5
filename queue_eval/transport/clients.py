"""Makes redis-py clients for every kind of server URL. None of them ever repeats a command on its own.

A command whose reply was lost may have run. One place decides what is sent again (`Link.call`), so here
retries are off at every level. Redirections of a cluster (MOVED, ASK) are followed, because the redirected
command has not run.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from inspect import signature
from typing import Any

import hiredis
import redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, NodesManager, RedisCluster
from redis.connection import (
    Connection,
    ConnectionPool,
    HiredisRespSerializer,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.connection import parse_url as parse_plain_url
from redis.exceptions import AuthenticationError, RedisClusterException
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry
from redis.sentinel import (
    MasterNotFoundError,
    Sentinel,
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)

from queue_eval.errors import UsageError
from queue_eval.foreign_text import plain, printable
from queue_eval.transport.access import Access
from queue_eval.transport.error_kinds import DistrustError
from queue_eval.transport.nodes import NodeAway, Nodes
from queue_eval.transport.peers import check_named_peer
from queue_eval.transport.urls import ServerUrl, parse_url, safe_url
from queue_eval.transport.wire import ForeignPeerError, check_peer, short_path

log = plain(logging.getLogger(__name__))

CONNECT_TIMEOUT_S = 5.0
"""How long an attempt to connect may take before the server counts as unreachable."""

_REDIRECTIONS_BEFORE_LAYOUT = 1
"""After how many redirections of a cluster its layout is read again."""

_ANY_NODE_COMMANDS = ("COMMAND", "TIME")
"""Commands that any node of a cluster may answer. redis-py asks the first node only."""

_ASKS_FAILED_LAST = "last_failed_node_name" in signature(NodesManager.initialize).parameters
"""Whether this version of redis-py can read the layout without waiting for the node that has just failed."""

_LARGE_BYTES = 2**15
"""Arguments from this size on are sent without a copy: hiredis copies them several times, at 2 ms per MB."""


class Packer(HiredisRespSerializer):
    """Packs commands for the wire.

    It renders numbers itself, because a signal that arrives while hiredis renders one crashes the process.
    """

    def pack(self, *args: Any) -> Any:
        name = args[0]
        if " " in name if isinstance(name, str) else b" " in name:
            return super().pack(*args)  # a command of two words, such as CONFIG GET
        # Not left to redis-py's serializer, which checks each argument again for types that ours never have.
        packed: Any = tuple([str(a).encode() if isinstance(a, (int, float)) else a for a in args])
        if max(map(len, packed)) >= _LARGE_BYTES:
            return _in_pieces(packed)
        return [hiredis.pack_command(packed)]


def _in_pieces(arguments: Sequence[str | bytes]) -> list[bytes]:
    """A command in RESP. Each large argument is a piece of its own."""
    pieces: list[bytes] = []
    between = bytearray(b"*%d\r\n" % len(arguments))
    for argument in arguments:
        data = argument.encode() if isinstance(argument, str) else argument
        between += b"$%d\r\n" % len(data)
        if len(data) >= _LARGE_BYTES:
            pieces += (bytes(between), data)
            between.clear()
        else:
            between += data
        between += b"\r\n"
    return [*pieces, bytes(between)]


class _Packing:
    """A connection that uses our `Packer`.

    The class sets the packer, because redis-py's cluster client does not pass one on.
    """

    def __init__(self, *, on_connected: Callable[[], None] | None = None, **keywords: Any) -> None:
        super().__init__(**{**keywords, "command_packer": Packer()})
        self._on_connected = on_connected
        # The name and version of redis-py are not sent. That saves two commands, to which a user would need
        # a right. They are set as attributes, because the arguments' names differ between its versions.
        for name in ("driver_info", "lib_name", "lib_version"):
            setattr(self, name, None)

    def _connect(self) -> Any:
        line = super()._connect()  # type: ignore[misc]  # of the connection that this is mixed into
        if self._on_connected is not None:
            self._on_connected()
        return line

    def read_response(self, *arguments: Any, **keywords: Any) -> Any:
        try:
            return super().read_response(*arguments, **keywords)  # type: ignore[misc]  # as above
        except redis.ResponseError as error:
            # Made printable here, because Python shows this error as it is where nobody catches it, and as
            # the cause of another error.
            error.args = tuple(printable(arg) if isinstance(arg, str) else arg for arg in error.args)
            raise


class _Tcp(_Packing, Connection):
    pass


class _Tls(_Packing, SSLConnection):
    pass


class _Unix(_Packing, UnixDomainSocketConnection):
    """Sends nothing before it has checked who listens.

    `is_named`: whether the user named the socket; else it is that of a home.
    """

    def __init__(self, *, is_named: bool = False, **keywords: Any) -> None:
        super().__init__(**keywords)
        self._check_peer = check_named_peer if is_named else check_peer

    def _connect(self) -> Any:
        path = self.path
        with short_path(path) as short:
            self.path = short
            try:
                line = super()._connect()
            finally:
                self.path = path  # error messages show it
        try:
            self._check_peer(line, path)
        except BaseException as error:
            line.close()
            if isinstance(error, ForeignPeerError):
                raise DistrustError(str(error)) from error
            raise
        return line


class _PrimaryTcp(_Packing, SentinelManagedConnection):
    pass


class _PrimaryTls(_Packing, SentinelManagedSSLConnection):
    pass


class _Sentinel(Sentinel):
    """Raises a short error when there is no primary: redis-py's own prints all its connections."""

    def discover_master(self, service_name: str) -> Any:
        try:
            return super().discover_master(service_name)
        except MasterNotFoundError:
            pass
        refusal: Exception | None = None
        for sentinel in self.sentinels:
            try:
                sentinel.ping()
            except redis.RedisError as error:
                refusal = error
            else:
                refusal = None
                break
        # If no sentinel answers, the last one's error says why: nobody there, a wrong password, no trust.
        raise refusal or MasterNotFoundError(f"no sentinel knows a primary of {service_name!r} for now")


def new_client(
    access: Access, *, name: str | None, reply_timeout_s: float,
    on_connected: Callable[[], None] | None = None, nodes: Nodes | None = None,
) -> Any:  # fmt: skip
    """A client of the server of `access`; its sockets wait `reply_timeout_s` for a reply.

    `name` is shown in the server's list of clients; with None it has no name there. `on_connected` is called
    after each new connection, except for those of a cluster. `nodes`: which nodes of the cluster are away, as
    shared with other clients.

    Asks a cluster for its layout, and sends nothing to other servers. Raises UsageError for options that make
    no sense, and errors of redis-py when no node of a cluster answers.
    """
    url = parse_url(access.url)
    try:
        settings: dict[str, Any] = parse_plain_url(url.base)
    except ValueError as error:
        # Raised without its cause, which may show a secret value.
        raise UsageError(f"the options of {safe_url(access.url)} make no sense: {error}") from None
    for replaced in ("connection_class", "host", "port"):
        settings.pop(replaced, None)
    if url.is_encrypted:
        settings.setdefault("ssl_check_hostname", True)
        if access.ca is not None:
            settings["ssl_ca_data"] = access.ca
    settings |= {
        "protocol": 2,
        "client_name": name,
        "socket_timeout": reply_timeout_s,
        "health_check_interval": 0,
        "on_connected": on_connected,
        "nodes": nodes,
    }
    if url.is_local:
        settings["is_named"] = access.home is None
    else:
        settings |= {"socket_connect_timeout": CONNECT_TIMEOUT_S, "socket_keepalive": True}
    try:
        return _MAKERS[url.kind](url, settings)
    except (TypeError, ValueError) as error:
        raise UsageError(f"the options of {safe_url(access.url)} make no sense: {error}") from error


def drop_connections(client: Any) -> None:
    """Close the connections of a client. It makes new ones when it is used again."""
    if isinstance(client, RedisCluster):
        client.disconnect_connection_pools()
    else:
        client.connection_pool.disconnect()


def drop_idle_connections(client: Any) -> None:
    """Close the connections of a client that are not in use."""
    clients = [client]
    if isinstance(client, RedisCluster):
        clients = [node.redis_connection for node in client.get_nodes() if node.redis_connection is not None]
    for each in clients:
        each.connection_pool.disconnect(inuse_connections=False)


def certificate_end(client: Any) -> float | None:
    """When the certificate of the server expires (seconds since 1970); None without TLS."""
    if isinstance(client, RedisCluster):
        client = client.get_redis_connection(client.get_default_node())
    pool = client.connection_pool
    connection = pool.get_connection()
    try:
        connection.connect()
        line = connection._sock  # redis-py has no public name for it
        if not isinstance(line, ssl.SSLSocket):
            return None
        end = (line.getpeercert() or {}).get("notAfter")
        return ssl.cert_time_to_seconds(end) if isinstance(end, str) else None
    finally:
        pool.release(connection)


def is_cluster(client: Any) -> bool:
    return isinstance(client, RedisCluster)


def read_layout(client: Any, failed: str | None = None) -> None:
    """Have the client of a cluster ask again which node holds which slot.

    The old layout stays when no node answers. `failed`: the node to ask last.
    """
    client.read_layout(failed)


def node_of(client: Any, key: str) -> dict[str, Any]:
    """Arguments that send a command without keys to the node that holds this key."""
    return {"target_nodes": client.get_node_from_key(key)} if is_cluster(client) else {}


def answering(client: Any) -> Iterator[ClusterNode]:
    """The nodes of a cluster that answer a PING just now. Those that are not suspected come first."""
    for node in sorted(client.get_primaries(), key=lambda node: client.nodes.is_suspected(node.name)):
        if client.is_answering(node, anew=True):
            yield node


class _Cluster(RedisCluster):
    """Fails at once when a node is known to be away, and suspects a node whose connection fails."""

    def __init__(self, *, nodes: Nodes, **settings: Any) -> None:
        self.nodes = nodes
        super().__init__(**settings)

    def look_at(self, node: ClusterNode) -> None:
        """Raise NodeAway if the node is away. Other errors of it are raised as they are."""
        self.nodes.check(node.name, lambda: self._probe(node))

    def is_answering(self, node: ClusterNode, *, anew: bool = False) -> bool:
        """Whether the node answers. `anew`: send a PING also when it is not suspected."""
        if anew:
            self.nodes.suspect(node.name)
        try:
            self.look_at(node)
        except NodeAway:
            return False
        return True

    def read_layout(self, failed: str | None = None) -> None:
        failed = failed or next((n.name for n in self.get_nodes() if self.nodes.is_suspected(n.name)), None)
        with suppress(redis.RedisError, RedisClusterException):
            if failed is not None and _ASKS_FAILED_LAST:
                self.nodes_manager.initialize(last_failed_node_name=failed)
            else:
                self.nodes_manager.initialize()

    def line_to(self, node: ClusterNode) -> Any:
        """A new connection to the node, with the short timeouts of `Nodes`."""
        pool = self.get_redis_connection(node).connection_pool
        return pool.connection_class(**(pool.connection_kwargs | self.nodes.timeouts))

    def _probe(self, node: ClusterNode) -> None:
        line = self.line_to(node)
        try:
            line.connect()
            line.send_command("PING")
            line.read_response()
        except (RedisConnectionError, RedisTimeoutError):
            self.read_layout(node.name)  # another node may have taken its place
            raise
        finally:
            line.disconnect()

    def determine_slot(self, *words: Any) -> int | None:
        # For XREAD, redis-py would ask the first node each time which of the words are keys.
        if words[0] == "XREAD":
            return int(self.keyslot(words[words.index(b"STREAMS") + 1]))
        slot: int | None = super().determine_slot(*words)
        return slot

    def _execute_command(self, target_node: ClusterNode, *words: Any, **options: Any) -> Any:
        places = [target_node]
        if words[0] in _ANY_NODE_COMMANDS:
            places += [node for node in self.get_primaries() if node.name != target_node.name]
        for place in places[:-1]:
            with suppress(NodeAway, RedisConnectionError, RedisTimeoutError):
                return self._ask(place, *words, **options)
        return self._ask(places[-1], *words, **options)

    def _ask(self, node: ClusterNode, *words: Any, **options: Any) -> Any:
        self.look_at(node)
        try:
            return super()._execute_command(node, *words, **options)
        except (RedisConnectionError, RedisTimeoutError):
            self.nodes.suspect(node.name)
            raise


class NodeLine:
    """A connection to the node that holds a key, for one blocking command at a time.

    It has a `fileno`, so that `select` can wait for it.
    """

    def __init__(self, client: Any, node: ClusterNode) -> None:
        self.node: str = node.name
        self._client = client
        self._line = client.line_to(node)
        try:
            self._line.connect()
        except (RedisConnectionError, RedisTimeoutError):
            client.nodes.suspect(self.node)
            raise

    def fileno(self) -> int:
        return int(self._line._sock.fileno())  # redis-py has no public name for it

    def send(self, *words: Any) -> bool:
        """Send a command. Returns whether it could be sent; else the connection is closed."""
        try:
            self._line.send_command(*words)
        except (RedisConnectionError, RedisTimeoutError):
            self.fail()
            return False
        return True

    def read(self) -> Any:
        """The reply, or an error in its place. Call it when there is something to read."""
        try:
            return self._line.read_response()
        except (RedisConnectionError, RedisTimeoutError) as error:
            self.fail()
            return error
        except redis.RedisError as error:
            self._client.read_layout()  # the key may have moved to another node
            return error

    def fail(self) -> None:
        """Close the connection and suspect its node, because no reply comes."""
        self._client.nodes.suspect(self.node)
        self.close()

    def close(self) -> None:
        self._line.disconnect()


def line_to(client: Any, key: str, idle: dict[str, list[NodeLine]]) -> NodeLine:
    """A connection to the node that holds this key: an idle one, or a new one.

    `idle`: name of a node -> its connections that nobody uses.
    """
    node = client.get_node_from_key(key)
    client.look_at(node)
    lines = idle.get(node.name)
    return lines.pop() if lines else NodeLine(client, node)


def _single(url: ServerUrl, settings: dict[str, Any]) -> Any:
    settings.pop("nodes")
    if url.is_local:
        kind: type[Any] = _Unix
    else:
        kind = _Tls if url.is_encrypted else _Tcp
        settings["host"], settings["port"] = url.nodes[0]
    settings |= {"retry": _never(), "retry_on_error": []}
    sentinel_only = ("sentinel_username", "sentinel_password")
    settings = {name: value for name, value in settings.items() if name not in sentinel_only}
    kind(**settings)  # made only to check the settings: it refuses those that it does not know
    return redis.Redis.from_pool(ConnectionPool(connection_class=kind, **settings))


def _primary(url: ServerUrl, settings: dict[str, Any]) -> Any:
    settings.pop("nodes")
    username, password = settings.pop("sentinel_username", None), settings.pop("sentinel_password", None)
    for_sentinels = {
        name: value for name, value in settings.items() if name.startswith(("ssl_", "socket_", "protocol"))
    } | {"username": username, "password": password, "ssl": url.is_encrypted, "retry": _never()}
    # A sentinel answers at once. So after a short time the next one is asked.
    for_sentinels["socket_timeout"] = CONNECT_TIMEOUT_S
    sentinel = _Sentinel(url.nodes, sentinel_kwargs=for_sentinels)
    for each in sentinel.sentinels:
        each.connection_pool.connection_class = _Tls if url.is_encrypted else _Tcp
    return redis.Redis.from_pool(
        SentinelConnectionPool(
            url.service, sentinel, connection_class=_PrimaryTls if url.is_encrypted else _PrimaryTcp,
            retry=_never(), retry_on_error=[], **settings,
        )
    )  # fmt: skip


def _cluster(url: ServerUrl, settings: dict[str, Any]) -> Any:
    settings.pop("db", None)
    settings.pop("health_check_interval")
    settings.pop("on_connected")
    nodes = settings.pop("nodes") or Nodes(log)
    kind = _Tls if url.is_encrypted else _Tcp
    (host, port), *more = _first_to_ask(url, kind, settings, nodes)
    return _Cluster(
        nodes=nodes,
        # Given as a URL, because redis-py takes a class for the connections only then.
        url=f"redis://{f'[{host}]' if ':' in host else host}:{port}",
        startup_nodes=[ClusterNode(*node) for node in more], connection_class=kind,
        retry=_never(), reinitialize_steps=_REDIRECTIONS_BEFORE_LAYOUT, **settings,
    )  # fmt: skip


def _first_to_ask(
    url: ServerUrl, kind: type[Any], settings: dict[str, Any], nodes: Nodes
) -> Sequence[tuple[str, int]]:
    """The first node that answers; all nodes, if none does.

    redis-py finds the other nodes through it. It would wait for a silent node as long as for a reply.
    """
    quick = nodes.timeouts | {"retry": _never()}
    for host, port in sorted(url.nodes, key=lambda node: nodes.is_suspected(f"{node[0]}:{node[1]}")):
        line = kind(host=host, port=port, **(settings | quick))
        try:
            line.connect()
            line.send_command("PING")
            line.read_response()
        except AuthenticationError:
            pass  # the node is there
        except (RedisConnectionError, RedisTimeoutError):
            continue
        except redis.RedisError:
            pass
        finally:
            line.disconnect()
        return [(host, port)]
    return url.nodes


_MAKERS = {"single": _single, "sentinel": _primary, "cluster": _cluster}


def _never() -> Any:
    return Retry(NoBackoff(), 0)
