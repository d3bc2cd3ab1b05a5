"""`ProgressCallback`: shows while a driver waits how far its campaign is, in a terminal and in a notebook."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from queue_eval.driver.callbacks import Callback, better
from queue_eval.foreign_text import one_line
from queue_eval.model.html import escaped
from queue_eval.model.job import Job
from queue_eval.model.states import State
from queue_eval.views.formats import shown_duration
from queue_eval.views.pace import rate_per_s

LINE_EVERY_S = 10.0
"""Where standard error is no terminal, a line is written so often."""

_MOST_TIMES = 500


class ProgressCallback(Callback):
    """A live display: how many jobs are finished, failed and running, the best result, and the time left.

    It counts all jobs of the campaign, those of earlier lives, too. `total`: how many there will be in all;
    None: as many as are submitted, or as `Evaluator.total` says. In a notebook it is a bar of HTML, which
    needs nothing but IPython; elsewhere a line on standard error, which a terminal shows anew.
    """

    def __init__(self, total: int | None = None) -> None:
        self._total = total
        self._counts: Mapping[str, int] = {}
        self._planned = 0
        self._best: float | None = None
        self._times_ms: list[int] = []
        self._began_ms = round(time.time() * 1000)
        self._out = _Notebook() if _in_notebook() else _Line()

    def on_done(self, job: Job) -> None:
        self._best = better(self._best, job)
        if job.finished_ms is not None:
            self._times_ms = [*self._times_ms[-_MOST_TIMES:], round(job.finished_ms)]

    def on_wait(self, counts: Mapping[str, int], planned: int) -> None:
        """Called about once a second while the driver waits, and when all is gathered."""
        self._counts, self._planned = counts, max(planned, self._total or 0)
        self._out.show(self._done, self._planned, self.text)

    @property
    def text(self) -> str:
        """What is shown, in one line."""
        counts, done = self._counts, self._done
        parts = [f"{done}/{self._planned} done"]
        told = (State.FAILED, State.CANCELLED, State.RUNNING)
        parts += [f"{counts[state]} {state.value}" for state in told if counts.get(state)]
        if self._best is not None:
            parts.append(f"best {self._best:.6g}")
        rate = rate_per_s(self._times_ms, self._began_ms, round(time.time() * 1000))
        left = self._planned - done
        if rate and left:
            parts.append(f"{shown_duration(left / rate)} left")
        return ", ".join(parts)

    @property
    def _done(self) -> int:
        return sum(count for state, count in self._counts.items() if State(state).is_final)


class _Line:
    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._next_at = float("-inf")
        self._last = ""
        self._bar: Any = None

    def show(self, done: int, planned: int, text: str) -> None:
        is_over = done == planned
        if self._is_terminal:
            if self._bar is None:
                from tqdm import tqdm

                self._bar = tqdm(total=planned, bar_format="{bar:20} {desc}", leave=True)
            self._bar.total, self._bar.n = planned, done
            self._bar.set_description_str(one_line(text), refresh=True)
        elif text != self._last and (is_over or time.monotonic() >= self._next_at):
            self._next_at, self._last = time.monotonic() + LINE_EVERY_S, text
            print(text, file=sys.stderr)  # noqa: T201 - it is asked for


class _Notebook:
    def __init__(self) -> None:
        self._handle: Any = None

    def show(self, done: int, planned: int, text: str) -> None:
        from IPython.display import HTML, display

        shown = HTML(
            f'<progress value="{done}" max="{max(planned, 1)}" style="width:20em"></progress> {escaped(text)}'
        )
        if self._handle is None:
            self._handle = display(shown, display_id=True)
        else:
            self._handle.update(shown)


def _in_notebook() -> bool:
    """Whether the output of this process goes to a front end that shows HTML."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and getattr(shell, "kernel", None) is not None
