"""`current_job`: what a run function may ask and tell while it runs.

Only jobs that call it import this module. It must not import much: that time is the job's.

::

    run function ──report, checkpoint──▶ ReportSender ──▶ pipe of the child ──▶ worker
    its forks, other processes         ──▶ ReportSender ──▶ mailbox ─────────▶ worker
    stop_requested ◀── a file that the worker writes
"""

from __future__ import annotations

import os
from time import monotonic

from queue_eval.errors import AttemptEndedError, CheckpointError, UsageError
from queue_eval.model.codec import decode, encode
from queue_eval.runtime import attempts
from queue_eval.runtime.attempts import Attempt, AttemptGivenBack
from queue_eval.runtime.notices import STOP, notice_file, read_notice
from queue_eval.runtime.pipe import Kind
from queue_eval.runtime.report_sender import ReportSender
from queue_eval.runtime.report_values import checked

TYPE_CHECKING = False  # see `queue_eval`

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path
    from typing import Any

    from queue_eval.runtime.attempts import Send
    from queue_eval.runtime.checkpoints import Checkpoints

_LOOK_EVERY_S = 0.02
"""Notices are looked up at most this often."""

_FRAMES_OF_OTHERS = 20
"""Frames that a fork may send at once: nobody asks it to send what waits before it ends."""

_MAX_REASON_CHARACTERS = 1000

_GIVE_BACK_AGAIN_S = 1.0


def current_job(token: str | None = None) -> CurrentJob:
    """The job that runs here: in the thread that runs the function, threads that it starts, and its forks.

    With `token`, of `CurrentJob.token`: the job that made it, in any process on the same machine. Outside a
    job, and for the token "", an object that does nothing, so that a run function can be called in a test.
    Raises UsageError for a text that is no token.
    """
    if token is not None:
        return _of_token(token)
    attempt = attempts.current()
    return _outside if attempt is None or attempt.inside is None else _job_of(attempt)


class CurrentJob:
    """A running job, seen from inside. Thread-safe. Outside a job its methods do nothing."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self._inside: dict[str, Any] = attempt.inside or {}
        self._checkpoints: Checkpoints | None = None
        self._folder: Path | None = None
        self._senders: dict[int, ReportSender] = {}
        """By process: a fork has one of its own."""
        self._notice: str | None = None
        self._looked_at = 0.0
        self._told: dict[tuple[int, str], bool] = {}
        """What this process has told the worker already."""
        attempt.finisher = self._finish

    @property
    def id(self) -> int:
        """The job's number in its campaign, from 1. Do not name files by it: each campaign has a job 1."""
        return self._attempt.id

    @property
    def campaign(self) -> str:
        """The name of the campaign."""
        return str(self._inside.get("campaign", ""))

    @property
    def attempt(self) -> int:
        """The number of this attempt. A later attempt has a greater one, and numbers may be left out."""
        return self._attempt.number

    @property
    def config(self) -> dict[str, Any]:
        """A copy of the config as the run function got it, with "id"."""
        return {**decode(self._attempt.config), "id": self.id} if self._attempt.config else {}

    @property
    def worker(self) -> str:
        """The name of the worker."""
        return str(self._inside.get("worker", ""))

    @property
    def slots(self) -> int:
        """How many slots the job takes."""
        return self._attempt.slots

    @property
    def remaining_s(self) -> float | None:
        """Seconds until the time limit or the end of the worker's allocation, whichever is first, at least 0;
        None: no end."""
        limit_s, ends_at = self._inside.get("time_limit_s"), self._inside.get("ends_at")
        ends = [self._attempt.began + limit_s] if limit_s is not None else []
        ends += [ends_at] if ends_at is not None else []
        return max(0.0, min(ends) - monotonic()) if ends else None

    def report(self, step: int, /, **values: float) -> None:
        """Report numbers by name. NaN and infinities are kept. Costs some µs and never waits.

        A job may report a thousand times a second; of more, the newest values stay (`report_sender`).

        Raises ReportError when the step is no whole number or a value no number, and AttemptEndedError when
        the attempt is over.
        """
        self._sender().report(step, values)

    @property
    def folder(self) -> Path:
        """A working folder of this attempt's own, which is removed at its end. It is made when first asked
        for. Raises OSError, and AttemptEndedError when the attempt is over."""
        folder = self._folder
        if folder is None:
            from pathlib import Path

            attempt = self._attempt
            folder = Path(
                self._inside["folders"], f"{self.campaign}-{self._inside['uid']}",
                f"{attempt.id}-{attempt.number}",
            )  # fmt: skip
            # The worker hears of it first: it then removes the folder, whenever this process dies.
            self._sender().frame(Kind.FOLDER)
            folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.mkdir(mode=0o700, exist_ok=True)
            self._folder = folder
        return folder

    @property
    def checkpoint(self) -> Path | None:
        """The newest complete checkpoint that any attempt of this job has saved; None when there is none.

        Do not change it. It stays until the next save of this attempt is complete. Raises CheckpointError
        when it may be another account's.
        """
        return self._store().newest() if self._inside.get("checkpoints") is not None else None

    def save_checkpoint(self) -> AbstractContextManager[Path]:
        """A context manager that gives a fresh folder. At the end of the block it is written to the disk and
        becomes the newest checkpoint; the former one is removed.

        After an error in the block, or while saving, the former checkpoint stays: OSError as of a full disk,
        CheckpointError when checkpoints would take more room than the campaign allows, AttemptEndedError when
        the attempt is over.
        """
        from queue_eval.runtime.checkpoints import Saving

        return Saving(self._store(), self._check_running, self._tell_saved)

    @property
    def stop_requested(self) -> str | None:
        """"stop": return what there is, as the result. "drain": the worker's time ends, so save and call
        `give_back`. None: go on."""
        now = monotonic()
        if self._notice != STOP and now - self._looked_at >= _LOOK_EVERY_S:
            self._looked_at = now
            self._notice = self._look()
            self._tell_once(Kind.LOOKED)
        if self._notice == STOP:
            if self._is_original():
                self._attempt.was_shown_stop = True
            else:
                self._tell_once(Kind.SHOWN)
        return self._notice

    def give_back(self, reason: str = "") -> None:
        """End this attempt without a result and without charge: the job runs again, elsewhere or later.

        Does not return. In the thread that runs the function it raises AttemptGivenBack, a SystemExit;
        elsewhere it waits until the worker ends the attempt. Outside a job it returns.
        """
        text = str(reason)[:_MAX_REASON_CHARACTERS]
        attempt = self._attempt
        from _thread import get_ident

        if self._is_original() and attempt.is_over:
            raise AttemptEndedError("give_back: the attempt of this job is over; call it while the job runs")
        if self._is_original() and get_ident() == attempt.thread:
            attempt.given_back = text
            raise AttemptGivenBack(text)
        from time import sleep

        while True:
            try:
                self._sender().frame(Kind.GIVE_BACK, text)
            except AttemptEndedError:
                raise AttemptGivenBack(text) from None
            sleep(_GIVE_BACK_AGAIN_S)

    def token(self) -> str:
        """A text with which `current_job(token)` finds this job in another process of this machine, such as
        a program that the job starts. It has the config; under Ray also the secret by which jobs of this
        worker report."""
        from base64 import urlsafe_b64encode

        attempt = self._attempt
        if attempt.prepare is not None:
            attempt.prepare()
        facts = (
            self._inside, attempt.id, attempt.number, attempt.config.decode(), attempt.slots, attempt.began,
        )  # fmt: skip
        return urlsafe_b64encode(encode(facts).encode()).decode()

    def _store(self) -> Checkpoints:
        store = self._checkpoints
        if store is None:
            from pathlib import Path

            from queue_eval.runtime.checkpoints import Checkpoints

            base = self._inside.get("checkpoints")
            if base is None:
                raise CheckpointError("this worker has no folder for checkpoints; name one (checkpoints=)")
            store = self._checkpoints = Checkpoints(
                Path(base), self.campaign, self._inside["uid"], self._attempt.id, self._attempt.number,
                self._inside.get("checkpoint_space"),
            )  # fmt: skip
        return store

    def _check_running(self) -> None:
        if self._attempt.is_over:
            raise AttemptEndedError("the attempt of this job is over; save while the run function runs")

    def _tell_saved(self, save: int, place: str) -> None:
        try:  # noqa: SIM105 - contextlib takes a while to import
            self._sender().frame(Kind.SAVED, save, place)
        except AttemptEndedError:  # its worker is gone; the checkpoint is there for the next attempt
            pass

    def _is_original(self) -> bool:
        """Whether this is the process that runs the function."""
        return os.getpid() == self._attempt.pid

    def _sender(self) -> ReportSender:
        pid = os.getpid()
        sender = self._senders.get(pid)
        return sender if sender is not None else self._new_sender(pid)

    def _new_sender(self, pid: int) -> ReportSender:
        attempt = self._attempt
        token = (attempt.id, attempt.number)
        if pid == attempt.pid:
            return self._senders.setdefault(pid, ReportSender(token, attempt.began, attempt.send))
        from queue_eval.runtime.mailbox import Mailbox, finish_at_exit

        place = self._inside["mailbox"]
        send: Send = Mailbox(place, self._inside["lane"]) if isinstance(place, str) else attempt.send
        made = ReportSender(token, attempt.began, send, frames_at_once=_FRAMES_OF_OTHERS)
        sender = self._senders.setdefault(pid, made)
        if sender is made:
            finish_at_exit(sender.finish)
        return sender

    def _finish(self) -> None:
        sender = self._senders.get(os.getpid())
        if sender is None:
            if not self._is_original():
                return
            sender = self._sender()  # what comes late must be refused
        sender.finish()

    def _look(self) -> str | None:
        attempt = self._attempt
        if attempt.look is not None:
            return attempt.look()
        return read_notice(
            notice_file(self._inside["notices"], self._inside["lane"], attempt.id, attempt.number)
        )

    def _tell_once(self, kind: str) -> None:
        """Tell the worker, once for each process. A job that only looks does not end because nobody hears."""
        key = (os.getpid(), kind)
        if key in self._told:
            return
        self._told[key] = True
        try:  # noqa: SIM105 - contextlib takes a while to import
            self._sender().frame(kind)
        except AttemptEndedError:
            pass


class _OutsideJob(CurrentJob):
    """Outside a job: checks what it is given, and does nothing."""

    def report(self, step: int, /, **values: float) -> None:
        checked(step, values)

    @property
    def folder(self) -> Path:
        if self._folder is None:
            import atexit
            import shutil
            from pathlib import Path
            from tempfile import mkdtemp

            folder, pid = Path(mkdtemp(prefix="queue_eval-job-")), os.getpid()

            def remove() -> None:
                if os.getpid() == pid:  # not a fork
                    shutil.rmtree(folder, ignore_errors=True)

            atexit.register(remove)
            self._folder = folder
        return self._folder

    @property
    def checkpoint(self) -> Path | None:
        return None

    def save_checkpoint(self) -> AbstractContextManager[Path]:
        return _passing_folder()

    @property
    def stop_requested(self) -> str | None:
        return None

    def give_back(self, reason: str = "") -> None:  # noqa: ARG002 - as in a job
        return None

    def token(self) -> str:
        return ""


def _passing_folder() -> AbstractContextManager[Path]:
    from contextlib import contextmanager
    from pathlib import Path
    from tempfile import TemporaryDirectory

    @contextmanager
    def folder() -> Iterator[Path]:
        with TemporaryDirectory(prefix="queue_eval-checkpoint-") as name:
            yield Path(name)

    return folder()


def _job_of(attempt: Attempt) -> CurrentJob:
    job: CurrentJob | None = attempt.parts.get("job")
    if job is None:  # `setdefault`, since two threads may come here
        job = attempt.parts.setdefault("job", CurrentJob(attempt))
    return job


def _no_send(*_: object, **__: object) -> bool:
    return True


def _of_token(token: str) -> CurrentJob:
    if token == "":
        return _outside
    found = _by_token.get(token)
    if found is None:
        found = _by_token.setdefault(token, _parsed(token))
    return found


def _parsed(token: str) -> CurrentJob:
    from base64 import urlsafe_b64decode

    try:
        inside, job, number, config, slots, began = decode(urlsafe_b64decode(token))
        inside = dict(inside)
        attempt = Attempt(int(job), int(number), config.encode(), int(slots), inside, _no_send)
        attempt.began = float(began)
        if not isinstance(inside["mailbox"], str):  # it runs elsewhere than its worker
            from queue_eval.runtime.channel import Channel

            channel = Channel(inside["mailbox"], attempt.id, attempt.number)
            attempt.send, attempt.look = channel, channel.look
    except Exception as error:  # a text from anywhere
        raise UsageError(
            "current_job: this is no token; give the text that current_job().token() has returned in the job"
        ) from error
    here = attempts.current()
    if here is not None and here.inside == inside and (here.id, here.number) == (job, number):
        return _job_of(here)
    attempt.pid = 0  # no process of that number runs the function
    return CurrentJob(attempt)


_by_token: dict[str, CurrentJob] = {}
_outside = _OutsideJob(Attempt(0, 0, b"", 1, None, _no_send))
