"""Runs the processes under attack: a server, a driver and workers. Ends them whatever happens.

A process that was killed is started again when it is due. One that ends without having been killed is a
casualty: that is noted, and it is started again too. All calls come from one thread.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from queue_eval.chaos import processes
from queue_eval.chaos.clock import ServerClock
from queue_eval.chaos.driver import CAMPAIGN, NOBODY_THERE, Orders
from queue_eval.chaos.evidence import REFUSED
from queue_eval.chaos.proxy import FaultProxy
from queue_eval.chaos.settings import Settings
from queue_eval.chaos.workload import MAX_ATTEMPTS, MAX_LOSSES, RETRY_DELAY_S, TIME_LIMIT_S, prepare
from queue_eval.errors import QueueEvalError
from queue_eval.model.states import Method
from queue_eval.server.home import ServerHome
from queue_eval.server.lifecycle import server_state, start_server, stop_server
from queue_eval.transport.access import Access, write_access
from queue_eval.transport.wire import short_path

RQ_QUEUE = "chaos"

_JOBS_PER_SLOT = 20
_SHORT_JOBS_PER_SLOT = 200
"""How many jobs are outstanding for each slot; the latter if all are short."""

_LOG_TAIL_BYTES = 400
_RESTART_AFTER_S = 0.5

_SECOND_SERVER_TIMEOUT_S = 60.0

_DRAIN_TIMEOUT_S = 60.0
"""How long a worker may take to end after it was asked to. This time begins anew while it is paused or the
server is away."""


@dataclass
class Drain:
    """A request that a worker end by itself."""

    by: float
    """When it must have ended (monotonic, s)."""
    back_after_s: float
    """How long after its end the next worker is due."""
    times: int = 1
    """How often it was asked."""


@dataclass
class Seat:
    """A place for one process at a time: the process that runs there now, and when the next one is due."""

    role: str
    """driver, worker or rq."""
    number: int
    access: Path
    """The access file by which it finds the server, through its own proxy if it has one."""
    proxy: FaultProxy | None = None
    name: str = ""
    """The name of the worker."""
    process: subprocess.Popen[bytes] | None = None
    due_at: float = 0.0
    is_paused: bool = False
    was_killed: bool = False
    drain: Drain | None = None
    lives: int = 0
    log_from: int = 0
    """The offset in the log at which this life begins."""
    log: Path = field(default_factory=Path)

    @property
    def is_up(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid


class Fleet:
    """A context manager: leaving it ends every process. All that they write is in `folder`."""

    def __init__(self, settings: Settings, folder: Path, *, is_temporary: bool) -> None:
        self.settings = settings
        self.folder = folder
        self.home = folder / "home"
        self.mark = secrets.token_hex(8)
        self.casualties: list[str] = []
        self.is_done = False
        """Whether the driver has come to its end."""
        self.server_due_at: float | None = None
        """When a killed server is due to be started again."""
        self.is_server_lost = False
        """Whether the server could not be started again."""
        self._temporary = folder / "tmp"
        self._logs = folder / "logs"
        self._open_ways = contextlib.ExitStack()
        self._clock = ServerClock(folder) if settings.has("clock-back") else None
        self._guard = self._start_guard(is_temporary=is_temporary)
        self._access: Access | None = None
        self.driver = Seat("driver", 0, Path())
        self.workers: list[Seat] = []
        self.rq: list[Seat] = []

    def __enter__(self) -> Fleet:
        try:
            self._open()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def access(self) -> Access:
        """The access to the server itself, past all proxies."""
        assert self._access is not None
        return self._access

    @property
    def server_pid(self) -> int | None:
        return server_state(self.home).pid

    def seats(self) -> list[Seat]:
        return [self.driver, *self.workers, *self.rq]

    def close(self) -> None:
        processes.end_all(self.mark)
        for seat in self.seats():
            if seat.process is not None:
                seat.process.wait()
            if seat.proxy is not None:
                seat.proxy.close()
        if self._guard.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._guard.stdin.write(b".")
                self._guard.stdin.close()
        self._guard.wait()
        self._open_ways.close()

    # Keeping them running -------------------------------------------------------------------------------

    def keep(self) -> None:
        """Start again the processes that are due, and note those that have ended by themselves."""
        now = time.monotonic()
        if self.server_due_at is not None and now >= self.server_due_at:
            self._revive_server()
        for seat in self.seats():
            if seat.drain is not None and (seat.is_paused or self.server_due_at is not None):
                seat.drain.by = now + _DRAIN_TIMEOUT_S
            if seat.drain is not None and seat.is_up and now > seat.drain.by:
                self.casualties.append(
                    f"worker {seat.name} did not end in {_DRAIN_TIMEOUT_S:g} s when asked to"
                )
                self.kill(seat, _RESTART_AFTER_S)
            if seat.is_up or (seat is self.driver and self.is_done):
                continue
            if seat.process is not None:
                self._note_end(seat)
            if now >= seat.due_at and not (seat is self.driver and self.is_done):
                self._start(seat)

    def start_server(self) -> None:
        """Start the server; after its death, start it again with its settings and data."""
        clock = self._clock.environment if self._clock is not None else {}
        with _inherited(self._environment() | clock):
            self._access = start_server(self.home, keep=True)
        self.server_due_at = None

    def kill_server(self, back_after_s: float) -> bool:
        pid = self.server_pid
        if pid is None or self.server_due_at is not None:
            return False
        self.server_due_at = time.monotonic() + back_after_s
        processes.send(pid, signal.SIGKILL)
        return processes.wait_for(lambda: self.server_pid is None, 10.0, 0.005)

    def set_clock_back(self, by_s: float) -> None:
        assert self._clock is not None
        self._clock.set_back(by_s)

    def try_second_server(self) -> str:
        """Try to start a second server on the living server's folder, where that server's process cannot be
        seen. Returns REFUSED, or what has happened instead."""
        before = self.server_pid
        start = [sys.executable, "-P", "-m", "queue_eval", "server", "start", "--home", str(self.home)]
        done = subprocess.run(
            [*processes.hidden(), *start], capture_output=True, text=True, check=False, cwd=self.folder,
            env=self._environment(), timeout=_SECOND_SERVER_TIMEOUT_S,
        )  # fmt: skip
        if self.server_pid != before:
            return f"the server was process {before}, and is {self.server_pid}"
        was_refused = done.returncode != 0 or "already running" in done.stdout
        return REFUSED if was_refused else f"started: {done.stdout.strip()}"

    def kill(self, seat: Seat, back_after_s: float, *, same_name: bool = False) -> None:
        seat.was_killed = True
        seat.due_at = time.monotonic() + back_after_s
        if not same_name:
            seat.name = ""
        assert seat.process is not None
        seat.process.kill()
        seat.process.wait()

    def can_drain(self, seat: Seat) -> bool:
        """Whether a worker has begun to serve: from then on it drains when it is asked to."""
        return seat.is_up and f" worker {seat.name}: ".encode() in self._log_of(seat)

    def ask_to_end(self, seat: Seat, back_after_s: float) -> None:
        """Ask a worker to finish what it runs and end. Another one takes its place."""
        seat.drain = Drain(time.monotonic() + _DRAIN_TIMEOUT_S, back_after_s)
        processes.send(seat.pid, signal.SIGTERM)

    def stop_all(self, seat: Seat, back_after_s: float, *, turn: str, gap_s: float) -> None:
        """Ask the same by a signal to the worker and all its descendants; see `processes.signal_tree`."""
        if seat.drain is None:
            seat.drain = Drain(time.monotonic() + _DRAIN_TIMEOUT_S, back_after_s)
        else:
            seat.drain.times += 1
        processes.signal_tree(seat.pid, signal.SIGTERM, turn=turn, gap_s=gap_s)

    def ask_again(self, seat: Seat) -> None:
        """Ask a worker again, so that it stops what it runs."""
        assert seat.drain is not None
        seat.drain.times += 1
        processes.send(seat.pid, signal.SIGTERM)

    def pause(self, seat: Seat) -> None:
        seat.is_paused = processes.send(seat.pid, signal.SIGSTOP)

    def resume(self, seat: Seat) -> None:
        if seat.is_up:
            processes.send(seat.pid, signal.SIGCONT)
        seat.is_paused = False

    def child_pids(self) -> list[tuple[int, tuple[str, ...]]]:
        """The processes that run user code: (pid, the workers that it may belong to)."""
        method = self.settings.method
        everyone = tuple(seat.name for seat in self.workers)
        if method is Method.RAY:
            ray = [p for p in processes.marked(self.mark) if _begins(p, "ray::")]
            return [(process.pid, everyone) for process in ray]
        seats = self.rq if method is Method.RQ else self.workers
        return [
            (process.pid, everyone if method is Method.RQ else (seat.name,))
            for seat in seats
            if seat.is_up
            for process in processes.below([seat.pid])
        ]

    # The end --------------------------------------------------------------------------------------------

    def drain(self, timeout_s: float = 30.0) -> list[str]:
        """Ask all workers to finish and end. Returns a description of each that has not drained in order."""
        for seat in self.workers:
            if seat.is_up:
                processes.send(seat.pid, signal.SIGTERM)
        processes.wait_for(lambda: not any(seat.is_up for seat in self.workers), timeout_s)
        wrong = []
        for seat in self.workers:
            if seat.is_up:
                wrong.append(f"worker {seat.name} (pid {seat.pid}) did not drain")
            elif seat.process is not None and seat.process.returncode != 0:
                wrong.append(f"worker {seat.name} drained with status {seat.process.returncode}")
        for seat in self.rq:
            if seat.process is not None:
                seat.process.kill()
                seat.process.wait()
        return wrong

    def stop_server(self) -> None:
        stop_server(self.home)

    def temporary_files(self) -> list[str]:
        """The files that processes have left in their temporary folder."""
        found = sorted(path.relative_to(self._temporary) for path in self._temporary.rglob("*"))
        # Ray keeps the logs of its sessions there on purpose.
        return [str(path) for path in found if path.parts[0] != "ray"]

    # ----------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        for folder in (self._temporary, self._logs):
            folder.mkdir(parents=True)
        prepare(self.folder)
        self.start_server()
        self.driver = self._seat("driver", 0)
        self.workers = [self._seat("worker", number) for number in range(self.settings.workers)]
        if self.settings.method is Method.RQ:
            self.rq = [self._seat("rq", number) for number in range(self.settings.total_slots)]
        self._orders().write(self.folder)
        for seat in self.seats():
            self._start(seat)

    def _seat(self, role: str, number: int) -> Seat:
        way = self.folder / "ways" / f"{role}-{number}"
        way.mkdir(parents=True, mode=0o700)
        access = self.access
        proxy = None
        url = access.url
        if self.settings.has("cut") and role != "rq":
            record = ServerHome(self.home).read()
            assert record is not None
            proxy = FaultProxy(self._open_ways.enter_context(short_path(record.socket)))
            host, port = proxy.address
            url = f"redis://:{record.password}@{host}:{port}/0"
        write_access(way, url, access.key)
        return Seat(role, number, way / "access.json", proxy, log=self._logs / f"{role}-{number}.log")

    def _orders(self) -> Orders:
        settings = self.settings
        keywords: dict[str, object] = {
            "campaign": CAMPAIGN, "access": str(self.driver.access), "home": str(self.home),
            "local_workers": False, "max_attempts": MAX_ATTEMPTS, "max_losses": MAX_LOSSES,
            "time_limit": TIME_LIMIT_S, "retry_delay": (RETRY_DELAY_S, 2, 1.0),
        }  # fmt: skip
        if settings.method is Method.RAY:
            keywords["num_cpus"] = settings.slots  # each worker has a Ray of its own
        elif settings.method is Method.RQ:
            keywords |= {"num_workers": settings.total_slots, "rq_queue": RQ_QUEUE}
        jobs_per_slot = _SHORT_JOBS_PER_SLOT if settings.only_short else _JOBS_PER_SLOT
        return Orders(
            settings.method.value, keywords, settings.evaluations, settings.seed,
            window=max(30, jobs_per_slot * settings.total_slots),
            only_short=settings.only_short,
        )  # fmt: skip

    def _start(self, seat: Seat) -> None:
        seat.lives += 1
        seat.was_killed = seat.is_paused = False
        seat.drain = None
        seat.log_from = seat.log.stat().st_size if seat.log.exists() else 0
        python = [sys.executable, "-P", "-m"]
        more: dict[str, str] = {}
        if seat.role == "driver":
            command = [*python, "queue_eval.chaos.driver", str(self.folder)]
        elif seat.role == "rq":
            command = [
                str(Path(sys.executable).with_name("rq")), "worker",
                "-c", "queue_eval.rq_bridge.job", RQ_QUEUE,
            ]  # fmt: skip
            # Not on the command line: every user of the machine can read that.
            more = {"RQ_REDIS_URL": self.access.url}
        else:
            seat.name = seat.name or f"w{seat.number}-{seat.lives}"
            command = [
                *python, "queue_eval", "worker", "-n", str(self.settings.slots), "--name", seat.name,
                "--lease", f"{self.settings.lease_s:g}", "--home", str(self.home),
                "--access", str(seat.access),
            ]  # fmt: skip
        with seat.log.open("ab") as log:
            seat.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environment() | more,
                cwd=self.folder, start_new_session=True,
            )  # fmt: skip

    def _revive_server(self) -> None:
        try:
            self.start_server()
        except QueueEvalError as error:
            self.casualties.append(f"the server did not start again: {error}")
            self.server_due_at = None
            self.is_server_lost = True

    def _note_end(self, seat: Seat) -> None:
        process, seat.process = seat.process, None
        assert process is not None
        if seat is self.driver and process.returncode == 0:
            self.is_done = True
        elif process.returncode == NOBODY_THERE or seat.role == "rq":
            # RQ's workers end when their Redis is away.
            seat.due_at = time.monotonic() + _RESTART_AFTER_S
        elif seat.drain is not None and not seat.was_killed and self._has_drained(seat, process.returncode):
            seat.name = ""
            seat.due_at = time.monotonic() + seat.drain.back_after_s
        elif not seat.was_killed:
            self.casualties.append(
                f"{seat.role} {seat.name or seat.number} ended "
                f"{'by itself' if seat.drain is None else 'when asked to, but'} with status "
                f"{process.returncode}: {_tail(seat.log)}"
            )
            seat.due_at = time.monotonic() + 2 * _RESTART_AFTER_S

    def _has_drained(self, seat: Seat, status: int) -> bool:
        assert seat.drain is not None
        if seat.drain.times > 1 and status == -signal.SIGTERM:
            # The second signal may come when Python is at its very end, and handles no signals any more.
            return f"worker {seat.name} has ended".encode() in self._log_of(seat)
        return status == 0

    def _log_of(self, seat: Seat) -> bytes:
        """The log of this life."""
        with seat.log.open("rb") as log:
            log.seek(seat.log_from)
            return log.read()

    def _environment(self) -> dict[str, str]:
        return processes.environment(self.mark, self._temporary)

    def _start_guard(self, *, is_temporary: bool) -> subprocess.Popen[bytes]:
        # It must outlive this process, and is no victim: so it has no mark.
        return subprocess.Popen(
            [
                sys.executable, "-P", "-m", "queue_eval.chaos.guard", self.mark,
                str(self.folder) if is_temporary else "",
            ],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip


@contextlib.contextmanager
def _inherited(environment: dict[str, str]) -> Iterator[None]:
    """Let processes that are started within inherit this environment."""
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(environment)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _begins(process: psutil.Process, word: str) -> bool:
    """Whether the command line of a process begins with `word`."""
    with contextlib.suppress(psutil.Error):
        return "".join(process.cmdline()).startswith(word)
    return False


def _tail(path: Path) -> str:
    return " ".join(path.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace").split())
