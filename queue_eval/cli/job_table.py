"""`queue-eval jobs`: a table of a campaign's jobs.

Lines are printed as soon as their jobs are read. So the first jobs decide which columns there are, and how
wide they are. On a terminal the table is made to fit; elsewhere nothing but long text is cut.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import click

from queue_eval.cli.connect import campaign_queue
from queue_eval.cli.failures import complain
from queue_eval.cli.options import json_option, server_options
from queue_eval.cli.output import styled
from queue_eval.cli.terminal import Coloured, say, say_json
from queue_eval.errors import UsageError
from queue_eval.foreign_text import last_line, one_line
from queue_eval.model.states import State
from queue_eval.model.table_cells import NOTHING, column_names, finite
from queue_eval.views.conditions import parse_condition
from queue_eval.views.formats import shorten, shown_duration, shown_value
from queue_eval.views.job_values import COUNTS, OWN_COLUMNS, SECONDS, TIMES, value_of
from queue_eval.views.records import JobRecordReader
from queue_eval.views.selection import JobLine, Selection

_GAP = "  "
_SAMPLE = 200
"""How many jobs decide about columns and widths."""
_MAX_CELL = 60
_CUTS = (_MAX_CELL, 40, 24, 16, 12, 8)
"""On a terminal, cells of text are cut to the first of these lengths with which the table fits."""
_MAX_KEY_CELL = 16
_MIN_RESULT = 20
"""Keys of configs that are shown by default leave so many characters to the last column."""
_WIDEST_STATE = max(map(len, State))
_NEVER_CUT = OWN_COLUMNS - {"worker", "host", "error", "tag", "objective", "result", "source"}


@click.command("jobs")
@click.argument("campaign")
@click.option("--state", type=click.Choice([state.value for state in State]), help="Only jobs in this state.")
@click.option("--where", multiple=True, metavar="CONDITION",
              help="Only jobs that match, like 'lr<0.01': < <= > >= = != or ~ (contains); repeatable.")
@click.option("--sort", metavar="NAME", help="Order by this value; -NAME: the greatest first.")
@click.option("--best", type=click.IntRange(min=1), metavar="N",
              help="The N best of those that have succeeded, by their objective.")
@click.option("--minimize", is_flag=True, help="With --best: the least is best.")
@click.option("--key", metavar="NAME", help="With --best: what is compared, where the result is no number.")
@click.option("--columns", metavar="NAMES", help="What to show, like id,state,lr,objective.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="At most so many jobs.")
@server_options
@json_option
def jobs_command(
    campaign: str, state: str | None, where: Sequence[str], sort: str | None, best: int | None,
    minimize: bool, key: str | None, columns: str | None, limit: int | None, url: str | None,
    home: str | None, as_json: bool,
) -> None:  # fmt: skip
    """List a campaign's jobs in the order of their ids.

    A NAME is a column of ours (id, state, attempts, worker, host, run_s, wait_s, duration, cause, error, tag,
    objective, submitted_at, started_at, finished_at), or a key of the config or of the result; p:NAME is one
    of the config, r:NAME one of the result. Keys within keys are written with dots.
    """
    shown = _names(columns)
    if shown and as_json:
        raise UsageError("--columns is for the table, and --json prints jobs whole; leave one of them out")
    selection = Selection(
        State(state) if state else None, tuple(map(parse_condition, where)), sort, best, minimize, key, limit,
        shown,
    )  # fmt: skip
    with campaign_queue(campaign, url, home, looks=True) as queue:
        pages = selection.pages(JobRecordReader(queue))
        if as_json:
            _print_json_list(chain.from_iterable(pages))
        else:
            _print_pages(pages, shown, queue.snapshot().last_id)
        _tell_unknown(selection)


def _names(columns: str | None) -> tuple[str, ...]:
    if columns is None:
        return ()
    names = tuple(filter(None, (name.strip() for name in columns.split(","))))
    if not names:
        raise UsageError("--columns names none; give names like id,state,lr")
    return names


def _tell_unknown(selection: Selection) -> None:
    unknown = selection.unknown()
    for name in unknown:
        if name in selection.columns:
            raise UsageError(
                f"no job has {name!r}; give --columns names of ours, or keys of the configs or results"
            )
        complain(f"warning: no job has {name!r}; give a column of ours, or a key of the configs or results")


def _print_json_list(documents: Iterator[JobLine]) -> None:
    """Print a JSON list; each item is written as soon as it is there."""
    separator = "["
    for document in documents:
        say_json(f"{separator}\n{json.dumps(finite(document))}", ends_line=False)
        separator = ","
    say_json("\n]" if separator == "," else "[]")


def _print_pages(pages: Iterator[list[JobLine]], names: Sequence[str], last_id: int) -> None:
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    sample = next(pages, [])
    table = _fitting(sample[:_SAMPLE], names, width, len(str(last_id)))
    say(*table.headers())
    for job in chain(sample, chain.from_iterable(pages)):
        say(*table.line(job))


@dataclass(frozen=True)
class _Column:
    name: str
    """As of `queue_eval.views.job_values`; `result` is the objective, or why there is none."""
    cut: int
    """Text is cut to so many characters."""
    width: int
    to_right: bool


@dataclass(frozen=True)
class _Table:
    columns: tuple[_Column, ...]
    is_exact: bool
    """Whether floats are shown whole."""

    def headers(self) -> Iterator[str | Coloured]:
        return _spaced(self._aligned([_header(column.name) for column in self.columns]))

    def line(self, job: JobLine) -> Iterator[str | Coloured]:
        cells = [_cell(job, column.name, column.cut, is_exact=self.is_exact) for column in self.columns]
        return _spaced(
            styled(text, job["state"]) if column.name == "state" else text
            for column, text in zip(self.columns, self._aligned(cells), strict=True)
        )

    def _aligned(self, cells: list[str]) -> list[str]:
        aligned = [
            text.rjust(column.width) if column.to_right else text.ljust(column.width)
            for column, text in zip(self.columns, cells, strict=True)
        ]
        return [*aligned[:-1], aligned[-1].rstrip()]


def _spaced(cells: Iterable[str | Coloured]) -> Iterator[str | Coloured]:
    for i, cell in enumerate(cells):
        if i:
            yield _GAP
        yield cell


def _fitting(jobs: list[JobLine], names: Sequence[str], width: int | None, id_width: int) -> _Table:
    """The table for jobs like these, of the columns `names`, or of those that tell most. `width`: of the
    terminal; None elsewhere."""
    is_exact = width is None

    def columns_for(wanted: Iterable[str], cut: int) -> tuple[_Column, ...]:
        return tuple(_column(jobs, name, cut, id_width, is_exact=is_exact) for name in wanted)

    if not names:
        keys = columns_for(_varying(jobs), _MAX_CELL if width is None else _MAX_KEY_CELL)
        before, after = columns_for(("id", "state"), 0), columns_for(("attempts", "duration"), 0)
        result = columns_for(("result",), _MAX_CELL)
        if width is not None:
            left = width - _MIN_RESULT - sum(c.width + len(_GAP) for c in (*before, *after))
            keys = tuple(_that_fit(keys, left))
        columns = (*before, *keys, *after, *result)
    else:
        columns = columns_for(names, _MAX_CELL)
        for cut in _CUTS:
            columns = columns_for(names, cut)
            if width is None or _width_of(columns) <= width:
                break
    if width is not None:
        columns = (*columns[:-1], _with_rest_of(width, columns))
    return _Table(columns, is_exact)


def _header(name: str) -> str:
    return name.upper() if name in OWN_COLUMNS else one_line(name)


def _column(jobs: list[JobLine], name: str, cut: int, id_width: int, *, is_exact: bool) -> _Column:
    cells = [_cell(job, name, cut, is_exact=is_exact) for job in jobs]
    least = {"id": id_width, "state": _WIDEST_STATE}.get(name, 0)
    width = max(least, len(_header(name)), *map(len, cells), 0)
    if not is_exact:  # later jobs keep to the width of the first
        cut = min(cut, max(width, _CUTS[-1]))
    return _Column(name, cut, width, name != "result" and _is_numeric(jobs, name))


def _is_numeric(jobs: list[JobLine], name: str) -> bool:
    kinds = {type(value) for job in jobs if (value := value_of(job, name)) not in (NOTHING, None)}
    return name in COUNTS | SECONDS or (bool(kinds) and kinds <= {int, float})


def _width_of(columns: Sequence[_Column]) -> int:
    return sum(column.width for column in columns) + len(_GAP) * (len(columns) - 1)


def _with_rest_of(width: int, columns: tuple[_Column, ...]) -> _Column:
    """The last column, cut to what the others leave of the terminal."""
    *others, last = columns
    rest = width - _width_of(columns) + last.width if others else width
    return _Column(last.name, max(_CUTS[-1], rest), last.width, last.to_right)


def _that_fit(columns: Iterable[_Column], width: int) -> Iterator[_Column]:
    for column in columns:
        if column.width + len(_GAP) <= width:
            width -= column.width + len(_GAP)
            yield column


def _varying(jobs: list[JobLine]) -> list[str]:
    """The keys of these configs that do not all have the same value, as columns are named. Of a single job
    all its keys."""
    configs = [job["config"] for job in jobs]
    keys = dict.fromkeys(chain.from_iterable(configs))
    varying = [
        key for key in keys
        if len(jobs) == 1 or any(c.get(key, NOTHING) != configs[0].get(key, NOTHING) for c in configs)
    ]  # fmt: skip
    return list(column_names(varying, OWN_COLUMNS).values())


def _cell(job: JobLine, name: str, cut: int, *, is_exact: bool) -> str:
    value = value_of(job, name)
    if name == "result" and value is NOTHING and job["error"] is not None:
        return shorten(f"{job['cause']}: {last_line(job['error'])}", cut)
    if value is NOTHING or value is None:
        return "null" if value is None else "-"
    if name in SECONDS:
        return shown_duration(value)
    if name in TIMES:
        return str(value)[:19].replace("T", " ")
    if not is_exact:
        value = _rounded(value)
    if name in _NEVER_CUT or type(value) in (int, float):
        return shown_value(value, max(_MAX_CELL, cut))
    if name == "error" and isinstance(value, str):
        value = last_line(value)
    return shown_value(value, cut)


def _rounded(value: Any) -> Any:
    """The value with six digits of each float."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
