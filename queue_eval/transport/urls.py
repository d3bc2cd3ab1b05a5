"""Reads server URLs, and shows them without their passwords.

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

A message shows only those parts of a URL where no password can stand. So an ``@`` or a ``#`` behind the hosts
is refused: it may belong to a password whose special characters were not written as %40, %23 and so on. Of a
refused URL only the scheme is shown.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote, unquote

from queue_eval.errors import UsageError

SCHEMES = (
    "redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster",
)  # fmt: skip
DEFAULT_SERVICE = "mymaster"
_DEFAULT_PORTS = {"": 6379, "cluster": 6379, "sentinel": 26379}

_OPTIONS = re.compile(r"db|username|password|sentinel_username|sentinel_password|ssl_[a-z_]+")
_VALUES = {"db": "[0-9]{1,9}", "ssl_cert_reqs": "none|optional|required"}
"""Option -> what its value must match. Any other value would be shown in errors of redis-py and of Python."""
_SHOWN_OPTION = re.compile(r"db=[0-9]*|ssl_(?!password|keyfile_password)[a-z_]+=.*")
"""Options that are shown with their values. Behind any other option nothing is shown: it may be part of that
option's value."""
_SHOWN_USERS = ("default", "driver", "worker")
"""User names that we give. Any other one may be a password in the wrong place."""
_HIDDEN = "***"
_PUNCTUATION = "!\"$%&'()*+,-./:;<=>?@[\\]^_`{|}~"

Kind = Literal["single", "sentinel", "cluster"]


@dataclass(frozen=True, repr=False)
class ServerUrl:
    """A URL in its parts. `base` is a plain URL of the first node, with user, database and options."""

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


@dataclass(frozen=True, repr=False)
class _Parts:
    """A URL's parts, as they were written."""

    scheme: str
    user: str
    """User and password, with the ``@`` behind them."""
    hosts: str
    path: str
    options: str


def parse_url(url: str) -> ServerUrl:
    """`url` in its parts. Raises UsageError, which shows no password, if it is not a server's URL."""
    parts = _take_apart(url)
    plain, _, topology = parts.scheme.partition("+")
    # User and options are quoted again: urllib drops some characters, and shows others in its errors.
    user = _quoted_user(parts)
    options = f"?{quote(parts.options, safe=_PUNCTUATION)}" if parts.options else ""
    if plain == "unix":
        path = quote(unquote(parts.path), safe="/")
        return ServerUrl("single", f"unix://{user}{path}{options}", ())
    nodes = tuple(_node(parts, host, _DEFAULT_PORTS[topology]) for host in parts.hosts.split(","))
    if not topology and len(nodes) > 1:
        raise _refusal(parts.scheme, f"several hosts need {plain}+sentinel:// or {plain}+cluster://")
    service, db = "", parts.path[1:]
    if topology == "sentinel":
        service, _, db = db.partition("/")
        service = unquote(service) or DEFAULT_SERVICE
    if db and not re.fullmatch("[0-9]{1,9}", db):
        raise _refusal(parts.scheme, "after the last / stands a database's number")
    if topology == "cluster" and db not in ("", "0"):
        raise _refusal(parts.scheme, "a cluster has database 0 only")
    host, port = nodes[0]
    host = f"[{host}]" if ":" in host else host
    database = f"/{db or 0}" if topology != "cluster" else ""
    base = f"{plain}://{user}{host}:{port}{database}{options}"
    kind: Kind = "sentinel" if topology == "sentinel" else "cluster" if topology else "single"
    return ServerUrl(kind, base, nodes, service)


def checked_url(url: str) -> str:
    """Return `url`. Raises UsageError if it is not a server's URL."""
    parse_url(url)
    return url


def safe_url(url: str) -> str:
    """`url` for messages: ``***`` stands where a password stands, or may stand."""
    try:
        parse_url(url)
    except UsageError:
        return _scheme_only(url.partition("://")[0])
    parts = _take_apart(url)
    name, colon, password = parts.user.removesuffix("@").partition(":")
    if not parts.user:
        user = ""
    elif colon and password and (not name or name in _SHOWN_USERS):
        user = f"{name}:{_HIDDEN}@"
    else:
        user = f"{_HIDDEN}@"
    options = f"?{_shown_options(parts.options)}" if parts.options else ""
    return f"{parts.scheme}://{user}{parts.hosts}{parts.path}{options}"


class SecretUrl(str):
    """A URL that works where a URL is asked for, and whose `repr` shows no password."""

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(safe_url(self))


def unless_url(name: object) -> object:
    """`name` for messages; ``***`` if it may be a URL in the wrong place."""
    return _HIDDEN if isinstance(name, str) and ("://" in name or "@" in name) else name


def _take_apart(url: str) -> _Parts:
    """The parts of `url`. Raises UsageError when they cannot be told apart for certain, or an option is
    unknown."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in SCHEMES or not rest:
        wanted = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        raise _refusal(scheme, f"it must start with one of {wanted}")
    if any("\ud800" <= character <= "\udfff" for character in rest):
        raise _refusal(scheme, "it is not text in UTF-8; write it in UTF-8")
    place, _, options = rest.partition("?")
    authority, slash, path = place.partition("/")
    user, at, hosts = authority.rpartition("@")
    if "@" in path + options or "#" in hosts + path + options:
        raise _refusal(
            scheme, "of a user, a password or a path, write @ as %40, / as %2F, ? as %3F and # as %23"
        )
    if scheme == "unix" and (hosts or not path):
        raise _refusal(scheme, "write it as unix:///path, or unix://:password@/path")
    if not (hosts + path + options).isprintable():
        raise _refusal(scheme, "it holds a control character; leave that out")
    _check_options(scheme, options)
    return _Parts(scheme, user + at, hosts, slash + path, options)


def _check_options(scheme: str, options: str) -> None:
    for number, option in enumerate(options.split("&") if options else (), 1):
        name, is_sign, value = option.partition("=")
        # The name is not shown: it may be the part of a password behind an &.
        if not is_sign or not _OPTIONS.fullmatch(name):
            raise _refusal(
                scheme,
                f"option {number} of those behind its ? is not known here: there are db=, username=, "
                "password=, sentinel_username=, sentinel_password=, ssl_ca_certs= and other ssl_ ones",
            )
        if not re.fullmatch(_VALUES.get(name, ".*"), value, re.DOTALL):
            wanted = "a number" if name == "db" else "none, optional or required"
            raise _refusal(scheme, f"the value of {name}= must be {wanted}")


def _shown_options(options: str) -> str:
    shown: list[str] = []
    for option in options.split("&"):
        if not _SHOWN_OPTION.fullmatch(option):
            return "&".join([*shown, f"{option.partition('=')[0]}={_HIDDEN}"])
        shown.append(option)
    return "&".join(shown)


def _quoted_user(parts: _Parts) -> str:
    if not parts.user:
        return ""
    name, colon, password = parts.user[:-1].partition(":")
    return f"{quote(unquote(name), safe='')}{colon}{quote(unquote(password), safe='')}@"


def _node(parts: _Parts, text: str, default_port: int) -> tuple[str, int]:
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%]+)\]|([\w.-]+))(?::([0-9]{1,5}))?", text)
    if match is None or int(match[3] or 0) > 65535:
        detail = "its port must be a number" if text else "it names no host"
        raise _refusal(parts.scheme, detail)
    return match[1] or match[2], int(match[3] or default_port)


def _refusal(scheme: str, detail: str) -> UsageError:
    return UsageError(f"not a server URL: {_scheme_only(scheme)!r}; {detail}")


def _scheme_only(scheme: str) -> str:
    return f"{scheme}://{_HIDDEN}" if scheme in SCHEMES else _HIDDEN
