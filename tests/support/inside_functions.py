"""Run functions that use `current_job`: each config names one of them as "do"."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import queue_eval

_AT_IMPORT = queue_eval.current_job().id

_POOL: list[ThreadPoolExecutor] = []
_KEPT: list[Any] = []


def call(config: dict[str, Any]) -> Any:
    return globals()[config["do"]](queue_eval.current_job(), config)


def facts(job: Any, config: dict[str, Any]) -> Any:
    config["lr"] = "changed"
    return [job.id, job.campaign, job.attempt, job.config, job.worker, job.slots, job.remaining_s, _AT_IMPORT]


def reports(job: Any, config: dict[str, Any]) -> int:
    for step in range(config["steps"]):
        job.report(step, loss=step / 2, bad=float("nan"))
    return config["steps"]


def reports_then_waits(job: Any, config: dict[str, Any]) -> str:
    for step in range(config["steps"]):
        job.report(step, loss=0.5)
    _wait_for(Path(config["until"]))
    return "waited"


def reports_for(job: Any, config: dict[str, Any]) -> int:
    """As often as it can, for some seconds."""
    end, step = time.monotonic() + config["time_s"], 0
    while time.monotonic() < end:
        job.report(step, loss=0.5)
        step += 1
    return step


def refused(job: Any, config: dict[str, Any]) -> list[str]:
    sentences = []
    for value in ("x", None, True, [1.0], 1j, 10**400, "x" * 10_000_000, object()):
        try:
            job.report(1, loss=value)
        except queue_eval.ReportError as error:
            sentences.append(str(error))
    return sentences


def reports_text(job: Any, config: dict[str, Any]) -> None:
    job.report(1, loss="low")


def looks(job: Any, config: dict[str, Any]) -> Any:
    """Until it is told something."""
    Path(config["begun"]).touch()
    while job.stop_requested is None:
        time.sleep(0.001)
    return [job.stop_requested, time.time()]


def stops_and_fails(job: Any, config: dict[str, Any]) -> None:
    looks(job, config)
    raise RuntimeError("stopped and failed")


def gives_back(job: Any, config: dict[str, Any]) -> None:
    job.report(1, loss=1)
    job.give_back("no GPU")


def swallows(job: Any, config: dict[str, Any]) -> str:
    try:
        job.give_back("kept")
    except BaseException:
        return "swallowed"
    return "went on"


def swallows_and_fails(job: Any, config: dict[str, Any]) -> None:
    try:
        job.give_back("kept")
    finally:
        raise ValueError("another")  # as user code may


def gives_back_in_thread(job: Any, config: dict[str, Any]) -> str:
    threading.Thread(target=job.give_back, args=("from a thread",), daemon=True).start()
    _wait_for(Path(config["until"]))
    return "went on"


def gives_back_in_task(job: Any, config: dict[str, Any]) -> Any:
    async def task() -> None:
        queue_eval.current_job().give_back("in a task")

    async def main() -> str:
        background = asyncio.create_task(task())
        await asyncio.sleep(60)
        await background
        return "went on"

    return main()


def in_tasks(job: Any, config: dict[str, Any]) -> Any:
    async def task(number: int) -> None:
        await asyncio.sleep(0)
        queue_eval.current_job().report(number, loss=number)

    async def main() -> str:
        await asyncio.gather(*(task(number) for number in range(5)))
        await asyncio.to_thread(lambda: queue_eval.current_job().report(5, loss=5))
        return "done"

    return main()


def generator(job: Any, config: dict[str, Any]) -> Any:
    yield 1


def in_threads(job: Any, config: dict[str, Any]) -> int:
    threads = [
        threading.Thread(target=lambda step=step: queue_eval.current_job().report(step, job=job.id))
        for step in range(10)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(threads)


def leaves_thread(job: Any, config: dict[str, Any]) -> None:
    """The thread reports once the file is there: by the object it got, and by one it asks for."""

    def late() -> None:
        said = []
        _wait_for(Path(config["until"]))
        for found in (lambda: job, queue_eval.current_job):
            try:
                found().report(99, late=1)
                said.append("taken")
            except Exception as error:
                said.append(f"{type(error).__name__}: {error}")
        _write(Path(config["said"]), "\n".join(said))

    threading.Thread(target=late, daemon=True).start()


def in_kept_pool(job: Any, config: dict[str, Any]) -> str:
    """A pool that lives on: the thread belongs to the attempt that made it."""
    if not _POOL:
        _POOL.append(ThreadPoolExecutor(1))
    try:
        _POOL[0].submit(lambda: queue_eval.current_job().report(1, job=job.id)).result()
        return "taken"
    except queue_eval.AttemptEndedError:
        _POOL[0].submit(job.report, 2, job=job.id).result()
        return "refused"


def in_fork(job: Any, config: dict[str, Any]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            for step in range(config["steps"]):
                queue_eval.current_job().report(step, pid=os.getpid())
            assert job.stop_requested is None
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def returns_in_fork(job: Any, config: dict[str, Any]) -> str:
    """The fork runs on as if it were the job."""
    pid = os.fork()
    if pid == 0:
        for step in range(500):
            job.report(step, loss=1)
        return "fork"
    os.waitpid(pid, 0)
    return "job"


def in_multiprocessing(job: Any, config: dict[str, Any]) -> int:
    context = multiprocessing.get_context(config["kind"])
    token = job.token() if config["kind"] == "spawn" else None
    process = context.Process(target=_reports_many, args=(token,))
    process.start()
    process.join()
    return process.exitcode


def _reports_many(token: str | None) -> None:
    job = queue_eval.current_job(token)
    for step in range(500):
        job.report(step, loss=step)


_PROGRAM = """
import sys, queue_eval
job = queue_eval.current_job(sys.argv[1])
job.report(7, loss=1.5)
with job.save_checkpoint() as folder:
    (folder / "pid").write_text("other")
print(job.id, job.attempt, job.config, job.checkpoint.name, (job.folder / ".").is_dir())
print(queue_eval.current_job() is job, queue_eval.current_job().id)
"""


def in_program(job: Any, config: dict[str, Any]) -> str:
    return _ran(_PROGRAM, job)


def _ran(program: str, job: Any) -> str:
    """What a program prints that gets the job's token."""
    command = [sys.executable, "-c", program, job.token()]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    return ran.stdout + ran.stderr


_LOOKING_PROGRAM = """
import sys, time, queue_eval
job = queue_eval.current_job(sys.argv[1])
while job.stop_requested != "stop":
    time.sleep(0.01)
"""


def looks_in_program(job: Any, config: dict[str, Any]) -> str:
    return _ran(_LOOKING_PROGRAM, job)


_GIVING_PROGRAM = """
import sys, queue_eval
queue_eval.current_job(sys.argv[1]).give_back("from a program")
"""


def gives_back_in_program(job: Any, config: dict[str, Any]) -> str:
    return _ran(_GIVING_PROGRAM, job)


def with_handler(job: Any, config: dict[str, Any]) -> int:
    """Its handler reports, looks, and raises, in the middle of reports."""

    class Alarm(Exception): ...  # noqa: N818 - of user code

    def handle(*_: object) -> None:
        job.report(-1, alarm=1)
        _ = job.stop_requested
        raise Alarm

    signal.signal(signal.SIGALRM, handle)
    alarms, step = 0, 0
    while alarms < config["alarms"]:
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.0002)
            while True:
                job.report(step, loss=0.5)
                step += 1
        except Alarm:
            alarms += 1
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    return step


def works_in_folder(job: Any, config: dict[str, Any]) -> list[str]:
    (job.folder / "scratch").write_text("x")
    return [str(job.folder), oct(job.folder.stat().st_mode & 0o777)]


def saves(job: Any, config: dict[str, Any]) -> list[str]:
    """Counts on from its checkpoint, and saves each step."""
    step = int((job.checkpoint / "step").read_text()) if job.checkpoint is not None else 0
    for number in range(step + 1, step + 1 + config["steps"]):
        with job.save_checkpoint() as folder:
            (folder / "step").write_text(str(number))
    return [job.checkpoint.name, (job.checkpoint / "step").read_text()]


def is_killed_while_it_saves(job: Any, config: dict[str, Any]) -> None:
    saves(job, config)
    with job.save_checkpoint() as folder:
        (folder / "step").write_text("half")
        Path(config["begun"]).touch()
        time.sleep(300)


def fails_while_it_saves(job: Any, config: dict[str, Any]) -> str:
    saves(job, config)
    try:
        with job.save_checkpoint() as folder:
            (folder / "step").write_text("half")
            raise KeyError("in the block")
    except KeyError:
        return (job.checkpoint / "step").read_text()


def fills_the_disk(job: Any, config: dict[str, Any]) -> list[str]:
    import resource

    saves(job, config)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with job.save_checkpoint() as folder:
            (folder / "step").write_text("x" * 5000)
        said = "saved"
    except OSError as error:
        said = type(error).__name__
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    return [said, job.checkpoint.name, (job.checkpoint / "step").read_text()]


def keeps_job(job: Any, config: dict[str, Any]) -> str:
    """Uses the object of an earlier attempt."""
    _KEPT.append(job)
    said = []
    for use in (lambda: _KEPT[0].report(1, loss=1), lambda: _KEPT[0].give_back(), lambda: _KEPT[0].folder,
                lambda: _KEPT[0].save_checkpoint().__enter__()):  # fmt: skip
        try:
            if len(_KEPT) > 1:
                use()
            said.append("-")
        except queue_eval.AttemptEndedError as error:
            said.append(str(error).split(";")[0])
    return " | ".join(said)


def _wait_for(path: Path) -> None:
    while not path.exists():
        time.sleep(0.002)


def _write(path: Path, text: str) -> None:
    part = path.with_suffix(".part")
    part.write_text(text)
    part.rename(path)
