"""`queue-eval run`: evaluate every config of a file; the same command again resumes."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any

import click

from queue_eval import Callback, Evaluator, Job
from queue_eval.campaign.keys import check_campaign_name
from queue_eval.cli.config_files import read_configs
from queue_eval.cli.ending import FINALS, shown_counts, why_not_all_succeeded
from queue_eval.cli.failures import Interrupted
from queue_eval.cli.options import (
    SAFE_CELLS_HELP,
    SectionedCommand,
    json_option,
    server_options,
    set_variable,
)
from queue_eval.cli.output import print_json
from queue_eval.cli.progress import open_progress, shown_causes
from queue_eval.cli.run_options import RUN_SECTIONS, campaign_options
from queue_eval.cli.target import Target, find_target
from queue_eval.cli.terminal import say
from queue_eval.driver.callbacks import better
from queue_eval.driver.options import Options, checked_priority
from queue_eval.errors import QueueEvalError, UsageError
from queue_eval.model.states import Method, Outcome, State
from queue_eval.model.table_cells import NOTHING, is_no_number, json_of
from queue_eval.transport.access import Access, find_access
from queue_eval.transport.hints import spell_command

_WRITE_EVERY_S = 3.0
_CSV_ENDINGS = (".csv", ".txt", "")
"""Endings of the files that `--out` may name."""

_PAUSE_PER_WRITE = 10
"""After each writing of the results, the pause is at least so many times as long as the writing took."""


@click.command("run", cls=SectionedCommand, sections=RUN_SECTIONS)
@click.argument("function", metavar="MODULE:FUNCTION")
@click.option(
    "--configs",
    "configs_file",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE",
    help="Configs, as .jsonl, .json (a list) or .csv (a column is of values, or of text).",
)
@click.option(
    "--campaign",
    metavar="NAME",
    help="Campaign to create or resume [default: a name made of the function and the file].",
)
@click.option(
    "--method",
    type=click.Choice([method.value for method in Method]),
    default=Method.SUBPROCESS.value,
    show_default=True,
    help="How workers execute the jobs.",
)
@click.option(
    "-n", "--slots", type=click.IntRange(min=1), help="Jobs at once, by workers on this machine [default: 1]."
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("results.csv"),
    metavar="FILE",
    show_default="results.csv",
    help="Results as CSV, written every few seconds.",
)
@click.option(
    "--total", type=click.IntRange(min=1), metavar="N",
    help="How many jobs the campaign will have in all, where more files follow: for the time left.",
)
@click.option("--safe-cells", is_flag=True, help=SAFE_CELLS_HELP)
@click.option(
    "--failure-value",
    metavar="VALUE",
    help="Objective of failed and cancelled jobs, such as nan or null, for those who minimise "
    "[default: -3.4028235e+38].",
)
@campaign_options
@server_options
@json_option
def run_command(
    function: str, configs_file: Path, campaign: str | None, method: str, slots: int | None, out: Path,
    failure_value: str | None, safe_cells: bool, total: int | None, priority: int | None,
    memory_limit: str | None, as_json: bool, **options: Any,
) -> None:  # fmt: skip
    """Evaluate every config of a file by MODULE:FUNCTION or FILE.py:FUNCTION, and write the results.

    The same command again resumes: nothing that is finished is evaluated again. Ends with status 1 if any
    job failed, after all are written.
    """
    target = find_target(function)
    name = check_campaign_name(campaign) if campaign else _default_name(target, configs_file)
    if not out.absolute().parent.is_dir():
        raise UsageError(
            f"there is no folder {out.parent} for the results; create it, or choose another --out"
        )
    if out.suffix.lower() not in _CSV_ENDINGS:
        raise UsageError(
            f"{str(out)!r} is no .csv file by its name, and results are written as CSV; choose another --out "
            "(`queue-eval export` writes .parquet and .jsonl)"
        )
    configs = read_configs(configs_file)
    if out.exists() and out.samefile(configs_file):
        raise UsageError(f"{str(out)!r} holds the configs, too; choose another --out")
    rank = checked_priority(priority or 0)
    if memory_limit is not None:
        _limit_memory(memory_limit, local_workers=options["local_workers"])
    wanted = options | {"campaign": name}
    keywords = {key: value for key, value in wanted.items() if value is not None}
    if failure_value is not None:
        keywords["failure_value"] = _scalar(failure_value)
    Options.checked(**keywords)
    if slots is not None:
        keywords["num_workers"] = slots
    say(f"campaign {name}: {len(configs)} configs", err=True)
    watch = _Watch()
    try:
        with Evaluator.create(target.name, method, keywords | {"callbacks": [watch]}) as evaluator:
            if total is not None:
                evaluator.total = total
            counts, causes, first_failed = _evaluate(
                evaluator, watch, configs, out, priority=rank, safe_cells=safe_cells
            )
    except KeyboardInterrupt:
        raise Interrupted(
            f"interrupted; started workers go on: run the same command again to resume, or end it all with: "
            f"{spell_command(_known_server(options), 'cancel', name)}"
        ) from None
    _report(name, counts, causes, out, as_json=as_json)
    why = why_not_all_succeeded(name, counts, causes, first_failed, _known_server(options))
    if why is not None:
        raise QueueEvalError(why)


def _scalar(text: str) -> Any:
    """The value of `text` if it is JSON, NaN or an infinity; else the text itself."""
    value = json_of(text)
    if value is not NOTHING:
        return value
    return float(text) if is_no_number(text) else text


def _limit_memory(limit: str, *, local_workers: bool | None) -> None:
    """Name the limit in the environment, with which local workers are started."""
    if local_workers is False:
        raise UsageError(
            "--memory-limit is for the workers that run starts, and with --no-local-workers it starts none; "
            "give it to queue-eval worker"
        )
    set_variable(click.get_current_context(), "QUEUE_EVAL_MEMORY_LIMIT", limit)


def _known_server(options: dict[str, Any]) -> Access | None:
    """The server of this call, if it is known by now."""
    with suppress(QueueEvalError):  # the file may have been replaced meanwhile, by one that cannot be read
        return find_access(options["url"], options["home"])
    return None


def _evaluate(
    evaluator: Evaluator, watch: _Watch, configs: list[dict[str, Any]], out: Path, *, priority: int,
    safe_cells: bool,
) -> tuple[Counter[State], Counter[str], int | None]:
    """Evaluate the configs. Returns counts of jobs by state, of failed jobs by cause, and their lowest id.

    Writes `out` in any case, also when it is interrupted.
    """
    counts: Counter[State] = Counter()
    causes: Counter[str] = Counter()
    failed: list[int] = []
    results = _Results(evaluator, out, safe_cells=safe_cells)
    evaluator.submit(configs, priority=priority)
    # Not the number of configs: jobs that an earlier call left outstanding are gathered, too.
    progress = open_progress(max(evaluator.num_outstanding, evaluator.total or 0))
    try:
        while evaluator.num_outstanding:
            for job in evaluator.gather("BATCH", 1, timeout=1.0):
                counts[job.state] += 1
                if job.state is State.FAILED:
                    failed.append(job.id)
                    causes[job.cause or Outcome.ERROR] += 1
                results.is_stale = True
            progress.show(counts.total(), len(failed), shown_causes(causes), more=watch.text)
            results.write_if_due()
    finally:
        progress.close()
        results.write()
    return counts, causes, min(failed, default=None)


class _Watch(Callback):
    """What the bar shows besides numbers of finished jobs."""

    def __init__(self) -> None:
        self._best: float | None = None
        self._running = 0

    def on_done(self, job: Job) -> None:
        self._best = better(self._best, job)

    def on_wait(self, counts: Mapping[str, int], planned: int) -> None:  # noqa: ARG002
        self._running = counts[State.RUNNING]

    @property
    def text(self) -> str:
        best = "" if self._best is None else f", best {self._best:.6g}"
        return f"{self._running} running{best}"


class _Results:
    """Writes the file of results again and again, at intervals that grow with the time that writing takes."""

    def __init__(self, evaluator: Evaluator, out: Path, *, safe_cells: bool) -> None:
        self._evaluator = evaluator
        self._safe_cells = safe_cells
        self._out = out.absolute()
        self._due_at = time.monotonic()
        self.is_stale = False

    def write_if_due(self) -> None:
        if self.is_stale and time.monotonic() >= self._due_at:
            self.write()

    def write(self) -> None:
        if not self.is_stale:
            return
        began_at = time.monotonic()
        self._evaluator.write_evals(self._out, safe_cells=self._safe_cells)
        self.is_stale = False
        now = time.monotonic()
        self._due_at = now + max(_WRITE_EVERY_S, _PAUSE_PER_WRITE * (now - began_at))


def _default_name(target: Target, configs_file: Path) -> str:
    """A name made of the function and the file, so that the same command continues the same campaign."""
    identity = "\0".join((target.name, str(target.script or ""), str(configs_file.resolve())))
    words = (target.name.partition(":")[2][-50:], configs_file.stem[:35])
    function, stem = (re.sub(r"[^A-Za-z0-9._-]+", "-", word) for word in words)
    return f"{function}-{stem}-{blake2b(identity.encode(), digest_size=4).hexdigest()}"


def _report(
    campaign: str, counts: Counter[State], causes: Counter[str], out: Path, *, as_json: bool
) -> None:
    if as_json:
        numbers = {state.value: counts[state] for state in FINALS}
        print_json({"campaign": campaign, "jobs": counts.total(), "counts": numbers, "out": str(out)})
        return
    say(f"campaign {campaign}: {shown_counts(counts, causes)}; results in {out}")
