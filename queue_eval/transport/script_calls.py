"""Sends scripts and commands: one call, or many, each to the server of its key, at the cost of one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from redis.exceptions import AskError, NoScriptError, TryAgainError

from queue_eval.transport.clients import is_cluster, read_layout
from queue_eval.transport.error_kinds import (
    REDIS_ERRORS,
    is_barred,
    is_connection_loss,
    is_damage,
    is_transient,
)
from queue_eval.transport.nodes import NodeAway
from queue_eval.transport.script import Script

ScriptCall: TypeAlias = tuple[Sequence[str], Sequence[Any]]
"""Keys and arguments."""

KeyCommand: TypeAlias = tuple[str, Sequence[Any]]
"""A key, and a command whose keys are all in the slot of that key."""

_SLOT_MOVES = (AskError, TryAgainError)
"""Errors of a slot that moves to another node. MOVED is a kind of AskError."""


def run_one(client: Any, script: Script, call: ScriptCall) -> Any:
    """The reply (raw: bytes, ints, lists)."""
    keys, arguments = call
    try:
        return client.evalsha(script.sha, len(keys), *keys, *arguments)
    except NoScriptError:  # a server forgets scripts at a restart or failover; nothing has run yet
        return client.eval(script.source, len(keys), *keys, *arguments)


def run_each(client: Any, script: Script, calls: Sequence[ScriptCall]) -> list[Any]:
    """The replies in order. A call that fails alone has its error in place of the reply.

    Raises the error when a single server is away, or when all nodes of a cluster are that hold the keys.
    """
    return _each(
        client, [keys[0] for keys, _ in calls],
        ask=lambda server, places: _pipelined(server, script, [calls[i] for i in places]),
        follow=lambda i: run_one(client, script, calls[i]),
    )  # fmt: skip


def ask_each(client: Any, commands: Sequence[KeyCommand]) -> list[Any]:
    """The same for plain commands."""

    def ask(server: Any, places: Sequence[int]) -> list[Any]:
        pipeline = server.pipeline(transaction=False)
        for i in places:
            pipeline.execute_command(*commands[i][1])
        replies: list[Any] = pipeline.execute(raise_on_error=False)
        return replies

    keys = [key for key, _ in commands]
    return _each(client, keys, ask=ask, follow=lambda i: client.execute_command(*commands[i][1]))


def _each(
    client: Any, keys: Sequence[str], *, ask: Callable[[Any, Sequence[int]], list[Any]],
    follow: Callable[[int], Any],
) -> list[Any]:  # fmt: skip
    """A reply for each key, from the server that holds it.

    `ask`: gets a plain client of one server, and the indices in `keys` of the keys that lie there; returns
    their replies. `follow`: returns the reply for one index, from the node to which its slot has moved.
    """
    if not is_cluster(client):
        replies = ask(client, range(len(keys)))
        _raise_all_but(replies, is_damage, is_barred)
        return replies
    replies = [None] * len(keys)
    asked: dict[str, tuple[Any, list[int]]] = {}
    for i, key in enumerate(keys):
        try:
            node = client.get_node_from_key(key)
        except REDIS_ERRORS as error:  # no node has this slot
            replies[i] = error
        else:
            asked.setdefault(node.name, (node, []))[1].append(i)

    def ask_node(node: Any, places: Sequence[int]) -> None:
        for i, answer in zip(places, _ask_node(client, node, places, ask), strict=True):
            replies[i] = _followed(follow, i) if isinstance(answer, _SLOT_MOVES) else answer

    # Suspected nodes come last, so that the others need not wait for them.
    for name in sorted(asked, key=client.nodes.is_suspected):
        ask_node(*asked[name])
    # A node may have lost only the connection. It is asked again when all others have been asked.
    for node, places in asked.values():
        if any(is_connection_loss(replies[i]) for i in places) and client.is_answering(node):
            ask_node(node, places)
    _raise_all_but(replies, is_damage, is_barred, is_transient)
    away = [reply for reply in replies if isinstance(reply, REDIS_ERRORS) and is_transient(reply)]
    if any(not isinstance(error, NodeAway) for error in away):
        read_layout(client)
    if away and len(away) == len(keys):
        raise away[0]
    return replies


def _ask_node(
    client: Any, node: Any, places: Sequence[int], ask: Callable[[Any, Sequence[int]], list[Any]]
) -> list[Any]:
    try:
        client.look_at(node)
        return ask(client.get_redis_connection(node), places)
    except REDIS_ERRORS as error:
        if not is_transient(error):
            raise
        if is_connection_loss(error):
            client.nodes.suspect(node.name)
        return [error] * len(places)


def _pipelined(client: Any, script: Script, calls: Sequence[ScriptCall]) -> list[Any]:
    replies = _send(client, "EVALSHA", script.sha, calls)
    unknown = [i for i, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
    if unknown:
        # The first call sends the script's source along, and the others use it.
        first, *rest = unknown
        again = _send(client, "EVAL", script.source, [calls[first]])
        again += _send(client, "EVALSHA", script.sha, [calls[i] for i in rest])
        for i, reply in zip(unknown, again, strict=True):
            replies[i] = reply
    return replies


def _raise_all_but(replies: Sequence[Any], *kinds: Callable[[BaseException], bool]) -> None:
    """Raise the first error that is of none of these kinds. An error of these kinds concerns only its own
    key."""
    for reply in replies:
        if isinstance(reply, REDIS_ERRORS) and not any(is_kind(reply) for is_kind in kinds):
            raise reply


def _followed(follow: Callable[[int], Any], place: int) -> Any:
    """The reply from the node that has the slot now, or the error in its place."""
    try:
        return follow(place)
    except REDIS_ERRORS as error:
        return error


def _send(client: Any, command: str, script: str, calls: Sequence[ScriptCall]) -> list[Any]:
    pipeline = client.pipeline(transaction=False)
    for keys, arguments in calls:
        pipeline.execute_command(command, script, len(keys), *keys, *arguments)
    replies: list[Any] = pipeline.execute(raise_on_error=False)
    return replies
