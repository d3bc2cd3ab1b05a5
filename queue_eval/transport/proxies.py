"""Finds out whether something between us and the server passes on only some commands.

Proxies that distribute keys (twemproxy, Envoy) know only some commands of Redis. For any other command
twemproxy closes the connection, which looks like a server that wants TLS or has died. Envoy replies with an
error, and so does a server whose commands were renamed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from queue_eval.transport.error_kinds import REDIS_ERRORS, is_cut_off, is_unknown_command, reason

_READABLE_STREAM = "qe:notices"
"""A stream that each of our users may read (`queue_eval.server.acl`)."""

_NEEDED: dict[str, Callable[[Any], Any]] = {
    "CLIENT": lambda client: client.client_setname("queue_eval"),
    "EVAL": lambda client: client.eval("return 1", 0),
    "INFO": lambda client: client.info("memory"),
    "XREAD": lambda client: client.xread({_READABLE_STREAM: "$"}, count=1),
}
"""Commands of ours that no such proxy passes on, or not in this form. They change nothing."""


def hidden_command(client: Any, *names: str) -> str | None:
    """The first command that reaches no server, with the reply to it, as text.

    `names`: which of the commands in `_NEEDED` to try; else all of them. None when all of them reach the
    server, or when it is away. Assumes: `client` sends nothing else when it connects.
    """
    for name in names or _NEEDED:
        why = _why_hidden(client, _NEEDED[name])
        if why is not None:
            return f"{name} ({why})"
    return None


def _why_hidden(client: Any, ask: Callable[[Any], Any]) -> str | None:
    why = None
    for _ in range(2):  # a connection may be cut once because the server has just been restarted
        try:
            ask(client)
            return None
        except REDIS_ERRORS as error:
            if is_unknown_command(error):
                return reason(error)
            if not is_cut_off(error):
                return None
            why = reason(error)
        try:
            client.ping()  # a server that speaks only TLS, or is away, does not answer this either
        except REDIS_ERRORS:
            return None
    return why
