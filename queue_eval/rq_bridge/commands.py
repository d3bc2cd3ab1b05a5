"""What is kept about forwarded attempts on RQ's Redis, and how it moves: one method per script.

::

    forwarder ─reserve─▶ flight ─(RQ's queue)─▶ begin, RQ worker ─report─▶ replies ─▶ forwarder ─▶ sweep

=======================  ======  ==================================================================
key                      type    holds
=======================  ======  ==================================================================
``qe:rq:<uid>:flight``   hash    "job-attempt" -> config: the attempts that are wanted
``…:beat:<job-attempt>`` string  the execution that runs it, a sign of life that expires; then "done"
``…:replies``            stream  frames begun, unfit and report, until the forwarder claims them
``…:stops``              stream  attempts that are to be ended (bounded)
``…:setup:<revision>``   string  the run function and the time limit, once for all attempts
=======================  ======  ==================================================================

Every key expires when nobody has touched the campaign for `KEEP_S`. An attempt is an RQ job whose id names
it. RQ may run it never, late or twice: `begin` lets one execution run, and only while it is wanted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

from queue_eval.model.attempt import Token
from queue_eval.runtime.pipe import Kind, frame

KEEP_S = 7 * 24 * 3600
"""What nobody claims is kept for so long."""

BEAT_S = 10.0
"""An execution without a sign of life for so long is dead."""

DONE_S = 600.0
"""How long a report may wait for its claim before its execution may be taken for dead."""

_DONE = b"done"
_CLOCK_MS = 1000


@cache
def _source(name: str) -> str:
    # Not by importlib.resources: a work horse, which lives for one attempt, has no time for it.
    return Path(__file__).with_name("scripts").joinpath(f"{name}.lua").read_text("utf-8")


def field_of(token: Token) -> str:
    return f"{token[0]}-{token[1]}"


@dataclass(frozen=True, slots=True)
class Begun:
    """An execution that may run."""

    entry: bytes
    setup: bytes
    config: bytes


@dataclass(frozen=True, slots=True)
class Claim:
    """An attempt that is over: its entries among the replies, and whether what RQ has of it is to go, too."""

    token: Token
    entries: tuple[bytes, ...] = ()
    by_force: bool = False


class RqMoves:
    """The moves of one campaign. Each may be repeated; each raises what the client raises.

    `prefix` is RQ's own, of all its keys.
    """

    def __init__(self, client: Any, uid: str, queue: str, *, prefix: str = "rq") -> None:
        self._client = client
        self._uid = uid
        self._rq = prefix
        self._queue = queue
        self._beats = f"qe:rq:{uid}:beat:"
        self._flight = f"qe:rq:{uid}:flight"
        self._stops = f"qe:rq:{uid}:stops"
        self.replies = f"qe:rq:{uid}:replies"

    @cached_property
    def _ids(self) -> str:
        return f"qe-{self._uid[:8]}-"

    @property
    def _jobs(self) -> str:
        return f"{self._rq}:job:"

    @property
    def _list(self) -> str:
        return f"{self._rq}:queue:{self._queue}"

    def job_id(self, token: Token) -> str:
        """The id of the RQ job of an attempt."""
        return self._ids + field_of(token)

    def over(self, client: Any) -> RqMoves:
        """The same moves over another client."""
        return RqMoves(client, self._uid, self._queue, prefix=self._rq)

    # Of the RQ worker -------------------------------------------------------------------------------------

    def begin(self, token: Token, revision: int, execution: str) -> Begun | str:
        """The execution may run; or why not ("unwanted", "taken", "unfit")."""
        reply = self._run(
            "begin",
            (self._flight, self._beat(token), self.replies, self._setup(revision)),
            field_of(token), execution, int(BEAT_S * 1000), KEEP_S,
            frame((Kind.BEGUN, [token])), frame((Kind.UNFIT, [token])),
        )  # fmt: skip
        return Begun(*reply[1:]) if reply[0] == b"begun" else reply[0].decode()

    def beat(self, token: Token, execution: str) -> None:
        """Give a sign of life."""
        self._run("beat", (self._beat(token),), execution, int(BEAT_S * 1000))

    def keep(self, token: Token, now_s: float, ttl_s: int) -> None:
        """Have RQ not take it for abandoned before `ttl_s` have passed."""
        keys = (f"{self._rq}:wip:{self._queue}",)
        self._run("keep", keys, self._rq, self.job_id(token), int(now_s + ttl_s), ttl_s)

    def is_stopped(self, token: Token, since: bytes, wait_s: float) -> tuple[bool, bytes]:
        """Wait for news about stops: whether this one is to be ended, and where to read on."""
        reply = self._client.xread({self._stops: since}, block=int(wait_s * 1000))
        # A dict in the third version of the server's protocol, which RQ's user may have chosen.
        streams = [one for many in reply.values() for one in many] if isinstance(reply, dict) else [
            entries for _, entries in reply or ()
        ]  # fmt: skip
        stopped = False
        for entries in streams:
            for entry, fields in entries:
                since = entry
                stopped = stopped or fields.get(b"t") == field_of(token).encode()
        return stopped, since

    def report(self, token: Token, execution: str, begun: bytes, report: bytes) -> None:
        """Tell how it ended."""
        self._run(
            "report", (self.replies, self._beat(token)), execution, begun, int(DONE_S * 1000), KEEP_S, report
        )

    def leave(self, token: Token, execution: str, begun: bytes) -> None:
        """It was stopped."""
        self._run("leave", (self.replies, self._beat(token)), execution, begun)

    # Of the forwarder -------------------------------------------------------------------------------------

    def store_setup(self, revision: int, setup: bytes) -> None:
        self._client.set(self._setup(revision), setup, ex=KEEP_S)

    def refresh(self, revision: int) -> bool:
        """Keep all for longer; whether the setup is still there."""
        pipeline = self._client.pipeline(transaction=False)
        for key in (self._flight, self.replies, self._stops, self._setup(revision)):
            pipeline.expire(key, KEEP_S)
        return bool(pipeline.execute()[-1])

    def reserve(
        self, attempts: Iterable[tuple[Token, bytes, Iterable[int]]]
    ) -> list[tuple[Token | None, bool]]:
        """Note attempts (with config, and the attempts of the same job that are the caller's) as wanted.

        Of each: the attempt that is under way in its place, if there is one, and whether that has begun.
        """
        tokens: list[Token] = []
        arguments: list[Any] = []
        for token, config, own in attempts:
            tokens.append(token)
            arguments += [*token, config, f",{','.join(map(str, own))},"]
        reply = self._run(
            "reserve", (self._flight, self._list), KEEP_S, self._ids, self._beats, *arguments
        )
        pairs = zip(tokens, reply[::2], reply[1::2], strict=True)
        return [((job, joined) if joined else None, bool(begun)) for (job, _), joined, begun in pairs]

    def recall(self, tokens: Sequence[Token]) -> list[bool]:
        """Take back those that have not begun; which."""
        fields = map(field_of, tokens)
        reply = self._run(
            "recall", (self._flight, self._list), self._jobs, self._ids, self._beats, *fields
        )
        return [bool(one) for one in reply]

    def stop(self, tokens: Sequence[Token]) -> list[bool]:
        """End them; which of them run and have been told."""
        fields = map(field_of, tokens)
        keys = (self._flight, self._list, self._stops)
        reply = self._run("stop", keys, KEEP_S, self._jobs, self._ids, self._beats, *fields)
        return [bool(one) for one in reply]

    def sweep(self, claims: Iterable[Claim]) -> list[bool]:
        """Leave nothing of ours of what is over, nor, by force, of RQ's; of which RQ still has something.

        What an RQ worker is about to clear away itself must be left to it, or it takes the job for failed.
        """
        arguments: list[Any] = []
        for claim in claims:
            arguments += [field_of(claim.token), b" ".join(claim.entries), int(claim.by_force)]
        registries = [f"{self._rq}:{name}:{self._queue}" for name in ("wip", "failed")]
        keys = (self._flight, self.replies, self._list, *registries)
        reply = self._run("sweep", keys, self._rq, self._ids, self._beats, *arguments)
        return [bool(one) for one in reply]

    def look(self, tokens: Iterable[Token]) -> list[str]:
        """Of attempts not known to have begun, in the order in which they were queued: "begun", "queued" or
        "missing"."""
        reply = self._run("look", (self._list,), self._ids, self._beats, *map(field_of, tokens))
        return [one.decode() for one in reply]

    def are_alive(self, tokens: Sequence[Token]) -> list[bool]:
        """Of attempts that have begun: whether they live, or wait for the claim of their report."""
        beats = [self._beat(token) for token in tokens]
        pipeline = self._client.pipeline(transaction=False)
        for beat in beats:
            pipeline.get(beat)
            pipeline.pttl(beat)
        reply = pipeline.execute()
        holders, left_ms = reply[::2], reply[1::2]
        for beat, holder, left in zip(beats, holders, left_ms, strict=True):
            # It is from before the server's clock was set back, and would stand for as long in addition.
            if holder != _DONE and left > BEAT_S * 1000 + _CLOCK_MS:
                pipeline.pexpire(beat, int(BEAT_S * 1000))
        pipeline.execute()
        return [holder is not None for holder in holders]

    def fleet_state(self) -> Literal["there", "suspended", "absent"]:
        """Whether RQ workers take anything of the queue, as RQ's register knows."""
        pipeline = self._client.pipeline(transaction=False)
        pipeline.exists(f"{self._rq}:suspended")
        pipeline.smembers(f"{self._rq}:workers:{self._queue}")
        is_suspended, workers = pipeline.execute()
        if is_suspended:
            return "suspended"
        for worker in workers:  # RQ strikes dead ones off now and then; their own keys expire
            pipeline.exists(worker)
        return "there" if any(pipeline.execute()) else "absent"

    def read(self, since: bytes, count: int, wait_s: float) -> list[tuple[bytes, bytes]]:
        """Wait for replies after `since`: entries and their frames."""
        reply = self._client.xread({self.replies: since}, count=count, block=int(wait_s * 1000))
        return [(entry, fields.get(b"f", b"")) for _, entries in reply or () for entry, fields in entries]

    def read_one(self, entry: bytes) -> bytes | None:
        """The frame of one entry, unless somebody has claimed it."""
        found = self._client.xrange(self.replies, entry, entry)
        return found[0][1][b"f"] if found else None

    # ------------------------------------------------------------------------------------------------------

    def _beat(self, token: Token) -> str:
        return self._beats + field_of(token)

    def _setup(self, revision: int) -> str:
        return f"qe:rq:{self._uid}:setup:{revision}"

    def _run(self, name: str, keys: Sequence[str], *arguments: Any) -> Any:
        return self._client.register_script(_source(name))(keys=keys, args=arguments)
