"""`queue-eval worker`: run a worker. No other module of `queue_eval` imports the package `workers`."""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import click

from queue_eval.cli.failures import Invocation
from queue_eval.cli.json_log import JsonFormatter
from queue_eval.cli.options import AUTO, DURATION, POSITIVE_DURATION, SIZE, AutoOr, server_options
from queue_eval.cli.terminal import BriefFormatter, PlainFormatter, log_to_terminal, may_write_log
from queue_eval.errors import ServerUnreachableError, UsageError
from queue_eval.foreign_text import plain
from queue_eval.function.signing import check_installed
from queue_eval.machine import new_worker_name
from queue_eval.model.signing_key import is_pair
from queue_eval.own_files import IMPORT_ROOT
from queue_eval.transport.access import (
    ACCESS_FILE,
    Access,
    check_build,
    entered_home,
    find_access,
    named_file,
)
from queue_eval.transport.error_kinds import is_refusal
from queue_eval.transport.link import Link
from queue_eval.transport.private_home import close_home

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from workers.signals import Signals

log = plain(logging.getLogger("queue_eval.worker"))

_WINDOW_S = 1.0
"""On a terminal, lines about attempts are summed up over so long when they are many."""

_FILE_WINDOW_S = 10.0
"""The same in a log file, which is read later and must not grow fast."""


@click.command("worker")
@click.option("-n", "--slots", type=AutoOr(click.IntRange(min=1), "a number from 1 on"), default=1,
              show_default=True, metavar="N|auto",
              help="How many jobs run at once; auto: one for each core of the allocation, or of the machine.")
@click.option("--campaign", "campaigns", multiple=True, help="Serve only this campaign (repeatable).")
@click.option("--queue", "queues", multiple=True, metavar="LABEL",
              help="Serve only campaigns with this label (repeatable)  [default: those without a label]")
@click.option("--gpus", metavar="LIST", help="GPUs that the slots own: 0,1, or all.")
@click.option("--cores", metavar="LIST", help="Cores that the slots own: 0-7, or 0,2,4-6.")
@click.option("--cores-per-slot", type=click.IntRange(min=1), metavar="K",
              help="How many cores each slot owns, of --cores or of all.")
@click.option("--name", help="A name of its own  [default: host and six digits]")
@click.option("--idle-timeout", type=DURATION, help="End after so long without a job.")
@click.option("--time-limit", metavar="DURATION|auto",
              type=AutoOr(POSITIVE_DURATION, "a duration above 0, like 90s, 15m or 1h30m"),
              help="End within so long, draining early enough; auto: before the Slurm allocation ends.")
@click.option("--notice", type=POSITIVE_DURATION, metavar="D",
              help="So long before its end it drains, and running jobs are told  [default: see docs/cli.md]")
@click.option("--drain-timeout", type=DURATION, metavar="D",
              help="After so long, a drain gives back what still runs  [default: see docs/cli.md]")
@click.option("--lease", type=DURATION, default="30s", show_default=True,
              help="A worker that is silent for so long counts as dead.")
@click.option("--allow", multiple=True, metavar="MODULE", envvar="QUEUE_EVAL_ALLOW",
              help="Run only functions of this module or package, or by-value: signed code too (repeatable).")
@click.option("--memory-limit", type=SIZE, metavar="SIZE", envvar="QUEUE_EVAL_MEMORY_LIMIT",
              help="Memory that one slot may use, like 500MB, 2GB or 1GiB; what exceeds it is stopped.")
@click.option("--max-jobs-per-child", type=click.IntRange(min=1), metavar="N",
              envvar="QUEUE_EVAL_MAX_JOBS_PER_CHILD",
              help="Replace a process that runs jobs after so many of them.")
@click.option("-q", "--quiet", is_flag=True, help="Log only warnings and errors.")
@click.option("--log-json", is_flag=True, help="Log one JSON object per line, for log collectors.")
@click.option("--launch", hidden=True, metavar="DIGEST", help="Digest of what a driver starts it with.")
@server_options
@click.pass_context
def worker_command(
    context: click.Context, slots: int | str, campaigns: Sequence[str], queues: Sequence[str],
    gpus: str | None, cores: str | None,
    cores_per_slot: int | None, name: str | None, idle_timeout: float | None,
    time_limit: float | str | None, notice: float | None, drain_timeout: float | None, lease: float,
    allow: Sequence[str],
    memory_limit: int | None,
    max_jobs_per_child: int | None, quiet: bool, log_json: bool, launch: str | None, url: str | None,
    home: str | None,
) -> None:  # fmt: skip
    """A long-running worker for all campaigns of the server, or the named ones.

    Campaigns with a label are served by workers that name it by --queue, or the campaign by --campaign. With
    --gpus or --cores each slot owns a part of them: CUDA_VISIBLE_DEVICES, CPU affinity and thread limits
    such as OMP_NUM_THREADS are set for the process that runs its jobs.

    With --allow (or $QUEUE_EVAL_ALLOW, separated by commas) modules are looked for in this working
    directory and on this worker's own import path, not where campaigns say.

    The first SIGTERM or Ctrl-C drains (what runs is finished), a second one after 2 s or more gives back what
    runs and stops now. SIGHUP, SIGUSR1 and SIGUSR2 drain, too. In a batch job, a drain by SIGTERM gives back
    after 20 s what still runs, one by SIGUSR1 or SIGUSR2 after 50 s, and always 5 s before --time-limit.

    The log on standard error has a line for each job that begins or ends; more than 20 a second (without a
    terminal: 20 in 10 s) are summed up.
    """
    from queue_eval.campaign.keys import check_campaign_name, check_queue_name
    from queue_eval.cli.first_process import leave_first_process
    from queue_eval.function.allow_list import AllowList

    began_at = time.monotonic()
    for campaign in campaigns:
        check_campaign_name(campaign)
    for queue in queues:
        check_queue_name(queue)
    if name is not None and not re.fullmatch(r"[A-Za-z0-9._-]{1,100}", name):
        raise UsageError(f"worker name {name!r} is not valid; use 1 to 100 letters, digits, '.', '_' or '-'")
    if lease < 0.2:
        raise UsageError(f"a lease of {lease:g} s is too short; give at least 200ms")
    if not allow and not os.environ.get("QUEUE_EVAL_ALLOW", "-").strip():
        raise UsageError("QUEUE_EVAL_ALLOW is empty, which allows nothing; name modules in it, or unset it")
    allow_list = AllowList.parse(allow)
    leave_first_process()
    name = name or new_worker_name()
    level = logging.WARNING if quiet else logging.INFO
    log_to_terminal(level, _formatter(name, as_json=log_json), replaces=log_json)
    if log_json:
        _log_all(context.ensure_object(Invocation))
    _import_workers()
    from workers.allocation_end import allocation_end, time_limit_until
    from workers.attempt_log import AttemptLog
    from workers.options import WorkerOptions
    from workers.resources import auto_slots, cores_of
    from workers.scheduler import allocation
    from workers.slot_board import board_for
    from workers.worker import Worker

    allotted = allocation(os.environ)
    count = auto_slots(allotted) if isinstance(slots, str) else slots
    board = board_for(count, gpus=gpus, cores=cores, cores_per_slot=cores_per_slot, allocation=allotted)
    end = allocation_end(allotted, os.environ, ask=time_limit == AUTO)
    limit_s = time_limit_until(end, began_at) if isinstance(time_limit, str) else time_limit
    folder = entered_home(home)
    if folder.exists():
        close_home(folder)
    access = _wait_for_access(url, home, folder, idle_timeout, limit_s, began_at)
    if access is None:
        return
    check_build(access)
    if access.key is not None and is_pair(access.key):
        check_installed("this worker runs only what a driver of its group has signed")
    options = WorkerOptions(
        slots=count, campaigns=tuple(campaigns) or None, queues=tuple(queues) or None, board=board,
        name=name, lease_s=lease, idle_timeout_s=idle_timeout,
        time_limit_s=limit_s, began_at=began_at, notice_s=notice,
        drain_timeout_s=drain_timeout, home=folder,
        allow=allow_list, memory_limit=memory_limit, jobs_per_child=max_jobs_per_child,
        library_threads=max(1, cores_of(allotted) // count), allocation=allotted, allocation_ends_at=end.at,
        launch=launch,
    )  # fmt: skip
    _check_server(access)
    # Local workers have a log file each, of which a driver keeps many: it stays small.
    speaks = launch is None and log.isEnabledFor(logging.INFO)
    window_s = _WINDOW_S if sys.stderr.isatty() else _FILE_WINDOW_S
    Worker(access, options, AttemptLog(window_s, may_write_log) if speaks else None).run()


def _formatter(worker: str, *, as_json: bool) -> logging.Formatter:
    if as_json:
        return JsonFormatter(worker)
    if sys.stderr.isatty():
        return BriefFormatter()
    return PlainFormatter("%(asctime)s %(levelname)s %(message)s")


def _log_all(invocation: Invocation) -> None:
    """From now on, warnings of Python and the error that ends this worker are log records, too."""
    warnings.showwarning = lambda message, *_, **__: log.warning("%s", message, extra={"event": "warning"})
    invocation.complain = lambda message: log.error("%s", message, extra={"event": "error", "error": message})


def _import_workers() -> None:
    """Bind the name `workers` to our package, even if the user's import path has a package of that name."""
    folder = Path(IMPORT_ROOT) / "workers"
    spec = importlib.util.spec_from_file_location(
        "workers", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    if spec is None or spec.loader is None:
        raise UsageError(f"the package of workers is not at {folder}; install queue-eval again")
    module = importlib.util.module_from_spec(spec)
    sys.modules["workers"] = module
    spec.loader.exec_module(module)


def _wait_for_access(
    url: str | None, home: str | None, folder: Path, idle_timeout: float | None, limit_s: float | None,
    began_at: float,
) -> Access | None:  # fmt: skip
    """How to reach the server. If there is no access file yet, wait until one appears.

    Returns None if a stop signal comes, or the worker's time limit is near, before a file appears.
    """
    from workers.signals import Signals

    named = None if url else named_file()
    file = named or folder / ACCESS_FILE

    def look() -> Access | None:
        return None if named and not named.exists() else find_access(url, home, role="worker")

    if (access := look()) is not None:
        return access
    signals = Signals()
    signals.install()
    log.warning("waiting for %s; or give --access or --url", file)
    try:
        access = _await(look, file, signals, idle_timeout, limit_s, began_at)
    finally:
        signals.uninstall()
    if signals.wants_drain:  # asked after the handlers are gone: a signal may have come at the last moment
        log.info("%s: ending; there was no access file %s yet", signals.reason, file)
        return None
    return access


def _await(
    look: Callable[[], Access | None], file: Path, signals: Signals, idle_timeout: float | None,
    limit_s: float | None, began_at: float,
) -> Access | None:  # fmt: skip
    """Call `look` until it finds something. Returns None if a stop signal or the time limit comes before."""
    waiting_since = time.monotonic()
    while (access := look()) is None and not signals.wants_drain:
        now = time.monotonic()
        if idle_timeout is not None and now - waiting_since > idle_timeout:
            raise ServerUnreachableError(f"no access file {file} appeared; start a server or give --url")
        if limit_s is not None and now - began_at > limit_s - min(2.0, 0.1 * limit_s):
            log.info(
                "the time limit of %.4g s is near, and no access file %s has appeared: ending", limit_s, file
            )
            return None
        signals.wait(0.5 if limit_s is None else min(0.5, max(0.01, 0.1 * limit_s)))
    return access


def _check_server(access: Access) -> None:
    """Raise if the server refuses this worker for good, or would lose jobs. It may be away: then go on."""
    link = Link(access, name="queue-eval-worker:check")
    try:
        link.check()
    except ServerUnreachableError as error:
        if error.__cause__ is not None and is_refusal(error.__cause__):
            raise
        reason = str(error).partition(";")[0]
        log.warning("%s%s; waiting for it", reason, ")" * (reason.count("(") - reason.count(")")))
    finally:
        link.close()
