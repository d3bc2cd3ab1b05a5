"""Judges an error on the way to the server: wait and try again, give up, or look for a newer address.

=============  ===============================================================  =======================
an error is    when                                                             what follows
=============  ===============================================================  =======================
transient      no server answers, or it loads, fails over, is full, reshards    the same call again
a refusal      the server refuses us, or we must not trust it                   another access, or none
a bar          the server knows us, but this user lacks a right                 an error
damage         a key of ours holds what we have not written                     an error
no scripts     the server cannot run Lua                                        an error
unknown        a proxy, or a server with renamed commands, lacks the command    an error
anything else  we made a mistake                                                it is raised as it is
=============  ===============================================================  =======================
"""

from __future__ import annotations

import re
import ssl
from typing import Any

from redis.exceptions import (
    AskError,
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    ClusterError,
    MasterDownError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
    SlotNotCoveredError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

REDIS_ERRORS = (RedisError, RedisClusterException)
"""All that redis-py may raise: errors of its cluster client are no RedisErrors."""

_TRANSIENT = (
    RedisConnectionError, RedisTimeoutError, BusyLoadingError, ReadOnlyError, OutOfMemoryError,
    ClusterDownError, ClusterError, MasterDownError, TryAgainError,
)  # fmt: skip

_HINDRANCES = {
    "OOM": "it has reached its maxmemory; raise that with CONFIG SET maxmemory, or purge campaigns",
    "MISCONF": "it cannot write to its disk; free some space there, its log says more",
    "READONLY": "it is a replica; name its primary, or make it one with REPLICAOF NO ONE",
    "LOADING": "it is loading its data",
    "BUSY": (
        "a script that is not ours keeps it busy; end that with SCRIPT KILL, or, where that says UNKILLABLE, "
        "kill the server's process and start it again: what was acknowledged is in its log, if that is on; a "
        "server of a home does so after a minute"
    ),
    "NOREPLICAS": "it has too few replicas to take writes; start them, or lower min-replicas-to-write",
    "UNBLOCKED": "a failover is under way",
    "TRYAGAIN": "a slot of the cluster is being moved to another node; it is served again when that is done",
}
"""Code of an error -> its meaning and remedy, for servers that answer but cannot work for now."""

_CODE = re.compile(rf"(?:^|: -?)({'|'.join(_HINDRANCES)}) ")
"""Where such a code stands: at the beginning, or within the text of a pipeline or a script of Redis 6.2."""

_CODES = {
    BusyLoadingError: "LOADING", ReadOnlyError: "READONLY", OutOfMemoryError: "OOM",
    TryAgainError: "TRYAGAIN",
}  # fmt: skip
"""Classes of redis-py for some codes: it has removed the code from their text."""

_REFUSED_WORDS = ("WRONGPASS", "NOAUTH", "invalid username-password", "invalid password")
_BARRED_WORDS = ("NOPERM", "ACL failure in script", "no permissions to run", "No permissions to access")
_DAMAGED = re.compile(r"WRONGTYPE|user_script:\d+: |hash value is not|Invalid stream ID")
_SCRIPTLESS = re.compile(r"Could not find scripting engine|unknown command '?`?(?i:eval|evalsha)\b")
_UNKNOWN_COMMAND = re.compile(
    r"^(?:unsupported|unknown) (?:sub)?command|^invalid request$|^wrong number of arguments for '?(?i:eval)\b"
)
"""Texts of servers and of proxies; a proxy says the last one of a script without keys."""

_CUT_OFF = ("closed by server", "reset by peer", "broken pipe")
_TOO_MANY_REDIRECTIONS = "TTL exhausted"
"""The text of redis-py's error after it was redirected too many times."""

_CLUSTER_AWAY = (
    "Redis Cluster cannot be connected", "All slots are not covered", "startup_nodes could not agree",
)  # fmt: skip
_NO_CLUSTER = "Cluster mode is not enabled"

_NO_TLS = ("WRONG_VERSION_NUMBER", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE", "HTTP_REQUEST")
_EXPIRED, _NOT_YET, _WRONG_NAME, _WRONG_ADDRESS = 10, 9, 62, 64  # of OpenSSL: X509_V_ERR_…


class DistrustError(AuthenticationError):
    """An account that we do not trust listens at a unix socket, so nothing was sent."""


def is_refusal(error: BaseException) -> bool:
    """Whether the server refuses us (password), or we must not trust it (certificate)."""
    error = _innermost(error)
    if _tls_refusal(error) is not None or _NO_CLUSTER in str(error) or isinstance(error, AskError):
        return True
    return isinstance(error, AuthenticationError) or any(words in str(error) for words in _REFUSED_WORDS)


def is_barred(error: BaseException) -> bool:
    """Whether the server knows us, but this user has no right to the command."""
    return isinstance(error, NoPermissionError) or (
        isinstance(error, ResponseError) and any(words in str(error) for words in _BARRED_WORDS)
    )


def is_transient(error: BaseException) -> bool:
    """Whether the same call may succeed later: the server is away, or takes no writes for now."""
    if is_refusal(error) or is_barred(error):
        return False
    if isinstance(error, RedisClusterException):
        return isinstance(error, SlotNotCoveredError) or str(error).startswith(_CLUSTER_AWAY)
    return isinstance(error, _TRANSIENT) or _code(error) is not None


def is_connection_loss(error: BaseException) -> bool:
    """Whether a connection has failed, so that the server or node at its other end may be away."""
    return isinstance(error, (RedisConnectionError, RedisTimeoutError)) and is_transient(error)


def is_damage(error: BaseException) -> bool:
    """Whether a key holds what we have not written: another type, or a value that makes a script fail."""
    if not isinstance(error, ResponseError) or _code(error) is not None:
        return False
    return _DAMAGED.search(str(error)) is not None


def is_scriptless(error: BaseException) -> bool:
    """Whether the server runs no Lua at all: since Valkey 9.1 Lua is a module, which may be missing."""
    return isinstance(error, ResponseError) and _SCRIPTLESS.search(str(error)) is not None


def is_unknown_command(error: BaseException) -> bool:
    """Whether a proxy, or a server with renamed commands, answers that it does not know the command."""
    return isinstance(error, ResponseError) and _UNKNOWN_COMMAND.search(str(error)) is not None


def is_cut_off(error: BaseException) -> bool:
    """Whether the other side has closed the connection instead of sending a reply."""
    words = str(error).lower()
    return isinstance(error, RedisConnectionError) and any(each in words for each in _CUT_OFF)


def undamaged(replies: list[Any]) -> list[Any]:
    """Replies of a pipeline with ``raise_on_error=False``, with None in place of errors of damaged keys.

    Raises any other error among them.
    """
    for reply in replies:
        if isinstance(reply, Exception) and not is_damage(reply):
            raise reply
    return [None if isinstance(reply, Exception) else reply for reply in replies]


def reason(error: BaseException) -> str:
    """What an error says, in one line."""
    error = _innermost(error)
    if isinstance(error, AskError):  # also MOVED; a cluster client follows both, so here a plain one met it
        return "it is a node of a cluster"
    if _TOO_MANY_REDIRECTIONS in str(error):
        return _HINDRANCES["TRYAGAIN"].partition(";")[0]
    return _tls_refusal(error) or " ".join(str(error).split()) or type(error).__name__


def hindrance(error: BaseException) -> str | None:
    """Why a server that answers cannot work for now, and the remedy; None when it is simply away."""
    error = _innermost(error)
    code = _code(error)
    if code is None:
        return None
    words = _HINDRANCES[code]
    if "FUNCTION KILL" in str(error):
        words = words.replace("script", "function").replace("SCRIPT", "FUNCTION")
    return f"{code}: {words}"


def _code(error: BaseException) -> str | None:
    for known, code in _CODES.items():
        if isinstance(error, known):
            return code
    if isinstance(error, ClusterError) and _TOO_MANY_REDIRECTIONS in str(error):
        return "TRYAGAIN"
    found = _CODE.search(str(error)) if isinstance(error, ResponseError) else None
    return found[1] if found is not None else None


def remedy(error: BaseException) -> str:
    """What to do about a refusal."""
    error = _innermost(error)
    if isinstance(error, DistrustError):
        return (
            "trusted are root, this account, and for a URL of yours the owner of a folder that nobody else "
            "can change; start the server anew, or use a TCP URL"
        )
    found = _tls_error(error)
    if isinstance(found, ssl.SSLCertVerificationError):
        if found.verify_code in (_EXPIRED, _NOT_YET):
            return "compare the clocks, and start the server again to renew a certificate of its own"
        if found.verify_code in (_WRONG_NAME, _WRONG_ADDRESS):
            return "use a name that it holds; queue-eval server start --advertise NAME puts one into it"
        return "use this server's access file, or name its authority by SSL_CERT_FILE or ?ssl_ca_certs="
    if found is not None:
        return "compare the scheme of the URL (redis:// or rediss://) with what the server speaks"
    if _NO_CLUSTER in str(error):
        return "use redis:// or rediss:// for a single server"
    if isinstance(error, AskError):
        return "use redis+cluster:// or rediss+cluster://"
    return "check the URL or the access file"


def _innermost(error: BaseException) -> BaseException:
    """The error that redis-py's cluster client has wrapped in its own."""
    while isinstance(error, RedisClusterException) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _tls_error(error: BaseException) -> ssl.SSLError | None:
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, ssl.SSLError):
        seen = seen.__cause__ or seen.__context__
    return seen


def _tls_refusal(error: BaseException) -> str | None:
    """Why TLS can never work with this server; None for an error that may pass."""
    # Only errors of a connection count: any other may merely have been raised while a TLS error was handled.
    found = _tls_error(error) if isinstance(error, RedisConnectionError) else None
    if isinstance(found, ssl.SSLCertVerificationError):
        if found.verify_code == _EXPIRED:
            return "its certificate has expired"
        if found.verify_code == _NOT_YET:
            return "its certificate is not valid yet"
        if found.verify_code in (_WRONG_NAME, _WRONG_ADDRESS):
            return "its certificate is for another name"
        return f"its certificate is not trusted: {found.verify_message}"
    words = found.reason or "" if found is not None else ""
    if words in _NO_TLS:
        return "it does not speak TLS"
    if "ALERT" in words:
        return f"it breaks off the TLS handshake: {words.lower().replace('_', ' ')}"
    return None
