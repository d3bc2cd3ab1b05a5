"""A real server for the whole session, and an environment that no test shares with the user's."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from queue_eval.campaign import keys
from queue_eval.errors import UsageError
from queue_eval.runtime.stop_signals import STOP_SIGNALS
from queue_eval.server.lifecycle import start_server, stop_server
from queue_eval.transport.access import find_access
from queue_eval.transport.link import Link
from tests.support.fake_worker import FakeWorker
from tests.support.waiting import wait_until

_numbers = itertools.count(1)


@pytest.hookimpl(tryfirst=True)  # before pytest looks at the markers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A variant that is marked "soak" is none of the long tests, whatever else it combines with."""
    for item in items:
        if item.get_closest_marker("soak"):
            item.own_markers[:] = [mark for mark in item.own_markers if mark.name != "long"]


@pytest.fixture(scope="session", autouse=True)
def _default_signals() -> None:
    """Processes are to begin with the defaults, also where nohup or a shell's `&` started these tests."""
    defaults = {signal.SIGINT: signal.default_int_handler}
    for number in STOP_SIGNALS:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, defaults.get(number, signal.SIG_DFL))


@pytest.fixture(scope="session", autouse=True)
def _own_folder_of_ray() -> Iterator[None]:
    """A Ray that a worker starts keeps its logs, and the address of its cluster, beyond its end."""
    # Not pytest's folder: the paths of Ray's unix sockets are long enough without it.
    place = tempfile.TemporaryDirectory(prefix="qe-", ignore_cleanup_errors=True)
    with place as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", folder)
        yield


@pytest.fixture(scope="session", autouse=True)
def _own_state_folder() -> Iterator[None]:
    """Homes are recorded in the user's state folder, which is not to learn of those of tests."""
    with tempfile.TemporaryDirectory(prefix="qe-") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", folder)
        yield


@pytest.fixture(scope="session", autouse=True)
def _own_working_directory() -> Iterator[None]:
    """The README has its example run where the tests run next, and it leaves a home: that is not theirs."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="qe-", ignore_cleanup_errors=True) as folder:
        os.chdir(folder)
        yield
        os.chdir(before)


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("QUEUE_EVAL_")]:
        monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _own_process() -> Iterator[None]:
    """What a test calls in this process may change it; the next test finds it as it was.

    The `main` of a program sets handlers of signals. What loads user code sorts `sys.path`.
    """
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    path = list(sys.path)
    yield
    sys.path[:] = path
    for number, handler in before.items():
        if signal.getsignal(number) is not handler:
            signal.signal(number, handler)


@contextmanager
def running_home() -> Iterator[Path]:
    """Home of a running embedded server, which ends with all that was started for it."""
    # Not pytest's folder: the path of a unix socket is short.
    with tempfile.TemporaryDirectory(prefix="qe-", ignore_cleanup_errors=True) as folder:
        home = Path(folder) / "home"
        start_server(home, keep=True)
        yield home
        stop_server(home)
        end_processes_of(home)


@pytest.fixture(scope="session")
def _shared_home() -> Iterator[Path]:
    with running_home() as home:
        yield home


@pytest.fixture
def server(_shared_home: Path) -> Iterator[Path]:
    """Home of a running embedded server that other tests use, too; only this test's campaigns are on it."""
    yield _shared_home
    # A worker that serves all campaigns would run what an earlier test has left. Notices name campaigns, too.
    access = find_access(None, _shared_home)
    assert access is not None
    with closing(Link(access, name="test")) as link:
        link.call(lambda client: client.delete(keys.CAMPAIGNS, keys.RESTING, keys.NOTICES))


@pytest.fixture
def own_home() -> Iterator[Path]:
    """A home of its own, without a server; whatever runs for it ends with the test."""
    with tempfile.TemporaryDirectory(prefix="qe-", ignore_cleanup_errors=True) as folder:
        home = Path(folder) / "home"
        yield home
        with suppress(UsageError):  # a home that is refused
            stop_server(home)
        end_processes_of(home)


@pytest.fixture
def campaign() -> str:
    """A name that no other test uses."""
    return f"test-{next(_numbers)}"


@pytest.fixture
def fake_worker(server: Path) -> Iterator[Callable[..., FakeWorker]]:
    """Starts workers in this process: ``fake_worker(campaign, function)``."""
    workers: list[FakeWorker] = []

    def start(campaign: str, *arguments: object, **keywords: object) -> FakeWorker:
        workers.append(FakeWorker(server, campaign, *arguments, **keywords))
        return workers[-1]

    yield start
    for worker in workers:
        worker.close()


def end_processes_of(home: Path) -> None:
    """Kill what was started for `home`: their command lines name it."""

    def processes() -> list[psutil.Process]:
        return [
            process
            for process in psutil.process_iter(["cmdline", "status"])
            if process.info["status"] != psutil.STATUS_ZOMBIE
            and any(str(home) in word for word in process.info["cmdline"] or ())
        ]

    for process in processes():
        try:
            process.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
    wait_until(lambda: not processes())
