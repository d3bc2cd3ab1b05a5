"""The keys of forwarded attempts on RQ's Redis, and the scripts on them: one method per script.

::

    forwarder ─want─▶ flight ─(RQ's queue)─▶ begin, RQ worker ─report─▶ replies ─▶ forwarder ─▶ sweep

=======================  ======  ==================================================================
key                      type    holds
=======================  ======  ==================================================================
``qe:rq:<uid>:flight``   hash    "job-attempt" -> config: the attempts that are wanted
``…:beat:<job-attempt>`` string  the execution that runs it: a sign of life that expires; then "done"
``…:replies``            stream  frames begun, unfit and report, until the forwarder claims them
``…:inside:<job-attempt>`` hash  "word": what its `stop_requested` is to show; "told": number of the last
                                 frame of each execution that is among the told;
                                 "printed": the entry there of the newest that tells what it prints
``…:stops``              stream  attempts that must be ended, and words for `stop_requested` (bounded)
``…:told``               stream  frames by which running attempts tell of themselves (bounded)
``…:setup:<revision>``   string  the run function and the time limit, once for all attempts
=======================  ======  ==================================================================

Every key expires when nobody has touched the campaign for `KEEP_S`. An attempt is an RQ job whose id names
it. RQ may never run it, or run it late or twice: `begin` lets only one execution run, and only while the
attempt is wanted.
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
"""How long keys are kept that nobody touches."""

BEAT_S = 10.0
"""An execution that gives no sign of life for so long counts as dead."""

DONE_S = 600.0
"""How long a report may wait to be claimed. After that its execution may count as dead."""

MAX_TOLD = 1000
"""How many frames of running attempts are kept, more or less. When no forwarder reads, older ones go."""

_DONE = b"done"
_CLOCK_TOLERANCE_MS = 1000


@cache
def _source(name: str) -> str:
    # Not by importlib.resources: its import would cost every work horse, which lives for one attempt.
    return Path(__file__).with_name("scripts").joinpath(f"{name}.lua").read_text("utf-8")


def field_of(token: Token) -> str:
    return f"{token[0]}-{token[1]}"


@dataclass(frozen=True, slots=True)
class Begun:
    """An execution that may run."""

    entry: bytes
    """Its entry among the replies."""
    setup: bytes
    config: bytes
    word: str = ""
    """What its `stop_requested` is to show already."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What an execution has read from the stream of stops."""

    since: bytes
    """The entry from which to read on."""
    is_stopped: bool = False
    word: str = ""
    """The newest one for `stop_requested`; "" when there is none."""


@dataclass(frozen=True, slots=True)
class Told:
    """A frame by which a running attempt tells of itself."""

    entry: bytes
    execution: bytes
    number: int
    """Counts the frames of an execution, from 1, with gaps."""
    frame: bytes


@dataclass(frozen=True, slots=True)
class Claim:
    """An attempt that is over."""

    token: Token
    entries: tuple[bytes, ...] = ()
    """Its entries among the replies."""
    by_force: bool = False
    """Whether to remove RQ's own keys of it, too."""


class RqCommands:
    """Calls the scripts for one campaign. Each call may be repeated. Errors of the client pass through.

    `prefix` is the one that RQ gives all its keys.
    """

    def __init__(self, client: Any, uid: str, queue: str, *, prefix: str = "rq") -> None:
        self._client = client
        self._uid = uid
        self._rq = prefix
        self._queue = queue
        self._beats = f"qe:rq:{uid}:beat:"
        self._flight = f"qe:rq:{uid}:flight"
        self._insides = f"qe:rq:{uid}:inside:"
        self._stops = f"qe:rq:{uid}:stops"
        self._told = f"qe:rq:{uid}:told"
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

    def over(self, client: Any) -> RqCommands:
        """The same commands over another client."""
        return RqCommands(client, self._uid, self._queue, prefix=self._rq)

    # Called by the RQ worker --------------------------------------------------------------------------------

    def begin(self, token: Token, revision: int, execution: str) -> Begun | str:
        """Begin an execution; or return why it may not run ("unwanted", "taken", "unfit")."""
        reply = self._run(
            "begin",
            (self._flight, self._beat(token), self.replies, self._setup(revision), self._inside(token)),
            field_of(token), execution, int(BEAT_S * 1000), KEEP_S,
            frame((Kind.BEGUN, [token])), frame((Kind.UNFIT, [token])),
        )  # fmt: skip
        if reply[0] != b"begun":
            return str(reply[0].decode())
        _, entry, setup, config, word = reply
        return Begun(entry, setup, config, word.decode())

    def beat(self, token: Token, execution: str) -> None:
        """Give a sign of life."""
        self._run("beat", (self._beat(token),), execution, int(BEAT_S * 1000))

    def keep(self, token: Token, now_s: float, ttl_s: int) -> None:
        """Prevent RQ from treating it as abandoned for `ttl_s` from `now_s` (Unix time)."""
        keys = (f"{self._rq}:wip:{self._queue}",)
        self._run("keep", keys, self._rq, self.job_id(token), int(now_s + ttl_s), ttl_s)

    def listen(self, token: Token, since: bytes, wait_s: float) -> Heard:
        """Wait up to `wait_s` for stops after `since`, and for words to this attempt."""
        reply = self._client.xread({self._stops: since}, block=int(wait_s * 1000))
        field, stopped, word = field_of(token).encode(), False, ""
        for entry, fields in _entries(reply).get(self._stops, ()):
            since = entry
            stopped = stopped or fields.get(b"t") == field
            if fields.get(b"n") == field:
                word = fields[b"w"].decode()
        return Heard(since, stopped, word)

    def tell(self, token: Token, execution: str, frames: Iterable[tuple[int, bytes]]) -> None:
        """Add what a running attempt tells of itself: frames, each with its number in this execution."""
        keys = (self._told, self._inside(token))
        numbered = [part for pair in frames for part in pair]
        self._run("tell", keys, execution, MAX_TOLD, KEEP_S, *numbered)

    def report(self, token: Token, execution: str, begun: bytes, report: bytes) -> None:
        """Add the report (a frame) to the replies."""
        self._run(
            "report", (self.replies, self._beat(token)), execution, begun, int(DONE_S * 1000), KEEP_S, report
        )

    def leave(self, token: Token, execution: str, begun: bytes) -> None:
        """Remove the traces of an execution that was stopped: it has no report."""
        self._run("leave", (self.replies, self._beat(token)), execution, begun)

    # Called by the forwarder --------------------------------------------------------------------------------

    def store_setup(self, revision: int, setup: bytes) -> None:
        self._client.set(self._setup(revision), setup, ex=KEEP_S)

    def refresh(self, revision: int) -> bool:
        """Let all keys expire later. Returns whether the setup is still there."""
        pipeline = self._client.pipeline(transaction=False)
        for key in (self._flight, self.replies, self._stops, self._told, self._setup(revision)):
            pipeline.expire(key, KEEP_S)
        return bool(pipeline.execute()[-1])

    def want(self, attempts: Iterable[tuple[Token, bytes, Iterable[int]]]) -> list[tuple[Token | None, bool]]:
        """Note attempts as wanted. Each comes with its config, and the attempts of the same job that the
        caller itself has forwarded.

        Returns for each: the attempt of an earlier forwarder that runs in its place, or None, and whether
        that one has begun.
        """
        tokens: list[Token] = []
        arguments: list[Any] = []
        for token, config, own in attempts:
            tokens.append(token)
            arguments += [*token, config, f",{','.join(map(str, own))},"]
        reply = self._run("want", (self._flight, self._list), KEEP_S, self._ids, self._beats, *arguments)
        pairs = zip(tokens, reply[::2], reply[1::2], strict=True)
        return [((job, joined) if joined else None, bool(begun)) for (job, _), joined, begun in pairs]

    def recall(self, tokens: Sequence[Token]) -> list[bool]:
        """Take back the attempts that have not begun. Returns for each whether it was taken back."""
        fields = map(field_of, tokens)
        reply = self._run("recall", (self._flight, self._list), self._jobs, self._ids, self._beats, *fields)
        return [bool(is_taken) for is_taken in reply]

    def stop(self, tokens: Sequence[Token]) -> list[bool]:
        """End the attempts. Returns for each whether it runs; then its execution reads that it must stop."""
        fields = map(field_of, tokens)
        keys = (self._flight, self._list, self._stops)
        reply = self._run("stop", keys, KEEP_S, self._jobs, self._ids, self._beats, *fields)
        return [bool(runs) for runs in reply]

    def notify(self, tokens: Sequence[Token], word: str) -> None:
        """Let `stop_requested` of the attempts show `word`. Whoever has seen "stop" sees it to the end."""
        self._run("notify", (self._stops,), KEEP_S, self._insides, word, *map(field_of, tokens))

    def sweep(self, claims: Iterable[Claim]) -> list[bool]:
        """Remove our keys of attempts that are over; by force, RQ's keys too. Returns for each whether RQ
        still has keys of it.

        Assumes: no RQ worker is about to remove the keys that are removed by force. It would treat the job as
        failed.
        """
        arguments: list[Any] = []
        for claim in claims:
            arguments += [field_of(claim.token), b" ".join(claim.entries), int(claim.by_force)]
        registries = [f"{self._rq}:{name}:{self._queue}" for name in ("wip", "failed")]
        keys = (self._flight, self.replies, self._list, *registries)
        reply = self._run("sweep", keys, self._rq, self._ids, self._beats, self._insides, *arguments)
        return [bool(has_keys) for has_keys in reply]

    def look(self, tokens: Iterable[Token]) -> list[str]:
        """The states of attempts that are not known to have begun: "begun", "queued" or "missing". Assumes:
        `tokens` are in the order in which they were queued."""
        reply = self._run("look", (self._list,), self._ids, self._beats, *map(field_of, tokens))
        return [state.decode() for state in reply]

    def are_alive(self, tokens: Sequence[Token]) -> list[bool]:
        """For each attempt that has begun: whether it lives, or its report waits to be claimed."""
        beats = [self._beat(token) for token in tokens]
        pipeline = self._client.pipeline(transaction=False)
        for beat in beats:
            pipeline.get(beat)
            pipeline.pttl(beat)
        reply = pipeline.execute()
        holders, left_ms = reply[::2], reply[1::2]
        for beat, holder, left in zip(beats, holders, left_ms, strict=True):
            # This beat was set before the server's clock was set back, and would expire that much later.
            if holder != _DONE and left > BEAT_S * 1000 + _CLOCK_TOLERANCE_MS:
                pipeline.pexpire(beat, int(BEAT_S * 1000))
        pipeline.execute()
        return [holder is not None for holder in holders]

    def fleet_state(self) -> Literal["there", "suspended", "absent"]:
        """Whether RQ workers serve RQ's queue, by RQ's own records of its workers."""
        pipeline = self._client.pipeline(transaction=False)
        pipeline.exists(f"{self._rq}:suspended")
        pipeline.smembers(f"{self._rq}:workers:{self._queue}")
        is_suspended, workers = pipeline.execute()
        if is_suspended:
            return "suspended"
        for worker in workers:  # RQ removes dead ones from the set only now and then, but their keys expire
            pipeline.exists(worker)
        return "there" if any(pipeline.execute()) else "absent"

    def read(
        self, since: bytes, told_since: bytes, count: int, wait_s: float
    ) -> tuple[list[tuple[bytes, bytes]], list[Told]]:
        """Wait up to `wait_s` for what comes after `since` among the replies: pairs of entry and frame, at
        most `count`; and after `told_since` among the told. What an attempt has told comes before its report.
        """
        wanted = {self.replies: since, self._told: told_since}
        found = _entries(self._client.xread(wanted, count=count, block=int(wait_s * 1000)))
        replies = [(entry, fields.get(b"f", b"")) for entry, fields in found.get(self.replies, ())]
        new = found.get(self._told, ())
        told = _told(new)
        while replies and len(new) == count:  # a report among these may have come after more of the told
            new = _entries(self._client.xread({self._told: new[-1][0]}, count=count)).get(self._told, ())
            told += _told(new)
        return replies, told

    def forget_told(self, entries: Sequence[bytes]) -> None:
        """Remove what has been handed on, so that no later forwarder hands it on again."""
        self._client.xdel(self._told, *entries)

    def read_one(self, entry: bytes) -> bytes | None:
        """The frame of one entry; None when it was claimed."""
        found = self._client.xrange(self.replies, entry, entry)
        return found[0][1][b"f"] if found else None

    # ------------------------------------------------------------------------------------------------------

    def _beat(self, token: Token) -> str:
        return self._beats + field_of(token)

    def _inside(self, token: Token) -> str:
        return self._insides + field_of(token)

    def _setup(self, revision: int) -> str:
        return f"qe:rq:{self._uid}:setup:{revision}"

    def _run(self, name: str, keys: Sequence[str], *arguments: Any) -> Any:
        return self._client.register_script(_source(name))(keys=keys, args=arguments)


def _entries(reply: Any) -> dict[str, Sequence[tuple[bytes, dict[bytes, bytes]]]]:
    """The reply to XREAD: entries by stream. It is a dict in version 3 of the protocol, which RQ's user may
    have chosen."""
    if isinstance(reply, dict):
        return {key.decode(): [entry for part in parts for entry in part] for key, parts in reply.items()}
    return {key.decode(): entries for key, entries in reply or ()}


def _told(entries: Iterable[tuple[bytes, dict[bytes, bytes]]]) -> list[Told]:
    found = []
    for entry, fields in entries:
        number = fields.get(b"n", b"")
        if number.isdigit():
            found.append(Told(entry, fields.get(b"e", b""), int(number), fields.get(b"f", b"")))
    return found
