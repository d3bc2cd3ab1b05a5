"""The process that forwards to RQ, started by `workers.executors.rq`: one RQ job for each attempt.

::

    pipe ──▶ inbox ──▶ one thread: notes what is wanted, makes RQ jobs, looks, sweeps ──▶ RQ's Redis
                ▲                                                                 │ XREAD, blocking
                └────────────── another: reads replies ◀── RQ workers ◀───────────┘

The first thread holds all state. The state may be lost: when an attempt, or a later one of its job, is
submitted again, it joins what RQ still holds of an earlier life. While RQ's Redis is away everything stays as
it is. When it is back, running attempts first get the time to show that they live.
"""

from __future__ import annotations

import dataclasses
import queue
import sys
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from rq import Queue, defaults

from queue_eval.backoff import Backoff
from queue_eval.model.attempt import Attempt, Token
from queue_eval.rq_bridge.commands import BEAT_S, RqCommands, Told
from queue_eval.runtime.elsewhere import to_elsewhere
from queue_eval.runtime.forwarder import Outlet, run_guarded, serve
from queue_eval.runtime.notices import STOP
from queue_eval.runtime.pipe import Kind, Report, Setup, frame, parse_frame, parse_report
from queue_eval.transport.access import Access
from queue_eval.transport.clients import new_client
from queue_eval.transport.error_kinds import REDIS_ERRORS, is_refusal, reason, remedy
from queue_eval.transport.urls import safe_url
from workers.executors.rq_cleanup import CLOSE_S, TraceCleanup
from workers.executors.rq_fleet import FleetWatch
from workers.executors.signs import token_of

_REPLY_TIMEOUT_S = 10.0
_BLOCK_S = 5.0
_READ_COUNT = 64

_LOOK_S = 3.0
"""How often to check attempts in flight. An attempt that is missing twice is given up."""

_REFRESH_S = 60.0
_RETRY_S = (0.1, 5.0)

_MAX_BATCH = 200
_MAX_BATCH_BYTES = 8 * 2**20

_FAILURE_TTL_S = 60

_MAX_LATE_SUCCESSES = 10_000
"""How many successes are remembered that no attempt has claimed."""

_MAX_STRAY = 1000
"""How many frames of running attempts are remembered that may belong to one that is yet to be joined."""

_SUCCESSES = ("ok", "stopped")


@dataclasses.dataclass(slots=True)
class _Flight:
    """An attempt, and the one that runs in RQ in its place: itself or, joined, an earlier one of its job."""

    token: Token
    config: bytes
    rq: Token
    tried: bool = False
    """Whether RQ may have it."""
    begun: bool = False
    has_duplicates: bool = False
    """Whether RQ may have traces of it more than once."""
    missed: int = 0
    entries: tuple[bytes, ...] = ()
    slots: int = 1
    word: str = ""
    """What its `stop_requested` is to show; "" when nothing."""
    told: dict[bytes, int] = dataclasses.field(default_factory=dict)
    """By execution: the number of the last frame of it that was handed on."""


class RqBackend:
    """A `queue_eval.runtime.forwarder.Backend`."""

    def __init__(self, setup: Setup, outlet: Outlet) -> None:
        assert setup.forward is not None
        self._forward = forward = setup.forward
        self._outlet = outlet
        self._name = setup.name
        forwarded = {name: forward[name] for name in ("time_limit_s", "campaign")}
        # The same for all forwarders of the campaign: it is stored once for all attempts.
        shared = to_elsewhere(setup.inside, worker="", ends_unix_s=None)
        self._setup = setup.replace(forward=forwarded, inside=shared).encode()
        own = to_elsewhere(setup.inside) or {}
        self._facts = {name: own[name] for name in ("worker", "ends_unix_s") if name in own}
        self._access = Access(forward["url"], None, None, ca=forward.get("ca"))
        self._client = self._connect(_REPLY_TIMEOUT_S)
        self._commands = RqCommands(
            self._client, forward["uid"], forward["queue"], prefix=getattr(defaults, "RQ_KEY_PREFIX", "rq")
        )
        self._queue = Queue(forward["queue"], connection=self._client)
        self._inbox: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._waiting: OrderedDict[Token, _Flight] = OrderedDict()
        self._flying: OrderedDict[Token, _Flight] = OrderedDict()
        self._by_rq: dict[Token, Token] = {}
        self._recalled: dict[Token, None] = {}
        self._stopping: dict[Token, float] = {}
        self._cleanup = TraceCleanup(self._commands)
        self._fleet = FleetWatch(self._commands, forward["queue"], safe_url(forward["url"]))
        self._late: OrderedDict[int, tuple[Token, bytes]] = OrderedDict()
        self._stray: deque[Told] = deque(maxlen=_MAX_STRAY)
        self._handed_on: list[bytes] = []
        self._unnotified: dict[Token, None] = {}
        self._early_words: dict[Token, str] = {}
        """The words for attempts that are yet to be submitted."""
        self._begun_now: list[Token] = []
        self._reports: list[Report] = []
        self._connected = False
        self._why = ""
        self._retry_at = 0.0
        self._backoff = Backoff(*_RETRY_S, jitter=0.5)
        self._trust_at = 0.0
        self._look_at = 0.0
        self._refresh_at = 0.0
        self._closed: threading.Event | None = None
        for work in (self._work, self._read):
            run_guarded(work)

    # From the worker --------------------------------------------------------------------------------------

    def submit(self, attempts: Sequence[Attempt]) -> None:
        self._inbox.put(("submit", attempts))

    def recall(self, tokens: Sequence[Token]) -> None:
        self._inbox.put(("recall", tokens))

    def stop(self, tokens: Sequence[Token]) -> None:
        self._inbox.put(("stop", tokens))

    def notify(self, tokens: Sequence[Token], word: str) -> None:
        self._inbox.put(("notify", (tokens, word)))

    def close(self) -> None:
        closed = threading.Event()
        self._inbox.put(("close", closed))
        closed.wait(CLOSE_S)

    # The threads ------------------------------------------------------------------------------------------

    def _read(self) -> None:
        """Put replies into the inbox."""
        commands = self._commands.over(self._connect(_BLOCK_S + _REPLY_TIMEOUT_S))
        since, told_since, backoff = b"0", b"0", Backoff(*_RETRY_S, jitter=0.5)
        while True:
            try:
                entries, told = commands.read(since, told_since, _READ_COUNT, _BLOCK_S)
            except (*REDIS_ERRORS, OSError):
                time.sleep(backoff.next_s())
                # Read from the start: the server may have lost entries. Repeated replies are ignored.
                since = told_since = b"0"
                continue
            backoff.reset()
            if told:
                told_since = told[-1].entry
                self._inbox.put(("told", told))
            if entries:
                since = entries[-1][0]
                self._inbox.put(("replies", entries))

    def _work(self) -> None:
        while True:
            self._take_inbox()
            if time.monotonic() >= self._retry_at:
                try:
                    self._advance()
                except (*REDIS_ERRORS, OSError) as error:
                    self._lose(error)
            self._send_news()
            if self._closed is not None and (self._is_tidy() or not self._connected):
                self._closed.set()

    def _take_inbox(self) -> None:
        """Wait until there is something to do, and take in all that has come. This talks to no server."""
        takers: dict[str, Callable[[Any], None]] = {
            "submit": self._take_attempts, "recall": self._take_recalled, "stop": self._take_stopped,
            "replies": self._take_replies, "close": self._take_close, "told": self._take_told,
            "notify": self._take_notice,
        }  # fmt: skip
        try:
            kind, content = self._inbox.get(timeout=self._pause())
            while True:
                takers[kind](content)
                kind, content = self._inbox.get_nowait()
        except queue.Empty:
            return

    def _pause(self) -> float:
        now = time.monotonic()
        if not self._connected:
            return max(0.0, self._retry_at - now)
        due = (self._look_at, self._fleet.look_at, self._cleanup.due_at(), *self._stopping.values())
        return max(0.0, min(due) - now)

    def _is_tidy(self) -> bool:
        """Whether nothing is left to do before the end."""
        return not self._stopping and self._cleanup.is_tidy()

    def _send_news(self) -> None:
        self._send_begun()
        reports, self._reports = self._reports, []
        if reports:
            self._outlet.report(reports)

    def _send_begun(self) -> None:
        begun, self._begun_now = self._begun_now, []
        if begun:
            self._outlet.begun(begun)

    # What has come ----------------------------------------------------------------------------------------

    def _take_attempts(self, attempts: Sequence[Attempt]) -> None:
        for attempt in attempts:
            word = self._early_words.pop(attempt.token, "")
            self._waiting[attempt.token] = _Flight(
                attempt.token, attempt.config, attempt.token, slots=attempt.slots, word=word
            )
            if word:
                self._unnotified[attempt.token] = None

    def _take_recalled(self, tokens: Sequence[Token]) -> None:
        back: list[Token] = []
        for token in tokens:
            flight = self._find(token)
            if flight is not None and not flight.tried:
                self._strike_off(flight)
                back.append(token)
            elif flight is not None and not flight.begun:
                self._recalled[token] = None
        if back:
            self._outlet.returned(back)

    def _take_stopped(self, tokens: Iterable[Token]) -> None:
        for token in tokens:
            flight = self._find(token)
            if flight is not None:
                self._strike_off(flight)
                if flight.tried:
                    self._stopping[flight.rq] = 0.0

    def _take_notice(self, notice: tuple[Sequence[Token], str]) -> None:
        tokens, word = notice
        for token in tokens:
            flight = self._find(token)
            if flight is None:
                self._early_words[token] = word
            elif flight.word != STOP:
                flight.word = word
                self._unnotified[token] = None

    def _take_told(self, told: Iterable[Told]) -> None:
        """Hand on what running attempts tell. Those of others are left alone: in time they go."""
        frames = [taken for found in told if (taken := self._taken(found))]
        self._send_begun()
        if frames:
            self._outlet.tell(b"".join(frames))

    def _taken(self, told: Told) -> bytes:
        """The frame for the worker; b"" if there is none for it."""
        try:
            header, body = parse_frame(told.frame)
            rq = token_of(header, body)
        except (ValueError, TypeError, IndexError, RecursionError) as error:
            sys.stderr.write(f"entry {told.entry.decode()} of the told is none of ours: {error}\n")
            return b""
        token = self._by_rq.get(rq)
        flight = self._find(token) if token is not None else None
        if flight is None:
            self._stray.append(told)
            return b""
        self._handed_on.append(told.entry)
        if told.number <= flight.told.get(told.execution, 0):
            return b""
        flight.told[told.execution] = told.number
        self._begin(flight)
        return frame((header[0], *flight.token, *header[3:]), body)

    def _take_close(self, closed: threading.Event) -> None:
        self._closed = closed
        self._take_stopped([*self._waiting, *self._flying])
        self._cleanup.hurry()

    def _take_replies(self, entries: Iterable[tuple[bytes, bytes]]) -> None:
        for entry, data in entries:
            try:
                header, body = parse_frame(data)
                if header[0] == Kind.REPORT:
                    self._take_report(parse_report(header, body), entry)
                else:
                    ((job, attempt),) = header[1]
                    self._take_beginning(header[0], (job, attempt), entry)
            except (ValueError, TypeError, IndexError) as error:
                # An error here would end one forwarder after the other.
                sys.stderr.write(f"entry {entry.decode()} of the replies is none of ours: {error}\n")

    def _take_beginning(self, kind: str, rq: Token, entry: bytes) -> None:
        token = self._by_rq.get(rq)
        flight = self._find(token) if token is not None else None
        if flight is None:
            return  # it belongs to another forwarder, or is long over
        if entry not in flight.entries:
            flight.entries += (entry,)
        if kind == Kind.BEGUN:
            self._begin(flight)
        else:
            # The setup was missing: store it again. `_look` finds the attempt missing after RQ is done.
            self._refresh_at = 0.0

    def _take_report(self, report: Report, entry: bytes) -> None:
        rq = (report.id, report.attempt)
        token = self._by_rq.get(rq)
        flight = self._find(token) if token is not None else None
        if flight is not None:
            self._deliver(flight, report, entry)
            return
        if rq in self._stopping:
            self._cleanup.claim(rq, (entry,))
            return
        # The attempt was given up, or belongs to another forwarder.
        flights = (*self._flying.values(), *self._waiting.values())
        later = next((f for f in flights if f.token[0] == rq[0] and f.token[1] > rq[1]), None)
        if later is not None and report.outcome in _SUCCESSES:  # the first success wins
            if later.tried:
                self._stopping[later.rq] = 0.0
            self._deliver(later, report, entry)
        elif later is not None:
            self._cleanup.claim(rq, (entry,))
        elif report.outcome in _SUCCESSES:
            self._late[rq[0]] = (rq, entry)
            while len(self._late) > _MAX_LATE_SUCCESSES:
                self._late.popitem(last=False)

    def _deliver(self, flight: _Flight, report: Report, entry: bytes) -> None:
        job, attempt = flight.token
        self._strike_off(flight)
        self._reports.append(
            Report(job, attempt, report.outcome, report.run_ms, report.source, report.body, report.output)
        )
        rq = (report.id, report.attempt)
        self._cleanup.claim(rq, (*flight.entries, entry))
        if flight.has_duplicates:
            self._cleanup.claim_later_by_force(rq)

    def _begin(self, flight: _Flight) -> None:
        flight.missed = 0
        if not flight.begun:
            flight.begun = True
            self._begun_now.append(flight.token)

    def _find(self, token: Token) -> _Flight | None:
        return self._flying.get(token) or self._waiting.get(token)

    def _strike_off(self, flight: _Flight) -> None:
        self._flying.pop(flight.token, None)
        self._waiting.pop(flight.token, None)
        self._recalled.pop(flight.token, None)
        self._unnotified.pop(flight.token, None)
        if self._by_rq.get(flight.rq) == flight.token:
            del self._by_rq[flight.rq]

    def _put_back(self, flight: _Flight) -> None:
        """Let an attempt become an RQ job again."""
        self._flying.pop(flight.token, None)
        flight.missed, flight.has_duplicates = 0, True
        self._waiting[flight.token] = flight
        self._waiting.move_to_end(flight.token, last=False)

    # What is to be done -----------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Do all that is due. Any call may fail, and is then made again."""
        now = time.monotonic()
        if not self._connected:
            self._come_back(now)
        if now >= self._refresh_at:
            if not self._commands.refresh(self._forward["revision"]):
                self._commands.store_setup(self._forward["revision"], self._setup)
            self._refresh_at = now + _REFRESH_S
        self._recall()
        self._stop(now)
        while self._waiting and len(self._flying) < self._forward["in_flight"]:
            self._enqueue()
        self._notify()
        if self._handed_on:
            self._commands.forget_told(self._handed_on)
            self._handed_on = []
        if now >= self._look_at:
            self._look(now)
            self._look_at = now + _LOOK_S
        self._cleanup.sweep(now, self._by_rq)
        if (trouble := self._fleet.look(now)) is not None:
            self._outlet.trouble(trouble)

    def _come_back(self, now: float) -> None:
        self._client.ping()
        self._connected, self._why = True, ""
        self._backoff.reset()
        self._refresh_at, self._look_at = 0.0, now + _LOOK_S
        self._fleet.begin(now)
        # RQ workers may have lost their connection, too, or Redis their attempts: give them time.
        self._trust_at = now + BEAT_S
        for flight in self._flying.values():
            flight.has_duplicates = True
        flights = (*self._flying.values(), *self._waiting.values())
        self._unnotified |= {flight.token: None for flight in flights if flight.word}
        self._cleanup.distrust(now)
        self._outlet.slots(self._forward["in_flight"])

    def _lose(self, error: BaseException) -> None:
        why = f"RQ's Redis at {safe_url(self._forward['url'])}: {reason(error)}"
        if is_refusal(error):
            why += f"; {remedy(error)}"
        if self._connected or why != self._why:
            self._outlet.slots(0, why)
            self._why = why
        self._connected = False
        self._retry_at = time.monotonic() + self._backoff.next_s()

    def _recall(self) -> None:
        flights = [flight for token in self._recalled if (flight := self._find(token)) is not None]
        flights = [flight for flight in flights if not flight.begun]
        if flights:
            taken = self._commands.recall([flight.rq for flight in flights])
            back = [flight for flight, is_back in zip(flights, taken, strict=True) if is_back]
            for flight in back:
                self._strike_off(flight)
                self._cleanup.claim(flight.rq, flight.entries)
            if back:
                self._outlet.returned([flight.token for flight in back])
        self._recalled.clear()

    def _stop(self, now: float) -> None:
        due = [token for token, at in self._stopping.items() if at <= now]
        if not due:
            return
        for token, runs in zip(due, self._commands.stop(due), strict=True):
            if runs:
                self._stopping[token] = now + (0.1 if self._closed is not None else 1.0)
            else:
                del self._stopping[token]
                self._cleanup.claim(token)

    def _enqueue(self) -> None:
        """Make RQ jobs of waiting attempts, or join RQ jobs that are under way already."""
        room = min(self._forward["in_flight"] - len(self._flying), _MAX_BATCH)
        batch: list[_Flight] = []
        size = 0
        for flight in list(self._waiting.values()):
            if len(batch) >= room or size > _MAX_BATCH_BYTES:
                break
            if flight.token[0] not in self._late or not self._deliver_late(flight):
                batch.append(flight)
                size += len(flight.config)
        if not batch:
            return
        own: dict[int, list[int]] = {}
        for job, attempt in self._by_rq:
            own.setdefault(job, []).append(attempt)
        found = self._commands.want((f.token, f.config, own.get(f.token[0], ())) for f in batch)
        new: list[_Flight] = []
        for flight, (joined, _) in zip(batch, found, strict=True):
            flight.tried = True
            flight.rq = joined or flight.token
            self._by_rq[flight.rq] = flight.token
            if joined is None:
                new.append(flight)
        self._notify()  # before they can begin
        if new:
            self._queue.enqueue_many([self._job_data(flight) for flight in new])
        for flight, (_, has_begun) in zip(batch, found, strict=True):
            self._flying[flight.token] = self._waiting.pop(flight.token)
            if has_begun:
                self._begin(flight)
        if self._stray and any(joined for joined, _ in found):
            strays = list(self._stray)
            self._stray.clear()
            self._take_told(strays)

    def _notify(self) -> None:
        """Tell attempts that RQ may have what their `stop_requested` is to show."""
        flights = [flight for token in self._unnotified if (flight := self._find(token)) and flight.tried]
        for word in {flight.word for flight in flights}:
            self._commands.notify([flight.rq for flight in flights if flight.word == word], word)
        for flight in flights:
            del self._unnotified[flight.token]

    def _deliver_late(self, flight: _Flight) -> bool:
        """Report the success of an earlier attempt that none has claimed."""
        rq, entry = self._late.pop(flight.token[0])
        data = self._commands.read_one(entry)
        if data is None or rq[1] > flight.token[1]:
            return False
        report = parse_report(*parse_frame(data))
        self._begin(flight)
        self._deliver(flight, report, entry)
        return True

    def _job_data(self, flight: _Flight) -> Any:
        job, attempt = flight.token
        return Queue.prepare_data(
            "queue_eval.rq_bridge.job.run",
            args=(self._forward["uid"], job, attempt, self._forward["revision"]),
            timeout=-1,  # we enforce the limit: RQ's own would end the report with the attempt
            result_ttl=0,
            failure_ttl=_FAILURE_TTL_S,
            meta=self._facts | {"slots": flight.slots},
            description=f"{self._forward['campaign']} job {job} attempt {attempt}: {self._name}",
            job_id=self._commands.job_id(flight.token),
        )

    def _look(self, now: float) -> None:
        """Find attempts that have died or got lost, and attempts that have begun unnoticed."""
        begun = [flight for flight in self._flying.values() if flight.begun]
        others = [flight for flight in self._flying.values() if not flight.begun]
        if begun:
            for flight, lives in zip(begun, self._commands.are_alive([f.rq for f in begun]), strict=True):
                flight.missed = 0 if lives or now < self._trust_at else flight.missed + 1
                if flight.missed >= 2:
                    self._lost(flight)
        if others:
            for flight, state in zip(others, self._commands.look(f.rq for f in others), strict=True):
                flight.missed = flight.missed + 1 if state == "missing" else 0
                if state == "begun":
                    self._begin(flight)
                elif flight.missed >= 2:
                    self._put_back(flight)

    def _lost(self, flight: _Flight) -> None:
        self._strike_off(flight)
        body = f"the RQ worker that ran this job died: no sign of life for {BEAT_S:g} s".encode()
        self._reports.append(Report(*flight.token, "lost", 0.0, "", body, b""))
        self._cleanup.claim_by_force(flight.rq, flight.entries)

    def _connect(self, reply_timeout_s: float) -> Any:
        return new_client(self._access, name="queue_eval-rq", reply_timeout_s=reply_timeout_s)


if __name__ == "__main__":
    serve(RqBackend)
