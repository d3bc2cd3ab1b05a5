"""Server URLs: which there are, what they name, and how they are shown.

=========================================================================  ============================
URL                                                                        names
=========================================================================  ============================
``redis://[user:password@]host[:port][/db]``, ``rediss://`` with TLS       one server
``unix://[user:password@]/path[?db=0]``                                    one server, on this machine
``redis+sentinel://[user:password@]host[:port],…[/service][/db]``          the primary of a service
``redis+cluster://[user:password@]host[:port],…``                          a cluster
=========================================================================  ============================

``rediss+sentinel://`` and ``rediss+cluster://`` use TLS. Options follow after a ``?``, such as
``ssl_ca_certs=FILE``, and ``sentinel_username``, ``sentinel_password`` for the sentinels themselves.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import unquote

from queue_eval.errors import UsageError

SCHEMES = (
    "redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster",
)  # fmt: skip
DEFAULT_SERVICE = "mymaster"
_DEFAULT_PORTS = {"": 6379, "cluster": 6379, "sentinel": 26379}

_OPTIONS = re.compile(r"db|username|password|sentinel_username|sentinel_password|ssl_[a-z_]+")

Kind = Literal["single", "sentinel", "cluster"]


@dataclass(frozen=True, repr=False)
class ServerUrl:
    """A URL taken apart. `base` is a plain URL of the first node, with user, database and options."""

    kind: Kind
    base: str
    nodes: tuple[tuple[str, int], ...]
    service: str = ""

    @property
    def is_encrypted(self) -> bool:
        return self.base.startswith("rediss:")

    @property
    def is_local(self) -> bool:
        """Whether it names a unix socket."""
        return self.base.startswith("unix:")


def parse_url(url: str) -> ServerUrl:
    """`url` taken apart. Raises UsageError, which shows no password, for what is no server's URL."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in SCHEMES or not rest:
        wanted = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        raise UsageError(f"not a server URL: {safe_url(url)!r}; it must start with one of {wanted}")
    if scheme == "unix":
        _check_options(url, url.partition("?")[2])
        return ServerUrl("single", url, ())
    plain, _, topology = scheme.partition("+")
    # What a user name, a password or a path holds of these letters must be written as %40, %2F and so on.
    place, mark, options = rest.partition("#")[0].partition("?")
    authority, _, path = place.partition("/")
    user, at, hosts = authority.rpartition("@")
    nodes = tuple(_node(url, host, _DEFAULT_PORTS[topology]) for host in hosts.split(","))
    if not topology and len(nodes) > 1:
        raise UsageError(
            f"not a server URL: {safe_url(url)!r}; several hosts need {plain}+sentinel:// or {plain}+cluster://"
        )
    _check_options(url, options)
    service, db = "", path
    if topology == "sentinel":
        service, _, db = path.partition("/")
        service = unquote(service) or DEFAULT_SERVICE
    if db and not db.isdigit():
        raise UsageError(f"not a server URL: {safe_url(url)!r}; after the last / stands a database's number")
    if topology == "cluster" and db not in ("", "0"):
        raise UsageError(f"not a server URL: {safe_url(url)!r}; a cluster has database 0 only")
    host, port = nodes[0]
    host = f"[{host}]" if ":" in host else host
    database = f"/{db or 0}" if topology != "cluster" else ""
    base = f"{plain}://{user}{at}{host}:{port}{database}{mark}{options}"
    kind: Kind = "sentinel" if topology == "sentinel" else "cluster" if topology else "single"
    return ServerUrl(kind, base, nodes, service)


def checked_url(url: str) -> str:
    """`url`, or UsageError."""
    parse_url(url)
    return url


def safe_url(url: str) -> str:
    """`url` for messages: with its passwords, in the user part or the query, replaced by `***`.

    A malformed URL may lose more than its password, never less.
    """
    url = re.sub(r"(://[^:/?#@]*:).*@", r"\1***@", url, flags=re.DOTALL)
    return re.sub(r"([?&][a-z_]*password=)[^&#]*", r"\1***", url, flags=re.IGNORECASE)


def _check_options(url: str, options: str) -> None:
    for option in options.split("&") if options else ():
        name = option.partition("=")[0]
        if not _OPTIONS.fullmatch(name):
            raise UsageError(
                f"not a server URL: {safe_url(url)!r}; its option {name!r} is not known here: there are db, "
                "username, password, sentinel_username, sentinel_password, ssl_ca_certs and other ssl_ ones"
            )


def _node(url: str, text: str, default_port: int) -> tuple[str, int]:
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%]+)\]|([^:\[\]]+))(?::(\d+))?", text)
    if match is None or int(match[3] or 0) > 65535:
        detail = "its port must be a number" if text else "it names no host"
        raise UsageError(f"not a server URL: {safe_url(url)!r}; {detail}")
    return match[1] or match[2], int(match[3] or default_port)
