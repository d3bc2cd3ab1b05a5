"""`queue-eval chaos`: attack a campaign on a server of its own, and check what must hold."""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING

import click

from queue_eval.cli.failures import FAILED, Invocation, complain, write_traceback
from queue_eval.cli.options import DURATION, json_option
from queue_eval.cli.output import print_json
from queue_eval.cli.terminal import say, say_in_place
from queue_eval.errors import UsageError
from queue_eval.model.states import Method

if TYPE_CHECKING:
    from queue_eval.chaos.settings import Settings
    from queue_eval.chaos.storm import Progress

_LINE_EVERY_S = 10.0


@click.command("chaos")
@click.option("--evaluations", type=click.IntRange(min=1), default=2000, show_default=True)
@click.option(
    "--method", type=click.Choice([method.value for method in Method]), default="process", show_default=True
)
@click.option("--workers", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--slots", type=click.IntRange(min=1), default=2, show_default=True, help="Of each worker.")
@click.option(
    "--kill", metavar="LIST", default="driver,worker,child,server", show_default=True,
    help="What to kill: driver, worker, child, server; or none.",
)
@click.option(
    "--drain", metavar="LIST", default="worker", show_default=True,
    help="What to ask to end, now and then once more while it finishes: worker; or none.",
)
@click.option(
    "--term-all", metavar="LIST", default="worker", show_default=True,
    help="What to send SIGTERM with all its descendants, as batch systems do: worker; or none.",
)
@click.option(
    "--pause", metavar="LIST", default="worker", show_default=True,
    help="What to freeze, now and then for longer than a lease: worker, driver, server; or none.",
)
@click.option(
    "--cut", metavar="LIST", default="network", show_default=True, help="What to cut: network; or none."
)
@click.option(
    "--clock-back", metavar="LIST", default="none", show_default=True,
    help="Whose clock to set back, by seconds or an hour: server; or none. Needs libfaketime.",
)
@click.option(
    "--second-server", metavar="LIST", default="none", show_default=True,
    help="What to start a second time on its own folder, from where it cannot be seen: server; or none.",
)
@click.option("--seed", type=int, default=1, show_default=True, help="Of evaluations and faults.")
@click.option(
    "--minutes", type=float, default=2.0, show_default=True,
    help="How long to attack; then the campaign must end in peace.",
)
@click.option(
    "--fault-every", type=DURATION, default="2s", show_default=True, metavar="DURATION",
    help="Mean time between faults.",
)
@click.option(
    "--lease", type=DURATION, default="4s", show_default=True, metavar="DURATION", help="Of the workers."
)
@click.option("--short", is_flag=True, help="Only evaluations of some milliseconds, many held in advance.")
@click.option(
    "--keep", metavar="FOLDER",
    help="Keep all logs in this folder, which must be empty [default: only when an invariant is broken].",
)
@json_option
def chaos_command(
    evaluations: int, method: str, workers: int, slots: int, seed: int, minutes: float, fault_every: float,
    lease: float, keep: str | None, *, short: bool, as_json: bool, **faults: str,
) -> None:  # fmt: skip
    """Kill, drain, freeze and cut off all while a campaign runs, and check that nothing is lost or doubled.

    Runs on a server of its own, with evaluations of its own that raise, hang, hold the GIL, kill their
    process or return a megabyte. Ends with status 1, the seed and the command to repeat it if an invariant is
    broken.
    """
    from queue_eval.chaos.report import print_report, report_on
    from queue_eval.chaos.settings import checked
    from queue_eval.chaos.storm import storm

    settings = checked(
        evaluations=evaluations, method=method, workers=workers, slots=slots,
        faults={kind.replace("_", "-"): victims for kind, victims in faults.items()}, seed=seed,
        minutes=minutes, fault_every_s=fault_every, lease_s=lease, only_short=short,
    )  # fmt: skip
    folder = _folder(keep)
    began_at = time.monotonic()
    is_kept = keep is not None
    try:
        evidence = storm(
            settings, folder, is_temporary=keep is None, on_progress=_ignore if as_json else _ProgressLine()
        )
        report = report_on(evidence, time.monotonic() - began_at)
        is_kept = is_kept or not report.holds
    except Exception as error:
        is_kept = True
        invocation = click.get_current_context().ensure_object(Invocation)
        if invocation.debug:
            write_traceback(invocation)
        raise _broken(f"{type(error).__name__}: {error}; the attack failed", settings, folder) from error
    finally:
        if not is_kept:
            rmtree(folder, ignore_errors=True)
    report = replace(report, folder=str(folder) if is_kept else None)
    if as_json:
        print_json(report.as_json())
    else:
        print_report(report)
    if not report.holds:
        count = sum(not verdict.holds for verdict in report.verdicts)
        raise _broken(f"{count} invariant{'s are' if count > 1 else ' is'} broken", settings, folder)


def _broken(problem: str, settings: Settings, folder: Path) -> click.exceptions.Exit:
    """Write what was wrong and how to repeat it. Returns the exit that the caller raises."""
    complain(f"{problem} with seed {settings.seed}; logs in {folder}; repeat with: {settings.command()}")
    return click.exceptions.Exit(FAILED)


def _folder(keep: str | None) -> Path:
    if keep is None:
        return Path(tempfile.mkdtemp(prefix="qe-chaos-"))
    folder = Path(keep).expanduser().absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"--keep {folder} is not an empty folder; give another, or empty it")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class _ProgressLine:
    """Shows on standard error how far the attack is: in place on a terminal, else a line every 10 s."""

    def __init__(self) -> None:
        self._shown_at_s = 0.0
        self._is_terminal = sys.stderr.isatty()

    def __call__(self, progress: Progress) -> None:
        if not self._is_terminal and progress.elapsed_s - self._shown_at_s < _LINE_EVERY_S:
            return
        self._shown_at_s = progress.elapsed_s
        phase = "calm" if progress.is_calm else "attack"
        line = (
            f"{progress.elapsed_s:4.0f} s  {progress.finished}/{progress.evaluations} finished  "
            f"{progress.faults} faults  {phase}"
        )
        if self._is_terminal:
            say_in_place(line)
        else:
            say(line, err=True)


def _ignore(_: Progress) -> None:
    pass
