"""Run functions for the contract suite: what user code does, and what it should not do."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from typing import Any

Config = dict[str, Any]

KEPT: list[bytes] = []


class CancelledByUser(BaseException):
    """Not an Exception."""


def echo(config: Config, **kwargs: Any) -> Any:
    return {"config": config, "kwargs": kwargs}


async def echo_later(config: Config, **kwargs: Any) -> Any:
    """A run function that is an `async def`."""
    import asyncio  # as rarely as it is needed: children import this module again and again

    await asyncio.sleep(0)
    if "error" in config:
        await _fail(config["error"])
    lingering = asyncio.create_task(asyncio.sleep(3600))
    return {"config": config, "kwargs": kwargs, "lingers": not lingering.done()}


async def _fail(kind: str) -> None:
    import asyncio

    raise {"exit": SystemExit, "cancelled": asyncio.CancelledError}.get(kind, ValueError)("went wrong")


async def yield_later(config: Config) -> Any:
    yield config


def spend(config: Config, data: list[int], more: dict[str, list[int]]) -> list[int]:
    """Changes what it was given."""
    data.append(0)
    more["deep"].pop()
    return [len(data), len(more["deep"])]


def do(config: Config) -> Any:
    """Whatever `config["do"]` names; nothing by default."""
    return globals()["do_" + config.get("do", "nothing")](config)


COLLECTS_WHILE_LOADED = gc.isenabled()


def do_tell_collector(config: Config) -> Any:
    return [COLLECTS_WHILE_LOADED, gc.isenabled()]


def do_nothing(config: Config) -> Any:
    return config["id"]


def do_raise(config: Config) -> Any:
    kind = {"exit": SystemExit, "interrupt": KeyboardInterrupt, "base": CancelledByUser}
    raise kind.get(config["kind"], ValueError)(config.get("text", "wrong"))


def do_raise_from(config: Config) -> Any:
    try:
        do_raise({"kind": "value", "text": "the cause"})
    except ValueError as error:
        raise RuntimeError("the effect") from error


def do_exit_process(config: Config) -> Any:
    print("last words")
    os._exit(3)


def do_segfault(config: Config) -> Any:
    os.kill(os.getpid(), signal.SIGSEGV)
    return wait_for_ever()


def do_wait_for(config: Config) -> Any:
    pathlib.Path(config["started"]).touch()
    while not pathlib.Path(config["gate"]).exists():
        time.sleep(0.005)
    return config["id"]


def tell_pid(path: str) -> None:
    """Write it so that whoever sees the file can read it."""
    file = pathlib.Path(path)
    half = file.with_name(f"{file.name}.half")
    half.write_text(str(os.getpid()))
    half.replace(file)


def do_hang(config: Config) -> Any:
    if "started" in config:
        tell_pid(config["started"])
    return wait_for_ever()


def do_hog(config: Config) -> Any:
    """Holds the GIL: nothing else of this process runs meanwhile."""
    sys.setswitchinterval(1e6)
    tell_pid(config["started"])
    while True:
        pass


def do_print(config: Config) -> Any:
    print(config["text"])
    print(config["text"].upper(), file=sys.stderr)
    return None


def do_print_much(config: Config) -> Any:
    print("first line")
    for _ in range(1000):
        sys.stdout.write("x" * 4999 + "\n")
    print("last line")


def do_print_bytes(config: Config) -> Any:
    os.write(1, b"\xff\xfe not text\n")


def do_print_surrogates(config: Config) -> Any:
    print("\ud800 \N{SNOWMAN}")


def do_shell(config: Config) -> Any:
    return os.system("echo from a shell")


def do_close_streams(config: Config) -> Any:
    sys.stdout.close()
    sys.stderr.close()


def do_close_descriptors(config: Config) -> Any:
    os.close(1)
    os.close(2)


def do_redirect(config: Config) -> Any:
    print("before")
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)
    print("into nowhere")


def do_replace_stdout(config: Config) -> Any:
    import io

    sys.stdout.write("said before, ")
    sys.stdout = io.StringIO()
    print("unheard")


def do_chdir(config: Config) -> Any:
    folder = pathlib.Path(config["folder"])
    folder.mkdir()
    os.chdir(folder)
    folder.rmdir()


def do_cwd(config: Config) -> Any:
    return str(pathlib.Path.cwd())


def do_signals(config: Config) -> Any:
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGHUP):
            signal.signal(number, lambda *_: None)
        subprocess.run(["true"], check=True)
        os.kill(os.getpid(), signal.SIGTERM)
    return "handled"


def do_terminate_program(config: Config) -> Any:
    """A program that user code starts has the default handlers, and can be ended."""
    program = subprocess.Popen(["sleep", "60"])
    program.terminate()
    return program.wait(20)


def do_limit_program(config: Config) -> Any:
    return subprocess.run(["timeout", "0.1", "sleep", "60"], check=False).returncode


def do_trap(config: Config) -> Any:
    """A shell cannot trap what was ignored when it began."""
    script = "trap 'exit 7' TERM; kill -TERM $$; exit 1"
    return subprocess.run(["bash", "-c", script], check=False).returncode


def do_terminate_pool(config: Config) -> Any:
    with multiprocessing.get_context("fork").Pool(2) as pool:
        pool.map(abs, [-1, -2])
    return "terminated"


def do_terminate_fork(config: Config) -> Any:
    """Of each stop signal: the exit status of a process that is forked and sent it."""
    statuses = {}
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        context = multiprocessing.get_context("fork")
        begun = context.Event()
        process = context.Process(target=_begin_and_sleep, args=(begun,))
        process.start()
        if number == signal.SIGINT:  # what comes before it has begun, Python itself drops
            begun.wait(20)
        os.kill(process.pid or 0, number)
        process.join(20)
        statuses[signal.Signals(number).name] = process.exitcode
    return statuses


def _begin_and_sleep(begun: Any) -> None:
    begun.set()
    while True:  # a signal that Python has noted just before it sleeps is handled after that sleep
        time.sleep(0.01)


def do_keep_handler(config: Config) -> Any:
    """Sets a handler that stays, as a library does when it is imported."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGUSR1, _count)


def do_count_handled(config: Config) -> Any:
    if threading.current_thread() is not threading.main_thread():
        return 1
    handled = len(_HANDLED)
    os.kill(os.getpid(), signal.SIGUSR1)
    return len(_HANDLED) - handled


_HANDLED: list[int] = []


def _count(number: int, _frame: Any) -> None:
    _HANDLED.append(number)


def do_default_handlers(config: Config) -> Any:
    """Takes the protection off, and forgets to put it back."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)


def do_alarm(config: Config) -> Any:
    """Sets an alarm and forgets it."""
    signal.setitimer(signal.ITIMER_REAL, 0.2)


def do_fork_returning_twice(config: Config) -> Any:
    return "child" if os.fork() == 0 else "parent"


def do_fork_raising(config: Config) -> Any:
    if os.fork() == 0:
        raise ValueError("in the child")
    return "parent"


def do_orphan(config: Config) -> Any:
    """Leaves a process behind."""
    process = subprocess.Popen(["sleep", "1000"])
    return process.pid


def do_threads_behind(config: Config) -> Any:
    for daemon in (True, False):
        threading.Thread(target=wait_for_ever, daemon=daemon).start()


def do_many_bytes(config: Config) -> Any:
    return config["text"][::-1]


def do_numpy(config: Config) -> Any:
    import numpy

    return {"scalar": numpy.float32(0.5), "array": numpy.arange(3), "flag": numpy.bool_(True)}


def do_value(config: Config) -> Any:
    values = {
        "set": {"layers": [1, 2, {3}]}, "key": {1: 2}, "object": object(), "tuple": (1, None),
        "path": {"best": pathlib.Path("/models/best"), "score": 0.5},
        "nan": float("nan"), "inf": float("-inf"), "nested nan": [float("nan")],
        "text": "\ud83d\ude00 \N{GRINNING FACE} \ud800",
    }  # fmt: skip
    return values[config["value"]]


def do_pid(config: Config) -> Any:
    return os.getpid()


def do_nap(config: Config) -> Any:
    time.sleep(config["for_s"])


def do_keep(config: Config) -> Any:
    """Holds memory for good; returns when there is a gate, if it is given one."""
    KEPT.append(b"x" * config["bytes"])
    while "gate" in config and not pathlib.Path(config["gate"]).exists():
        time.sleep(0.01)
    return os.getpid()


def do_leak(config: Config) -> Any:
    print("leaking")
    while True:
        KEPT.append(b"x" * 10**7)
        time.sleep(0.01)


def do_leak_in_a_child(config: Config) -> Any:
    program = "kept = b'x' * 200_000_000\nimport time\ntime.sleep(1000)"
    return subprocess.run([sys.executable, "-c", program], check=True)


def do_share(config: Config) -> Any:
    KEPT.append(b"x" * 10**8)
    if not (child := os.fork()):
        time.sleep(1.5)
        os._exit(0)
    os.waitpid(child, 0)


def do_write_into_pipe(config: Config) -> Any:
    """Writes into every descriptor it finds, whatever its number: a child's follow those of its parent."""
    for fd in sorted(int(entry.name) for entry in pathlib.Path("/dev/fd").iterdir()):
        if fd < 3:
            continue
        try:
            os.write(fd, b"\xff\xff garbage")
        except OSError:
            continue


def wait_for_ever() -> None:
    while True:
        time.sleep(0.01)
