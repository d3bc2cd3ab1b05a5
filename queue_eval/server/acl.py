"""Who may do what on a server that listens to a group: its users, each with the least rights (ACL).

===========  ==========================================  ================================================
user         whose password is in                        may
===========  ==========================================  ================================================
``default``  ``server.json``, for this machine's home    everything; it stops the server
``driver``   ``access.json``                             all that drivers and the command line do
``worker``   ``worker-access.json``                      all that workers do; neither list, make nor delete
                                                         a campaign
===========  ==========================================  ================================================

A script needs the right to read and write every key that it is given, and runs each command with the
rights of its caller. So what scripts do cannot be told apart by keys: docs/security.md says what follows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

USERS = ("driver", "worker")

_CONNECTION = "ping auth select client|setname info time"
_SCRIPTS = "evalsha eval"
_READ = (
    "get hexists hget hgetall hkeys hlen hmget hscan pttl scard sismember sscan xrange xread xrevrange zcard "
    "zcount zdiff zmscore zrange zrangebyscore zscore"
)
_WRITE = "bzpopmin del expire hdel hincrby hset sadd set srem xadd xdel zadd zpopmin zrem"
_EVERYTHING = f"{_CONNECTION} {_SCRIPTS} {_READ} {_WRITE}"
_DRIVERS_ONLY = "unlink multi exec discard wait"

_RQ_COMMANDS = (
    "blmove blpop brpop del discard eval evalsha exec exists expire get hdel hexists hget hgetall hincrby "
    "hincrbyfloat hmget hset info lindex llen lmove lpop lpos lpush lrange lrem lset ltrim multi persist "
    "psubscribe pttl publish punsubscribe rename rpop rpush sadd scard script|exists script|load set "
    "setex setnx sismember smembers srem sscan subscribe time ttl type unlink unsubscribe unwatch watch "
    "xadd xdel xlen xrange xread xrevrange xtrim zadd zcard zcount zincrby zpopmin zrange zrangebyscore "
    "zrem zremrangebyrank zremrangebyscore zrevrange zscore"
)
"""What RQ 2 and 3 call in queues, workers, schedulers and ``rq info``, and our forwarder beside them."""

# @connection: servers before 7.2 do not know CLIENT SETINFO, and refuse rules that name it.
RQ = " ".join(
    (
        *("resetchannels", "~rq:*", "~qe:rq:*", "&rq:*", "-@all", "+@connection", "-@admin", "-@dangerous"),
        *(f"+{word}" for word in _RQ_COMMANDS.split()),
    )
)
"""The rights of one who uses RQ: its keys and channels, and those of forwarded jobs."""


def user_lines(passwords: dict[str, str], *, allow_rq: bool) -> Iterable[str]:
    """Lines of a server's configuration that make the users of this module."""
    for user in USERS:
        more = f" ({RQ})" if allow_rq else ""
        yield f"user {user} {rights_of(user, passwords[user])}{more}"


def rights_of(user: str, password: str) -> str:
    """The rules of a user who does what the `user` of this module does."""
    if user == "driver":
        keys, commands = "~qe:*", f"{_EVERYTHING} {_DRIVERS_ONLY}"
    else:
        # qe:campaigns is read only: without it there, no campaign is made or deleted.
        keys = (
            "~qe:{* ~qe:workers ~qe:worker:* ~qe:machine:* ~qe:drain ~qe:notices ~qe:resting:* "
            "%R~qe:campaigns"
        )
        commands = _EVERYTHING
    words = [signed_in(password), "resetchannels", keys, "-@all", *(f"+{word}" for word in commands.split())]
    return " ".join(words)


def signed_in(password: str) -> str:
    """The rules of a user who gives this password; they do not tell it."""
    return f"on #{hashlib.sha256(password.encode()).hexdigest()}"
