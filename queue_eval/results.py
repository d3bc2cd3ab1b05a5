"""Finished jobs as tables: results.csv and the rows of a DataFrame."""

from __future__ import annotations

import csv
import os
import secrets
import socket
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from queue_eval import failpoints
from queue_eval.errors import UsageError
from queue_eval.job import Job
from queue_eval.results_owner import Owner, keep_of_others, mark, one_at_a_time
from queue_eval.spilled_rows import SpilledRows
from queue_eval.table_cells import RESULT_COLUMNS, CellWriter, plain_cell

if TYPE_CHECKING:
    import pandas as pd

SavedKeys = Sequence[str] | Callable[[Job], dict[str, Any]] | None

_OWN_COLUMNS = RESULT_COLUMNS

_FRAME_COLUMNS = (
    "id", "objective", "state", "attempts", "releases", "worker", "host", "submitted_at", "started_at",
    "finished_at", "run_s", "wait_s", "elapsed_sec", "duration", "error",
)  # fmt: skip


def convert_for_csv(value: Any) -> Any:
    """A list becomes its `str`, anything else stays as it is."""
    return str(value) if type(value) is list else value


def csv_row(job: Job, saved_keys: SavedKeys) -> dict[str, Any]:
    """The cells of a job by column; the columns of our own win over keys of the same name.

    Raises UsageError when `saved_keys` is neither None, a list of keys, nor a callable giving a dict.
    """
    if saved_keys is None:
        row = _beside(job.config, _OWN_COLUMNS)
    elif callable(saved_keys):
        given = saved_keys(job)
        if not isinstance(given, dict):
            raise UsageError(f"saved_keys returned a {type(given).__name__} for job {job.id}; return a dict")
        row = dict(given)
    elif isinstance(saved_keys, (list, tuple)):
        row = {key: convert_for_csv(job.config[key]) for key in saved_keys if key in job.config}
    else:
        raise UsageError("saved_keys is neither None, a list of keys, nor a callable; give one of these")
    row |= {
        "id": job.id, "objective": job.result, "elapsed_sec": job.elapsed_sec, "duration": job.duration,
        "state": job.state.value,
    }  # fmt: skip
    return row


def _beside(config: dict[str, Any], own: Sequence[str]) -> dict[str, Any]:
    """The config's cells; a key named like a column of our own becomes ``config.<key>``."""
    return {f"config.{key}" if key in own and key != "id" else key: value for key, value in config.items()}


def columns(rows: Iterable[dict[str, Any]], first: Iterable[str] = ()) -> list[str]:
    """The union of the rows' columns as they first appear, after `first` and before our own."""
    seen = dict.fromkeys(first)
    for row in rows:
        if not row.keys() <= seen.keys():
            seen |= dict.fromkeys(row)
    return [name for name in seen if name not in _OWN_COLUMNS] + list(_OWN_COLUMNS)


def write_results(
    jobs: Iterable[Job], saved_keys: SavedKeys, folder: Path, *, spill: bool = False,
    name: str = "results.csv", owner: Owner | None = None,
) -> Path | None:  # fmt: skip
    """Replace ``results.csv``, or the file `name`, in `folder` by one row per job; the file, or None
    without jobs.

    `spill`: the rows are not held in memory, but on disk. `owner`: whose results these are; those of
    others are kept under another name, with a warning.
    A reader, or a crash at any moment, finds the old file or the new one, never a part.
    """
    made = (csv_row(job, saved_keys) for job in jobs)
    if not spill:
        return _write(list(made), saved_keys, folder / name, owner)
    folder.mkdir(parents=True, exist_ok=True)
    with closing(SpilledRows(made, folder)) as rows:
        return _write(rows, saved_keys, folder / name, owner)


def _write(
    rows: Sequence[dict[str, Any]] | SpilledRows, saved_keys: SavedKeys, target: Path, owner: Owner | None
) -> Path | None:
    if not rows:
        return None
    # A key that was asked for has its column, even if no job has the key.
    asked = saved_keys if isinstance(saved_keys, (list, tuple)) else ()
    # A whole config is written so that it can be read back.
    cells = CellWriter() if saved_keys is None else None
    header = columns(_learning(cells, rows) if cells is not None else rows, asked)
    folder, told = target.parent, ""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f"{_temporary_prefix(target)}{os.getpid()}.{secrets.token_hex(4)}"
    try:
        # backslashreplace: JSON strings may hold lone surrogates, which UTF-8 cannot.
        with temporary.open("x", newline="", encoding="utf-8", errors="backslashreplace") as file:
            writer = csv.DictWriter(file, header)
            failpoints.reach("results.before-write")
            writer.writeheader()
            writer.writerows(map(_shown_by(cells), rows))
            file.flush()
            failpoints.reach("results.before-fsync")
            os.fsync(file.fileno())
        failpoints.reach("results.before-rename")
        if owner is not None:
            mark(temporary, owner)
        with one_at_a_time(folder):
            if owner is not None:
                told = keep_of_others(target, owner, rows)
            temporary.replace(target)
        failpoints.reach("results.after-rename")
        _clean(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if told:
        warnings.warn(told, UserWarning, stacklevel=5)  # at the caller of dump_evals
    return target


def _learning(writer: CellWriter, rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for row in rows:
        writer.learn(row)
        yield row


def _shown_by(writer: CellWriter | None) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """How a row is shown in a table: by `writer`, where it is to be read back."""
    if writer is None:
        return lambda row: {column: plain_cell(value) for column, value in row.items()}
    own = frozenset(_OWN_COLUMNS)

    def shown(row: dict[str, Any]) -> dict[str, Any]:
        return {
            column: value
            if type(value) is int or type(value) is float  # most are, and there are many
            else plain_cell(value)
            if column in own
            else writer.cell(column, value)
            for column, value in row.items()
        }

    return shown


def _temporary_prefix(target: Path) -> str:
    return f".{target.name}.{socket.gethostname()}."


def _clean(target: Path) -> None:
    """Remove what drivers that were killed while they wrote have left, on this host."""
    prefix = _temporary_prefix(target)
    for path in target.parent.glob(f"{escape(prefix)}*"):
        pid = path.name.removeprefix(prefix).partition(".")[0]
        if pid.isdecimal() and not psutil.pid_exists(int(pid)):
            path.unlink(missing_ok=True)


def data_frame(jobs: Sequence[Job]) -> pd.DataFrame:
    """One row per job, the config's keys first; times are UTC."""
    import pandas as pd  # heavy, and few drivers need it

    rows = [
        _beside(job.own_config(), _FRAME_COLUMNS)
        | {
            "id": job.id,
            "objective": job.result,
            "state": job.state.value,
            "attempts": job.attempts,
            "releases": job.releases,
            "worker": job.worker,
            "host": job.host,
            "submitted_at": job.submitted_at,
            "started_at": job.started_at,
            "finished_at": job.finished_at,
            "run_s": job.run_s,
            "wait_s": job.wait_s,
            "elapsed_sec": job.elapsed_sec if job.status == Job.DONE else None,
            "duration": job.duration if job.status == Job.DONE else None,
            "error": job.error,
        }
        for job in jobs
    ]
    keys = dict.fromkeys(key for row in rows for key in row)
    own = _FRAME_COLUMNS
    frame = pd.DataFrame(rows, columns=[*(key for key in keys if key not in own), *own])
    for name in ("submitted_at", "started_at", "finished_at"):
        frame[name] = pd.to_datetime(frame[name], utc=True)
    return frame
