"""Reads finished jobs from a file that `export` or `run` has written, one by one."""

from __future__ import annotations

import csv
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from queue_eval.cli.export_tables import JOBS
from queue_eval.errors import UsageError
from queue_eval.model.codec import decode
from queue_eval.model.states import State
from queue_eval.model.table_cells import (
    NOTHING,
    RESULT_COLUMNS,
    cells_of_any_length,
    json_of,
    keys_of_columns,
    word_of,
)

_FINAL = {state.value for state in State if state.is_final}
_TEXTS = ("state", "cause", "worker", "host", "submitted_at", "started_at", "finished_at", "source", "error")

_ADVICE = "give a file that queue-eval export has written"

Job = dict[str, Any]
_Reader = Callable[[Path, Collection[int]], Iterator[Job]]


def exported_jobs(path: Path, ids: Collection[int] = ()) -> Iterator[Job]:
    """Each job of a .csv, .parquet or .jsonl, shaped as in ``jobs --json``.

    `ids`: of these jobs the configs are read; those of others may be empty, which is quicker.

    results.csv tells no times of day: there the last job is taken to have finished when the file was
    written. Raises UsageError for a file that neither `export` nor `run` has written.
    """
    read = _READERS.get(path.suffix.lower())
    if read is None:
        raise UsageError(f"{str(path)!r} has no known ending; give a .csv, .parquet or .jsonl file")
    created_s = None
    for number, job in enumerate(read(path, ids), start=1):
        elapsed_s = job.get("elapsed_sec")
        if job.get("finished_at") is None and isinstance(elapsed_s, (int, float)):
            created_s = _created_s(path, read) if created_s is None else created_s
            job["finished_at"] = datetime.fromtimestamp(created_s + elapsed_s, UTC).isoformat()
        yield _checked(path, number, job)


def _checked(path: Path, number: int, job: Job) -> Job:
    is_named = type(job.get("id")) is int and isinstance(job.get("config"), dict) and "result" in job
    numbers = [job.get(name) for name in ("run_s", "duration", "attempts")]
    if is_named and job.get("state") in _FINAL and all(isinstance(n, int | float | None) for n in numbers):
        try:
            for name in ("submitted_at", "finished_at"):
                if job.get(name) is not None or name == "finished_at":
                    datetime.fromisoformat(job[name])
        except (TypeError, ValueError, KeyError):
            pass
        else:
            return job
    raise UsageError(f"row {number} of {path} is no finished job; {_ADVICE}")


def _created_s(path: Path, read: _Reader) -> float:
    """When the campaign was created (Unix), if its last job finished when the file was written."""
    elapsed = (job.get("elapsed_sec") for job in read(path, ()))
    return path.stat().st_mtime - max((s for s in elapsed if isinstance(s, (int, float))), default=0.0)


def _of_lines(path: Path, _: Collection[int]) -> Iterator[Job]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                job = decode(line)
            except ValueError:
                job = None
            if not isinstance(job, dict):
                raise UsageError(f"line {number} of {path} is no JSON object; export the campaign again")
            yield job


def _of_csv(path: Path, ids: Collection[int]) -> Iterator[Job]:
    with cells_of_any_length(), path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        rows = csv.reader(file)
        header = next(rows, [])
        to_job = _Shape(path, header, ids)
        for cells in rows:
            if len(cells) != len(header):
                raise UsageError(
                    f"line {rows.line_num} of {path} has {len(cells)} cells under {len(header)} columns; "
                    "export the campaign again"
                )
            yield to_job(cells, lambda name, cell: cell if name in _TEXTS else _value(cell))


def _of_parquet(path: Path, ids: Collection[int]) -> Iterator[Job]:
    if find_spec("pyarrow") is None:
        raise UsageError('.parquet needs pyarrow; install it with: pip install "queue-eval[parquet]"')
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            to_job = _Shape(path, file.schema_arrow.names, ids)
            for batch in file.iter_batches(1000):
                for row in batch.to_pylist():
                    yield to_job(list(row.values()), _stored)
    except pa.ArrowException as error:
        raise UsageError(f"{path} is no Parquet file ({error}); export the campaign again") from None


class _Shape:
    """Makes jobs of the rows of a table. Raises UsageError for a table without our own columns."""

    def __init__(self, path: Path, header: Sequence[str], ids: Collection[int]) -> None:
        owns = (tuple(JOBS.fields), RESULT_COLUMNS)
        own = next((names for names in owns if tuple(header[-len(names) :]) == names), None)
        if own is None:
            raise UsageError(f"{path} has no columns of finished jobs; {_ADVICE}")
        self._ids = ids
        configs = header[: len(header) - len(own)]
        keys = keys_of_columns(configs, own)
        self._keys = [keys[column] for column in configs]
        self.names = [*([""] * len(configs)), *(JOBS.fields[column] for column in own)]
        """What our own columns are called in a job; empty for those of configs."""

    def __call__(self, cells: Sequence[Any], read: Callable[[str, Any], Any]) -> Job:
        width = len(self._keys)
        job: Job = {"config": {}}
        for name, cell in zip(self.names[width:], cells[width:], strict=True):
            value = read(name, cell)
            job[name] = None if value is NOTHING or value == "" else value
        if job["id"] in self._ids:
            config = ((key, read("", cell)) for key, cell in zip(self._keys, cells[:width], strict=True))
            job["config"] = {key: value for key, value in config if value is not NOTHING}
        return job


def _stored(name: str, value: Any) -> Any:
    """The value that a column of .parquet stands for; NOTHING for null: a key that is not there."""
    if value is None:
        return NOTHING
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, str) and name not in _TEXTS:
        # Lists and dicts stand as JSON, and so do numbers beside them in a column of results.
        found = json_of(value)
        is_json = isinstance(found, (list, dict)) or (name == "result" and found is not NOTHING)
        return found if is_json else value
    return value


def _value(cell: str) -> Any:
    """The value of a cell; NOTHING for an empty one."""
    if not cell:
        return NOTHING
    for read in (json_of, word_of):
        value = read(cell)
        if value is not NOTHING:
            return value
    return cell


_READERS: dict[str, _Reader] = {
    ".csv": _of_csv, ".parquet": _of_parquet, ".jsonl": _of_lines,
}  # fmt: skip
