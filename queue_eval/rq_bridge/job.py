"""The function that RQ workers run: it executes one attempt in a fork.

The RQ worker's process (its work horse, or a SimpleWorker itself) runs no user code. It waits, enforces the
time limit, gives signs of life, reads stops, relays what the job reports, and delivers the result. It tries
that for up to an hour, since an evaluation may have taken ten. User code that dies, hangs or holds the GIL is
reported, and a SimpleWorker lives on.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from rq import defaults, get_current_job

from queue_eval.backoff import Backoff
from queue_eval.foreign_text import plain
from queue_eval.model.attempt import Token
from queue_eval.rq_bridge.commands import BEAT_S, RqCommands
from queue_eval.rq_bridge.relay import Relay
from queue_eval.runtime.elsewhere import from_elsewhere, remove_folder
from queue_eval.runtime.forked import ForkedAttempt
from queue_eval.runtime.mailroom import Mailroom
from queue_eval.runtime.pipe import Report, Setup, parse_frame, parse_setup
from queue_eval.runtime.stop_signals import StopSignalHandlers
from queue_eval.runtime.temporary import MAILBOX, temporary_name
from queue_eval.transport.error_kinds import is_transient

log = plain(logging.getLogger("rq.worker.queue_eval"))

_HEART_AFTER_S = 1.0
"""Signs of life begin after so long. Shorter attempts need none but that of their beginning, unless they tell
something: then they may be told something, too."""

_BEAT_EVERY_S = 2.5

_KEEP_EVERY_S = 30.0
_KEEP_TTL_S = 120
"""How often, and for how long each time, RQ is prevented from treating the attempt as abandoned."""

_BEGIN_TIMEOUT_S = 30.0
_REPORT_TIMEOUT_S = 3600.0
"""How long to try to begin, and to deliver the report, while RQ's Redis is away."""

_GOOD_ENDS = ("ok", "stopped", "given back")

_CONNECTION_SETTINGS = frozenset({
    "host", "port", "db", "path", "username", "password", "credential_provider", "socket_keepalive",
})  # fmt: skip

T = TypeVar("T")


def run(uid: str, job: int, attempt: int, revision: int) -> None:
    """Run one attempt of the campaign `uid`, if it is still wanted and nobody else runs it."""
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        # This is a work horse, made for this job alone. On a stop signal to both, RQ's worker waits for it.
        StopSignalHandlers()
    current: Any = get_current_job()
    prefix = getattr(defaults, "RQ_KEY_PREFIX", "rq")
    commands = RqCommands(current.connection, uid, current.origin, prefix=prefix)
    token, execution = (job, attempt), os.urandom(8).hex()
    begun = _patiently(lambda: commands.begin(token, revision, execution), _BEGIN_TIMEOUT_S)
    if isinstance(begun, str):
        log.info("job %s is not run: %s", current.id, begun)
        return
    own = commands.over(_own_client(current.connection))
    relay = Relay(own, token, execution)
    setup = parse_setup(*parse_frame(begun.setup))
    room = _Room(setup, token, current.meta)
    assert setup.forward is not None
    forked = ForkedAttempt(
        room.setup, *token, begun.config, setup.forward["time_limit_s"], slots=room.slots,
        open_mailroom=room.open, take=relay.add,
    )  # fmt: skip
    heart = _Heart(own, token, execution, forked.stop, room.tell)
    relay.when_used = heart.hurry
    room.tell(begun.word)
    heart.start()
    report = None
    try:
        report = forked.run()
        relay.stop()
        over = commands if not heart.is_beating else heart.commands
        if report is None:
            _patiently(lambda: over.leave(token, execution, begun.entry), _BEGIN_TIMEOUT_S)
        else:
            frame = report.encode()
            _patiently(relay.push, _REPORT_TIMEOUT_S)
            _patiently(lambda: over.report(token, execution, begun.entry, frame), _REPORT_TIMEOUT_S)
    except BaseException:
        if report is None:  # the RQ worker is being ended by force, and user code with it
            lost = Report(*token, "lost", 0.0, "", b"the RQ worker that ran this job was ended", b"")
            commands.report(token, execution, begun.entry, lost.encode())
        raise
    finally:
        relay.stop()
        heart.stop()
        room.close(failed=report is not None and report.outcome not in _GOOD_ENDS)


class _Room:
    """What `current_job` finds on this machine. `meta`: of RQ's job, where the forwarder puts what differs
    from attempt to attempt."""

    def __init__(self, setup: Setup, token: Token, meta: dict[str, Any]) -> None:
        self.slots = int(meta.get("slots", 1))
        self._token = token
        self._lock = threading.Lock()
        self._mailroom: Mailroom | None = None
        self._inside = inside = setup.inside
        if inside is not None:
            known: dict[str, Any] = {name: meta[name] for name in ("worker", "ends_unix_s") if name in meta}
            self._inside = from_elsewhere({**inside, **known})
            # Made when it is needed: files take their time.
            self._folder = temporary_name()
            self._inside |= {"notices": self._folder, "mailbox": f"{self._folder}/{MAILBOX}"}
        self.setup = setup.replace(inside=self._inside)

    def open(self) -> Mailroom | None:
        """The mailbox of this attempt; None where there cannot be one. May be called from any thread."""
        with self._lock:
            if self._mailroom is None and self._inside is not None:
                try:
                    self._mailroom = Mailroom(self._folder).open()
                except OSError as error:
                    log.warning("this job sees no stops, and its forks cannot report: %s", error)
            return self._mailroom

    def tell(self, word: str) -> None:
        """Let `stop_requested` show `word`, unless it is ""."""
        if word and self._inside is not None and (mailroom := self.open()) is not None:
            mailroom.tell(self._inside["lane"], self._token, word)

    def close(self, *, failed: bool) -> None:
        with self._lock:
            mailroom, self._mailroom = self._mailroom, None
            inside, self._inside = self._inside, None
        if mailroom is not None:
            mailroom.close()
        if inside is not None:
            remove_folder(inside, *self._token, failed=failed)


class _Heart:
    """A thread that gives signs of life of a long execution, passes on what it is told, and ends the attempt
    when it is stopped."""

    def __init__(
        self, commands: RqCommands, token: Token, execution: str, stop: Callable[[], None],
        tell: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.commands = commands
        self.is_beating = False
        self._token = token
        self._execution = execution
        self._stop_attempt = stop
        self._tell_attempt = tell
        self._over = threading.Event()
        self._begin = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heart", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Give no more signs of life. The thread may hang in a last read, whose reply nobody needs."""
        self._over.set()
        self._begin.set()

    def hurry(self) -> None:
        """Begin now: the attempt listens."""
        self._begin.set()

    def _beat(self) -> None:
        self._begin.wait(_HEART_AFTER_S)
        if self._over.is_set():
            return
        self.is_beating = True
        since, kept_at = b"0", 0.0
        backoff = Backoff(0.1, BEAT_S / 4, jitter=0.5)
        while not self._over.is_set():
            try:
                self.commands.beat(self._token, self._execution)
                if time.monotonic() - kept_at > _KEEP_EVERY_S:
                    self.commands.keep(self._token, time.time(), _KEEP_TTL_S)
                    kept_at = time.monotonic()
                heard = self.commands.listen(self._token, since, _BEAT_EVERY_S)
                since = heard.since
                backoff.reset()
            except Exception as error:
                if not is_transient(error):
                    log.warning("no sign of life of job %s: %s", self.commands.job_id(self._token), error)
                self._over.wait(backoff.next_s())
                since = b"0"  # the server may have lost its data, and its entries may begin anew
                continue
            self._tell_attempt(heard.word)
            if heard.is_stopped:
                self._stop_attempt()
                return


def _patiently(operation: Callable[[], T], timeout_s: float) -> T:
    """The reply of `operation`, which is repeated while RQ's Redis is away, for `timeout_s` at most."""
    deadline = time.monotonic() + timeout_s
    backoff = Backoff(0.05, 5.0, jitter=0.5)
    while True:
        try:
            return operation()
        except Exception as error:
            if not is_transient(error) or time.monotonic() > deadline:
                raise
        time.sleep(backoff.next_s())


def _own_client(connection: Any) -> Any:
    """A client with the settings of RQ's, whose calls do not hang for minutes when nobody answers."""
    pool = connection.connection_pool
    if type(pool).__name__ == "SentinelConnectionPool":  # only RQ's own pool can ask for the master
        return connection
    settings = {
        name: value
        for name, value in pool.connection_kwargs.items()
        if name in _CONNECTION_SETTINGS or name.startswith("ssl_")
    }
    own = type(pool)(
        connection_class=pool.connection_class, **settings, socket_timeout=BEAT_S, client_name="queue_eval-rq"
    )
    return type(connection)(connection_pool=own)
