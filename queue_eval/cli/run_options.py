"""The options of `run` that are keywords of the evaluator, spelled with dashes, and what becomes of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from queue_eval.cli.options import DURATION, POSITIVE_DURATION, SIZE, DurationType
from queue_eval.driver.options import RetryDelay

_Function = TypeVar("_Function", bound=Callable[..., Any])

RUN_SECTIONS = {
    "What to evaluate": ("configs_file", "campaign", "method", "on_change", "total"),
    "Jobs": (
        "max_attempts", "max_losses", "retry_delay", "priority", "time_limit", "time_request", "values",
    ),
    "Files of jobs": ("checkpoints", "keep_checkpoints", "checkpoint_space", "keep_folders"),
    "Results": ("out", "safe_cells", "failure_value"),
    "Workers": ("slots", "local_workers", "memory_limit", "queue"),
}  # fmt: skip
"""Heading in the help -> names of parameters."""


class _RetryDelayType(DurationType):
    """A duration, or FIRST,FACTOR,MAXIMUM, as the keyword `retry_delay` takes them."""

    name = "retry_delay"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        parts = value.split(",") if isinstance(value, str) else [value]
        if len(parts) == 1:
            return DURATION.convert(value, param, ctx)
        try:
            first, factor, maximum = parts
            number = float(factor)
        except ValueError:
            self.fail(f"{value!r} is neither a duration nor FIRST,FACTOR,MAXIMUM, like 1s,2,5m", param, ctx)
        return DURATION.convert(first, param, ctx), number, DURATION.convert(maximum, param, ctx)


def _checked_size(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """The text of a size, which a worker reads again."""
    if value is not None:
        SIZE.convert(value, param, ctx)
    return value


_DEFAULT_DELAY = RetryDelay()

_OPTIONS = (
    click.option("--max-attempts", type=click.IntRange(min=1), metavar="N",
                 help="Executions allowed to fail or to run out of time [default: 1]."),
    click.option("--max-losses", type=click.IntRange(min=1), metavar="N",
                 help="Executions allowed to die with their process [default: 3]."),
    click.option("--retry-delay", type=_RetryDelayType(), metavar="D|D,F,D",
                 help="Time before a failed job runs again: always the same, or first, factor, maximum "
                 f"[default: {_DEFAULT_DELAY.first_s:g}s,{_DEFAULT_DELAY.factor:g},"
                 f"{_DEFAULT_DELAY.maximum_s:g}s]."),
    click.option("--priority", type=int, metavar="N",
                 help="Of the campaign's jobs, those of higher priority run first [default: 0]."),
    click.option("--time-limit", type=POSITIVE_DURATION,
                 help="How long one attempt may run, like 90s or 1h30m."),
    click.option("--time-request", type=POSITIVE_DURATION,
                 help="Time that an attempt needs: workers with less left do not run it."),
    click.option("--values", type=click.Choice(["json", "text"]),
                 help="Whether what JSON cannot hold in a result fails its job, or becomes text "
                 "[default: json]."),
    click.option("--on-change", type=click.Choice(["error", "accept"]),
                 help="Whether another function or method than the campaign's is refused [default: error]."),
    click.option("--checkpoints", type=click.Path(file_okay=False, path_type=Path), metavar="FOLDER",
                 help="Folder of checkpoints, seen by all workers [default: checkpoints in --home]."),
    click.option("--keep-checkpoints", is_flag=True, default=None,
                 help="Keep the last checkpoint of jobs that have succeeded."),
    click.option("--checkpoint-space", metavar="SIZE",
                 help="What all checkpoints may take together, like 10G."),
    click.option("--keep-folders", is_flag=True, default=None,
                 help="Keep the working folders of failed attempts."),
    click.option("--queue", metavar="LABEL", help="Label of the campaign: workers that name it serve it."),
    click.option("--local-workers/--no-local-workers", default=None,
                 help="Start workers on this machine [default: with the embedded server]."),
    click.option("--memory-limit", callback=_checked_size, metavar="SIZE",
                 help="Memory that one slot of these workers may use, like 500MB or 2GB."),
)  # fmt: skip


def campaign_options(function: _Function) -> _Function:
    """Options that `run` passes on to the evaluator, each under the name of its keyword."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function
