"""How far `queue-eval run` is, on standard error: a bar on a terminal, else a line now and then."""

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
    """Shows how many of a fixed total of jobs are done."""

    def show(self, done: int, failed: int, causes: str = "") -> None:
        """So many are done now, of which so many failed, and why, as `shown_causes` says it."""

    def close(self) -> None:
        """Show the end."""


def shown_causes(causes: Mapping[str, int]) -> str:
    """Why jobs failed, behind their number; empty where all of them just raised an error."""
    if not causes.keys() - {Outcome.ERROR}:
        return ""
    return f" ({', '.join(f'{count} {cause}' for cause, count in causes.items())})"


def open_progress(total: int) -> Progress:
    """What suits standard error."""
    return _Bar(total) if sys.stderr.isatty() else _Lines(total)


class _Bar:
    def __init__(self, total: int) -> None:
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
            TextColumn("elapsed"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task = self._progress.add_task("", total=total, failed="")
        self._progress.start()

    def show(self, done: int, failed: int, causes: str = "") -> None:
        shown = f"[red]{failed} failed{self._escape(one_line(causes))}[/red]" if failed else ""
        self._progress.update(self._task, completed=done, failed=shown)

    def close(self) -> None:
        self._progress.stop()


class _Lines:
    def __init__(self, total: int) -> None:
        self._total = total
        self._began_at = self._next_at = time.monotonic()
        self._shown = self._now = (-1, 0, "")
        self._first: int | None = None

    def show(self, done: int, failed: int, causes: str = "") -> None:
        if self._first is None:
            self._first = done
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
        more = done - (self._first or 0)
        rate = f", {more / max(now - self._began_at, 1e-3):.3g}/s" if more else ""
        failures = f", {failed} failed{causes}" if failed else ""
        say(f"{done}/{self._total} done{failures}{rate}", err=True)
