"""Scripts on their way: one call, or one for each of many campaigns at the cost of one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from redis.exceptions import AskError, NoScriptError, TryAgainError

from queue_eval.clients import is_cluster, read_layout
from queue_eval.faults import REDIS_ERRORS, is_damage, is_transient
from queue_eval.lua import Script

ScriptCall: TypeAlias = tuple[Sequence[str], Sequence[Any]]
"""Keys and arguments."""

_ELSEWHERE = (AskError, TryAgainError)
"""Of a slot that moves; MOVED is one of the first."""


def run_one(client: Any, script: Script, call: ScriptCall) -> Any:
    """The reply (raw: bytes, ints, lists)."""
    keys, arguments = call
    try:
        return client.evalsha(script.sha, len(keys), *keys, *arguments)
    except NoScriptError:  # a restart or failover forgets scripts; nothing has run yet
        return client.eval(script.source, len(keys), *keys, *arguments)


def run_each(client: Any, script: Script, calls: Sequence[ScriptCall], sick: set[str]) -> list[Any]:
    """The replies in order; an error in place of a reply for what failed alone.

    Raises the error when a single server is away, or all nodes of a cluster that are asked. `sick`: names of
    nodes that were away last time, kept by the caller. They are asked last, so that nobody waits for them.
    """
    if not is_cluster(client):
        replies: list[Any] = _pipelined(client, script, calls)
        _raise_all_but(replies, is_damage)
        return replies
    replies = [None] * len(calls)
    asked: dict[str, tuple[Any, list[int]]] = {}
    for i, (keys, _) in enumerate(calls):
        try:
            node = client.get_node_from_key(keys[0])
        except REDIS_ERRORS as error:  # nobody has this slot
            replies[i] = error
        else:
            asked.setdefault(node.name, (node, []))[1].append(i)
    for name in sorted(asked, key=lambda name: name in sick):
        node, places = asked[name]
        try:
            answers = _pipelined(client.get_redis_connection(node), script, [calls[i] for i in places])
            sick.discard(name)
        except REDIS_ERRORS as error:
            if not is_transient(error):
                raise
            sick.add(name)
            answers = [error] * len(places)
        for i, answer in zip(places, answers, strict=True):
            replies[i] = _followed(client, script, calls[i]) if isinstance(answer, _ELSEWHERE) else answer
    _raise_all_but(replies, is_damage, is_transient)
    away = [reply for reply in replies if isinstance(reply, REDIS_ERRORS) and is_transient(reply)]
    if away:
        read_layout(client)
    if away and len(away) == len(calls):
        raise away[0]
    return replies


def _pipelined(client: Any, script: Script, calls: Sequence[ScriptCall]) -> list[Any]:
    replies = _send(client, "EVALSHA", script.sha, calls)
    unknown = [i for i, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
    if unknown:
        # The first brings the script along.
        first, *rest = unknown
        again = _send(client, "EVAL", script.source, [calls[first]])
        again += _send(client, "EVALSHA", script.sha, [calls[i] for i in rest])
        for i, reply in zip(unknown, again, strict=True):
            replies[i] = reply
    return replies


def _raise_all_but(replies: Sequence[Any], *kinds: Callable[[BaseException], bool]) -> None:
    """Errors of these kinds concern one campaign; any other concerns all."""
    for reply in replies:
        if isinstance(reply, REDIS_ERRORS) and not any(is_kind(reply) for is_kind in kinds):
            raise reply


def _followed(client: Any, script: Script, call: ScriptCall) -> Any:
    """Where the slot is by now."""
    try:
        return run_one(client, script, call)
    except REDIS_ERRORS as error:
        return error


def _send(client: Any, command: str, script: str, calls: Sequence[ScriptCall]) -> list[Any]:
    pipeline = client.pipeline(transaction=False)
    for keys, arguments in calls:
        pipeline.execute_command(command, script, len(keys), *keys, *arguments)
    replies: list[Any] = pipeline.execute(raise_on_error=False)
    return replies
