"""The users of a server that listens to a group, each with the least rights (ACL).

===========  ==========================================  ================================================
user         its password is in                          it may
===========  ==========================================  ================================================
``default``  ``server.json``, for this machine's home    do everything; it stops the server
``driver``   ``access.json``                             do all that drivers and the command line do
``worker``   ``worker-access.json``                      do all that workers do; it may not list, make or
                                                         delete a campaign
===========  ==========================================  ================================================

A script needs the right to read and write every key that it is given, and runs each command with the
rights of its caller. So keys cannot limit what scripts do: docs/security.md says what follows from that.
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
"""The commands of RQ 2 and 3 (queues, workers, schedulers, ``rq info``) and of our forwarder to RQ."""

# @connection: servers before 7.2 do not know CLIENT SETINFO, and refuse rules that name it.
RQ = " ".join(
    (
        *("resetchannels", "~rq:*", "~qe:rq:*", "&rq:*", "-@all", "+@connection", "-@admin", "-@dangerous"),
        *(f"+{word}" for word in _RQ_COMMANDS.split()),
    )
)
"""The rights that using RQ needs: on its keys and channels, and on those of forwarded jobs."""


def user_lines(passwords: dict[str, str], *, allow_rq: bool) -> Iterable[str]:
    """The lines of a server's configuration that define the users of this module."""
    for user in USERS:
        more = f" ({RQ})" if allow_rq else ""
        yield f"user {user} {rights_of(user, passwords[user])}{more}"


def rights_of(user: str, password: str) -> str:
    """The ACL rules for a user of this module: "driver" or "worker"."""
    if user == "driver":
        keys, commands = "~qe:*", f"{_EVERYTHING} {_DRIVERS_ONLY}"
    else:
        # Workers can only read qe:campaigns: making or deleting a campaign writes to it.
        keys = (
            "~qe:{* ~qe:workers ~qe:worker:* ~qe:machine:* ~qe:drain ~qe:notices ~qe:resting:* "
            "%R~qe:campaigns"
        )
        commands = _EVERYTHING
    words = [signed_in(password), "resetchannels", keys, "-@all", *(f"+{word}" for word in commands.split())]
    return " ".join(words)


def signed_in(password: str) -> str:
    """The ACL rules by which a user signs in with this password. They contain only its hash."""
    return f"on #{hashlib.sha256(password.encode()).hexdigest()}"
