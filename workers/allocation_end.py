"""Finds out from the scheduler when a worker's allocation ends.

Newer versions of Slurm set a variable. Otherwise `squeue` asks the controller once, which takes long when the
controller is away. Without an answer the end is *unknown*, and the worker has no time limit.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from queue_eval.foreign_text import plain
from queue_eval.runtime.lifeline import CAN_BE_ARMED, arm
from workers.scheduler import Allocation

log = plain(logging.getLogger("queue_eval.worker"))

ASK_S = 30.0
"""Slurm's own programs give up after 18 s when the controller is away."""

_DEADLY = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)

_NO_LIMIT = ("UNLIMITED", "NONE", "N/A")
_MAX_END_AFTER_S = 100 * 365 * 86400.0
"""An end that is further away is an error."""


@dataclass(frozen=True, slots=True)
class AllocationEnd:
    """The end of an allocation, as far as it is known."""

    at: float | None
    """Seconds since 1970, on the clock of this machine; None when it is unknown, or when there is none."""
    why: str = ""
    """Why there is no time, as one clause."""


class _NoAnswerError(Exception):
    """The scheduler does not answer. The text says why."""


def allocation_end(
    allocation: Allocation | None, environment: Mapping[str, str], *, ask: bool, ask_s: float = ASK_S
) -> AllocationEnd:
    """The end of this worker's allocation. `ask`: whether to run a program of the scheduler, if needed."""
    if allocation is None:
        return AllocationEnd(None, "this worker runs in no allocation of Slurm or Grid Engine")
    if allocation.scheduler != "slurm":
        return AllocationEnd(None, "Grid Engine does not tell its jobs when they end")
    now = time.time()
    end_time = environment.get("SLURM_JOB_END_TIME", "").strip()
    if re.fullmatch(r"\d{9,11}", end_time) and int(end_time) < now + _MAX_END_AFTER_S:
        return AllocationEnd(float(end_time))
    if not ask:
        return AllocationEnd(None, "Slurm was not asked")
    try:
        return parse_end(_ask_squeue(allocation.job_id, environment, ask_s), now)
    except _NoAnswerError as error:
        return AllocationEnd(None, str(error))


def time_limit_until(end: AllocationEnd, began_at: float) -> float | None:
    """Seconds from `began_at` (monotonic) to the end; None when that is unknown. Logs which."""
    if end.at is None:
        log.info("--time-limit auto: there is no time limit, because %s", end.why)
        return None
    left_s = end.at - time.time()
    log.info("--time-limit auto: the allocation ends in %.0f s, at %s UTC", left_s,
             f"{datetime.fromtimestamp(end.at, UTC):%Y-%m-%d %H:%M:%S}")  # fmt: skip
    return float(max(0, math.floor(time.monotonic() - began_at + left_s)))


def parse_end(text: str, now: float) -> AllocationEnd:
    """The end that squeue prints: a local time (%e), or the time that is left (%L). Of several, the first."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return AllocationEnd(None, "squeue knows of no such job that runs")
    ends = [end for line in lines if (end := _parse_time(line, now)) is not None]
    if ends:
        return AllocationEnd(min(ends))
    if all(line.upper() in _NO_LIMIT for line in lines):
        return AllocationEnd(None, f"its allocation has no end ({lines[0]})")
    return AllocationEnd(None, f"squeue prints {lines[0][:80]!r} as its end")


def _parse_time(text: str, now: float) -> float | None:
    if match := re.fullmatch(r"(?:(\d{1,5})-)?(?:(\d{1,4}):)?(\d{1,2}):(\d{2})", text):
        days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
        return now + ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    if not re.fullmatch(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?", text):
        return None
    try:
        local = datetime.fromisoformat(text)
        # When clocks go back, an hour comes twice: take the end that lies ahead.
        first, second = (local.replace(fold=fold).timestamp() for fold in (0, 1))
    except (ValueError, OverflowError, OSError):
        return None
    if max(first, second) > now + _MAX_END_AFTER_S:
        return None
    return min(first, second) if min(first, second) > now else max(first, second)


def _ask_squeue(job_id: str, environment: Mapping[str, str], ask_s: float) -> str:
    """What squeue prints. Raises _NoAnswerError with the reason."""
    # The user's own defaults may leave jobs out, or write times in another way.
    own = {
        name: value
        for name, value in environment.items()
        if not name.startswith("SQUEUE_") and name != "SLURM_TIME_FORMAT"
    }
    squeue = shutil.which("squeue", path=environment.get("PATH"))
    if squeue is None:
        raise _NoAnswerError("there is no squeue on the PATH")
    command = [squeue, "-h", "-j", job_id, "-o", "%e"]
    # The program dies with this process: a signal may end the worker meanwhile.
    lifeline, end_of_life = os.pipe()
    try:
        return _answer_of(command, own, ask_s, lifeline)
    finally:
        os.close(lifeline)
        os.close(end_of_life)


def _answer_of(command: Sequence[str], environment: Mapping[str, str], ask_s: float, lifeline: int) -> str:
    # A signal that comes between the start and the arming must not leave the program behind.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _DEADLY)
    try:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, pass_fds=(lifeline,), start_new_session=True,
        )  # fmt: skip
        if CAN_BE_ARMED:
            arm(lifeline, process.pid)
    except OSError as error:
        raise _NoAnswerError(f"squeue cannot be started ({error.strerror})") from error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    with process:
        try:
            out, err = process.communicate(timeout=ask_s)
        except BaseException as error:
            # Kill the group: a process that it has started may keep its pipes open.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                raise _NoAnswerError(f"squeue did not answer within {ask_s:g} s") from None
            raise
    if process.returncode != 0:
        words = " ".join(err.decode(errors="replace").strip().rpartition("\n")[2].split())[:200]
        raise _NoAnswerError(f"squeue failed with status {process.returncode}: {words or 'no message'}")
    return out.decode(errors="replace")
