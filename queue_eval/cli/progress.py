"""Shows on standard error how far a campaign is: a bar on a terminal; else `run` writes a line every 10 s."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Protocol

from queue_eval.cli.terminal import say
from queue_eval.foreign_text import one_line
from queue_eval.model.states import Outcome

LINE_EVERY_S = 10.0


class Progress(Protocol):
    """Shows how many jobs of a total are done."""

    def show(
        self, done: int, failed: int, causes: str = "", *, total: int | None = None, more: str = ""
    ) -> None:
        """Show how many jobs are done, how many of these failed, and `causes` (see `shown_causes`). `total`:
        how many jobs there are, if that has changed. `more`: what a bar shows besides."""

    def close(self) -> None:
        """Show the last numbers, and stop."""


def shown_causes(causes: Mapping[str, int]) -> str:
    """Causes of failure with their counts, to be written behind the number of failed jobs.

    Empty when every failed job has raised an error.
    """
    if not causes.keys() - {Outcome.ERROR}:
        return ""
    return f" ({', '.join(f'{count} {cause}' for cause, count in causes.items())})"


def open_progress(total: int) -> Progress:
    """A bar if standard error is a terminal, else lines."""
    return open_bar(total) or _Lines(total)


def open_bar(total: int, done: int = 0) -> Progress | None:
    """A bar if standard error is a terminal, else None. `done` jobs were done before."""
    return _Bar(total, done) if sys.stderr.isatty() else None


class _Bar:
    def __init__(self, total: int, done: int) -> None:
        from rich.console import Console
        from rich.markup import escape
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.progress import (
            Progress as RichProgress,
        )

        self._escape = escape
        self._progress = RichProgress(
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[failed]}"),
            TextColumn("{task.fields[more]}"),
            TextColumn("elapsed"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task = self._progress.add_task("", total=total, completed=done, failed="", more="")
        self._progress.start()

    def show(
        self, done: int, failed: int, causes: str = "", *, total: int | None = None, more: str = ""
    ) -> None:
        shown = f"[red]{failed} failed{self._escape(one_line(causes))}[/red]" if failed else ""
        rest = self._escape(one_line(more))
        self._progress.update(self._task, completed=done, total=total, failed=shown, more=rest)

    def close(self) -> None:
        self._progress.stop()


class _Lines:
    def __init__(self, total: int) -> None:
        self._total = total
        self._began_at = self._next_at = time.monotonic()
        self._shown = self._now = (-1, 0, "")
        self._done_at_start: int | None = None

    def show(
        self, done: int, failed: int, causes: str = "", *, total: int | None = None,
        more: str = "",  # noqa: ARG002 - lines are for logs
    ) -> None:
        self._total = self._total if total is None else total
        if self._done_at_start is None:
            self._done_at_start = done
        self._now = (done, failed, causes)
        if time.monotonic() >= self._next_at and self._now != self._shown:
            self._write()

    def close(self) -> None:
        if self._now != self._shown and self._now[0] >= 0:
            self._write()

    def _write(self) -> None:
        done, failed, causes = self._shown = self._now
        now = time.monotonic()
        self._next_at = now + LINE_EVERY_S
        more = done - (self._done_at_start or 0)
        rate = f", {more / max(now - self._began_at, 1e-3):.3g}/s" if more else ""
        failures = f", {failed} failed{causes}" if failed else ""
        say(f"{done}/{self._total} done{failures}{rate}", err=True)
