"""`queue-eval export`: write a table of a campaign to a file: its finished jobs, attempts or reports.

The rows are read once, in pages, into a file of JSON lines beside the target. A .csv or .parquet is made from
that file, since its columns must all be known first. So memory stays flat for a campaign of any size, and the
target is replaced whole.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import IO

import click

from queue_eval.cli.connect import campaign_queue
from queue_eval.cli.export_tables import ATTEMPTS, JOBS, REPORTS, Columns, write_csv, write_parquet
from queue_eval.cli.options import SAFE_CELLS_HELP, json_option, server_options
from queue_eval.cli.output import print_json
from queue_eval.cli.terminal import say
from queue_eval.errors import UsageError
from queue_eval.model.table_cells import finite
from queue_eval.views.table_rows import TABLES, Row

_WRITERS: dict[str, Callable[[Path, Path, Columns], None] | None] = {
    ".csv": write_csv,
    ".parquet": write_parquet,
    ".jsonl": None,
}
_LAYOUTS = {"jobs": JOBS, "attempts": ATTEMPTS, "reports": REPORTS}


@click.command("export")
@click.argument("campaign")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    metavar="FILE",
    help="File to write or replace: .csv, .parquet or .jsonl.",
)
@click.option(
    "--table", type=click.Choice([*TABLES]), default="jobs", show_default=True,
    help="What a row is: a finished job, an attempt that has ended, or a report.",
)
@click.option("--safe-cells", is_flag=True, help=SAFE_CELLS_HELP)
@server_options
@json_option
def export_command(
    campaign: str, out: Path, table: str, safe_cells: bool, url: str | None, home: str | None, as_json: bool
) -> None:  # fmt: skip
    """Write all finished jobs, in the order in which they finished; or all attempts, or all reports.

    Values that are lists or dicts are written as JSON in .csv and .parquet. `queue-eval run --configs`
    reads the configs of a .csv and of a .jsonl again, but not of a file with --safe-cells.
    """
    ending = out.suffix.lower()
    if ending not in _WRITERS:
        raise UsageError(f"{str(out)!r} has no known ending; give a .csv, .parquet or .jsonl file")
    if safe_cells and ending != ".csv":
        raise UsageError(f"--safe-cells is for .csv, and {str(out)!r} is none; leave it out, or write a .csv")
    if not out.absolute().parent.is_dir():
        raise UsageError(f"there is no folder {out.parent}; create it, or choose another --out")
    if ending == ".parquet" and find_spec("pyarrow") is None:
        raise UsageError('.parquet needs pyarrow; install it with: pip install "queue-eval[parquet]"')
    attached = campaign_queue(campaign, url, home, looks=True)
    with attached as queue, _beside(out) as lines, _beside(out) as finished:
        columns = Columns(_LAYOUTS[table])
        with lines.open("x", encoding="utf-8") as file:
            writer = partial(write_csv, safe_cells=True) if safe_cells else _WRITERS[ending]
            count = _write_lines(TABLES[table](queue), file, columns, is_strict=writer is None)
        if writer is not None:
            writer(lines, finished, columns)
        _replace(out, lines if writer is None else finished)
    if as_json:
        print_json({"campaign": campaign, table: count, "out": str(out)})
    else:
        say(f"{count} {table[:-1] if count == 1 else table} of {campaign} written to {out}")


def _write_lines(rows: Iterator[Row], file: IO[str], columns: Columns, *, is_strict: bool) -> int:
    """Write the rows, one JSON object per line, and learn the columns of a table.

    `is_strict`: write NaN and infinities, which JSON lacks, as null; else write them as Python reads them.
    """
    count = 0
    for row in rows:
        columns.learn(row)
        file.write(json.dumps(finite(row) if is_strict else row) + "\n")
        count += 1
    return count


@contextmanager
def _beside(out: Path) -> Iterator[Path]:
    """A new path in the folder of `out`. A file that still has this path at the end is deleted."""
    path = out.absolute().with_name(f".{out.name}.{secrets.token_hex(4)}")
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def _replace(out: Path, finished: Path) -> None:
    with finished.open("rb") as file:
        # Written to disk before it gets its name: a power cut must not leave half a file under that name.
        os.fsync(file.fileno())
    finished.replace(out.absolute())
