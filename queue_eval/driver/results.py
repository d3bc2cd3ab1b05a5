"""Finished jobs as tables: results.csv and the rows of a DataFrame."""

from __future__ import annotations

import csv
import os
import secrets
import socket
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from queue_eval import failpoints
from queue_eval.driver.disk_rows import SpilledRows
from queue_eval.driver.results_owner import Owner, keep_of_others, mark, one_at_a_time
from queue_eval.errors import UsageError
from queue_eval.model.codec import EXACT_FLOAT
from queue_eval.model.job import Job
from queue_eval.model.table_cells import RESULT_COLUMNS, CellWriter, column_names, plain_cell, safe_cell
from queue_eval.user_warning import warn_user

if TYPE_CHECKING:
    import pandas as pd

SavedKeys = Sequence[str] | Callable[[Job], dict[str, Any]] | None

Row = tuple[dict[str, Any], dict[str, Any]]
"""The cells of a job: those that were saved, by key, and those of our own columns."""

_COLUMNS_WITHOUT_STATE = tuple(column for column in RESULT_COLUMNS if column != "state")

_FRAME_COLUMNS = (
    "id", "objective", "state", "attempts", "releases", "worker", "host", "submitted_at", "started_at",
    "finished_at", "run_s", "wait_s", "elapsed_sec", "duration", "error",
)  # fmt: skip


def convert_for_csv(value: Any) -> Any:
    """A list becomes its `str`, anything else stays as it is."""
    return str(value) if type(value) is list else value


def csv_row(job: Job, saved_keys: SavedKeys) -> Row:
    """A job's saved cells, by key, and the cells of our own columns.

    Raises UsageError when `saved_keys` is neither None, a list of keys, nor a callable giving a dict.
    """
    if saved_keys is None:
        saved = {key: value for key, value in job.config.items() if key != "id"}
    elif callable(saved_keys):
        given = saved_keys(job)
        if not isinstance(given, dict):
            raise UsageError(f"saved_keys returned a {type(given).__name__} for job {job.id}; return a dict")
        state = given.get("state")
        # The callable gives the state of the job, or a key `state` of the user's own.
        is_ours = isinstance(state, str) and state == job.state
        own_keys = RESULT_COLUMNS if is_ours else _COLUMNS_WITHOUT_STATE
        saved = {key: value for key, value in given.items() if key not in own_keys}
    elif isinstance(saved_keys, (list, tuple)):
        wanted = [key for key in saved_keys if key in job.config and key != "id"]
        saved = {key: convert_for_csv(job.config[key]) for key in wanted}
    else:
        raise UsageError("saved_keys is neither None, a list of keys, nor a callable; give one of these")
    own = {
        "id": job.id, "objective": job.result, "elapsed_sec": job.elapsed_sec, "duration": job.duration,
        "state": job.state.value,
    }  # fmt: skip
    return saved, own


def write_results(
    jobs: Iterable[Job], saved_keys: SavedKeys, folder: Path, *, spill: bool = False,
    name: str = "results.csv", owner: Owner | None = None, safe_cells: bool = False,
) -> Path | None:  # fmt: skip
    """Write one row per job to ``results.csv`` in `folder`, or to the file `name` there.

    Returns the file; None without jobs. `spill`: hold the rows on disk instead of in memory. `owner`: whose
    results these are. Those of another owner are kept under another name, with a warning. `safe_cells`: see
    `table_cells.safe_cell`.

    Guarantees: a reader finds the old file or the new one, never a part, also after a crash at any moment.
    """
    made = (csv_row(job, saved_keys) for job in jobs)
    if not spill:
        return _write(list(made), saved_keys, folder / name, owner, safe_cells=safe_cells)
    folder.mkdir(parents=True, exist_ok=True)
    with closing(SpilledRows(made, folder)) as rows:
        return _write(rows, saved_keys, folder / name, owner, safe_cells=safe_cells)


def _write(
    rows: Sequence[Row] | SpilledRows, saved_keys: SavedKeys, target: Path, owner: Owner | None,
    *, safe_cells: bool,
) -> Path | None:  # fmt: skip
    if not rows:
        return None
    seen: dict[str, None] = {}
    # A whole config is written so that it can be read back.
    cells = CellWriter() if saved_keys is None else None
    for saved, _ in rows:
        if cells is not None:
            cells.learn(saved)
        if not saved.keys() <= seen.keys():
            seen |= dict.fromkeys(saved)
    # A key that was asked for gets a column, even if no job has it.
    asked = saved_keys if isinstance(saved_keys, (list, tuple)) else ()
    first = [key for key in asked if key in seen or key not in RESULT_COLUMNS]
    names = column_names([*first, *seen], RESULT_COLUMNS)
    folder, warning = target.parent, ""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f"{_temporary_prefix(target)}{os.getpid()}.{secrets.token_hex(4)}"
    try:
        # backslashreplace: JSON strings may hold lone surrogates, which UTF-8 cannot.
        with temporary.open("x", newline="", encoding="utf-8", errors="backslashreplace") as file:
            writer = csv.DictWriter(file, [*names.values(), *RESULT_COLUMNS])
            failpoints.reach("results.before-write")
            shown: Iterable[dict[str, Any]] = map(_shown_by(cells, names), rows)
            if safe_cells:
                writer.writerow({name: safe_cell(name) for name in writer.fieldnames})
                shown = ({name: safe_cell(cell) for name, cell in row.items()} for row in shown)
            else:
                writer.writeheader()
            writer.writerows(shown)
            file.flush()
            failpoints.reach("results.before-fsync")
            os.fsync(file.fileno())
        failpoints.reach("results.before-rename")
        if owner is not None:
            mark(temporary, owner)
        with one_at_a_time(folder):
            if owner is not None:
                warning = keep_of_others(target, owner, (own for _, own in rows))
            temporary.replace(target)
        failpoints.reach("results.after-rename")
        _clean(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if warning:
        warn_user(warning)
    return target


def _shown_by(writer: CellWriter | None, names: dict[str, str]) -> Callable[[Row], dict[str, Any]]:
    """A function that gives the cells of a row. `writer`: for tables that are to be read back."""

    def shown(row: Row) -> dict[str, Any]:
        saved, own = row
        cells = {
            names[key]: value
            if type(value) is int or type(value) is float  # Most values are numbers, and there are many.
            else plain_cell(value)
            if writer is None
            else writer.cell(key, value)
            for key, value in saved.items()
        }
        return cells | {column: plain_cell(value) for column, value in own.items()}

    return shown


def _temporary_prefix(target: Path) -> str:
    return f".{target.name}.{socket.gethostname()}."


def _clean(target: Path) -> None:
    """Remove temporary files of drivers that were killed on this host while they wrote."""
    prefix = _temporary_prefix(target)
    for path in target.parent.glob(f"{escape(prefix)}*"):
        pid = path.name.removeprefix(prefix).partition(".")[0]
        if pid.isdecimal() and not psutil.pid_exists(int(pid)):
            path.unlink(missing_ok=True)


def data_frame(jobs: Sequence[Job]) -> pd.DataFrame:
    """One row per job, with the config's keys first. Times are in UTC. A column `tag` if any job has one."""
    import pandas as pd  # It is heavy, and few drivers need it.

    configs = [job.own_config() for job in jobs]
    has_tags = any(job.tag is not None for job in jobs)
    own_columns = (*_FRAME_COLUMNS, "tag") if has_tags else _FRAME_COLUMNS
    names = column_names((key for config in configs for key in config), own_columns)
    rows = [
        {names[key]: value for key, value in config.items()}
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
        | ({"tag": job.tag} if has_tags else {})
        for config, job in zip(configs, jobs, strict=True)
    ]
    frame = pd.DataFrame(rows, columns=[*names.values(), *own_columns])
    _keep_integers(frame, rows)
    if has_tags:  # of any kind, and as they are
        frame["tag"] = pd.Series([job.tag for job in jobs], index=frame.index, dtype="object")
    for name in ("submitted_at", "started_at", "finished_at"):
        frame[name] = pd.to_datetime(frame[name], utc=True)
    return frame


def _keep_integers(frame: pd.DataFrame, rows: list[dict[str, Any]]) -> None:
    """Restore integers that pandas has rounded, because their column holds floats or gaps, too."""
    import pandas as pd

    for name in [name for name in frame.columns if frame[name].dtype.kind == "f"]:
        values = [row.get(name) for row in rows]
        integers = [value for value in values if isinstance(value, int) and not isinstance(value, bool)]
        if not any(abs(value) > EXACT_FLOAT for value in integers):
            continue
        is_whole = len(integers) + values.count(None) == len(values)
        fits = min(integers) >= -(2**63) and max(integers) < 2**63
        kind = "Int64" if is_whole and fits else "object"
        frame[name] = pd.Series(values, index=frame.index, dtype=kind)
