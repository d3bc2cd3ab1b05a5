"""Reads the evidence when an attack is over: the campaign on the server, results.csv and leftovers."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from queue_eval.campaign import keys
from queue_eval.campaign.result_stream import ResultEntry
from queue_eval.campaign.view import CampaignView
from queue_eval.chaos.driver import digest
from queue_eval.chaos.evidence import Entry, Failure, Point, Row
from queue_eval.chaos.inside_work import read_checkpoint
from queue_eval.model.codec import decode
from queue_eval.model.states import Outcome, State
from queue_eval.runtime.checkpoints import newest
from queue_eval.transport.link import Link

_SERVER_FILES = ("server.pid", "server.sock")


def entries_after(view: CampaignView, cursor: str = "0-0") -> Iterator[Entry]:
    """Each entry of the result stream after `cursor`, read page by page."""
    while page := view.read_after(cursor, 500):
        cursor = page[-1].entry
        yield from map(_entry_of, page)


def _entry_of(raw: ResultEntry) -> Entry:
    token, value, cause = "", "", raw.cause
    if raw.state is State.SUCCEEDED:
        result = decode(raw.body)
        token, value, cause = result["token"], digest(result["value"]), ""
    return Entry(
        raw.entry, raw.id, raw.state.value, cause, raw.worker, raw.attempts, token, value,
        raw.releases, raw.cause == Outcome.STOPPED,
    )  # fmt: skip


def used_memory(link: Link) -> int:
    """Memory of the server (bytes)."""
    return link.call(lambda client: int(client.info("memory")["used_memory"]))


def read_index(link: Link, view: CampaignView) -> dict[int, str]:
    raw = link.call(lambda client: client.hgetall(view.keys.index))
    return {int(job): entry.decode() for job, entry in raw.items()}


def failures_after(link: Link, view: CampaignView, cursor: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Each failed, lost or released attempt after the entry `cursor` of the stream: its entry and fields."""
    since = "-" if cursor == "0-0" else f"({cursor}"
    for entry, fields in link.call(lambda client: client.xrange(view.keys.column("failures"), since)):
        decoded = {name.decode(): value.decode(errors="replace") for name, value in fields.items()}
        yield entry.decode(), decoded


def read_failures(
    link: Link, view: CampaignView, seen_at: Mapping[str, tuple[float, float]]
) -> Iterator[Failure]:
    """Each failed, lost or released attempt. `seen_at`: when the observer saw each recorded, by entry.
    Entries that are not in `seen_at` have the server's time."""
    for entry, fields in failures_after(link, view, "0-0"):
        after, at = seen_at.get(entry, (None, int(entry.partition("-")[0]) / 1000))
        job, attempt = int(fields["job"]), int(fields["attempt"])
        yield Failure(job, attempt, fields["cause"], fields["worker"], at, fields["body"], after)


def read_points(view: CampaignView) -> dict[int, list[Point]]:
    """The reports of all jobs, by job."""
    return {
        job: [
            Point(number, report.attempt, report.step, report.values)
            for number, report in view.reports_of(job)
        ]
        for job in set(view.reporting_ids())
    }


def read_lease_numbers(link: Link, view: CampaignView, jobs: Sequence[int]) -> dict[int, int]:
    """The number of the newest lease of each job; of one that comes while this reads, or not."""

    def operation(client: Any) -> dict[int, int]:
        workers = [name.decode() for name in client.zrange(view.keys.column("workers"), 0, -1)]
        held = [client.hmget(view.keys.held(name), jobs) for name in workers]
        # Then those that have ended: a lease that has ended meanwhile is among them.
        past = client.hmget(view.keys.column("attempts"), jobs)
        values = zip(*held, past, strict=True)
        numbers = [max(int(value.split()[0]) for value in (*job, b"0") if value) for job in values]
        return dict(zip(jobs, numbers, strict=True))

    return link.call(operation) if jobs else {}


def read_checkpoints(home: Path) -> dict[int, dict[str, Any]]:
    """The newest checkpoint on the disk of each job that has one."""
    found = {}
    for folder in (home / "checkpoints").glob("*/*"):
        if folder.name.isdigit() and (path := newest(folder)) is not None:
            found[int(folder.name)] = read_checkpoint(path)
    return found


def read_table(folder: Path) -> list[Row]:
    """The rows of results.csv; [] if there is none."""
    path = folder / "results.csv"
    if not path.exists():
        return []
    csv.field_size_limit(sys.maxsize)
    with path.open(newline="", encoding="utf-8") as file:
        return [_row(cells) for cells in csv.DictReader(file)]


def _row(cells: dict[str, str]) -> Row:
    result: Any = json.loads(cells["objective"])
    if not isinstance(result, dict):
        return Row(int(cells["id"]), int(cells["x"]), "", "")
    return Row(int(cells["id"]), int(cells["x"]), result["token"], digest(result["value"]))


def read_markers(link: Link, view: CampaignView) -> list[str]:
    """The wake markers that exist."""

    def operation(client: Any) -> list[str]:
        return [name for name in (view.keys.wake, view.keys.wake_wide) if client.exists(name)]

    return link.call(operation)


def read_leases(link: Link, view: CampaignView) -> list[str]:
    """The leases, attending workers and registered workers that are left when all workers have ended."""

    def operation(client: Any) -> list[str]:
        found = [name.decode() for name in client.scan_iter(f"{view.keys.held('')}*")]
        found += [f"to drain: {name.decode()}" for name in client.smembers(keys.DRAIN)]
        return found

    attending = (f"attends: {name}" for name in read_attendance(link, view))
    return [*link.call(operation), *attending, *(f"registered: {name}" for name in read_register(link))]


def read_attendance(link: Link, view: CampaignView) -> list[str]:
    """The workers that attend the campaign. Dead ones are among them until their leases expire."""
    column = view.keys.column("workers")
    return [name.decode() for name in link.call(lambda client: client.zrange(column, 0, -1))]


def read_register(link: Link) -> list[str]:
    """The names of all registered workers."""
    return [name.decode() for name in link.call(lambda client: client.zrange(keys.WORKERS, 0, -1))]


def read_spools(home: Path) -> list[str]:
    return sorted(path.name for path in (home / "spool").glob("*"))


def read_strays(folder: Path) -> list[str]:
    """Files that should not be left: sockets, pid files, temporary files."""
    home = folder / "home"
    left = [path for path in home.rglob("*") if path.name in _SERVER_FILES or path.is_socket()]
    # Marks and parts of checkpoints stay with a failed job.
    left += [
        path for path in home.rglob(".*")
        if path.name != ".gitignore" and home / "checkpoints" not in path.parents
    ]  # fmt: skip
    left += folder.glob(".results.csv.*")
    return sorted({str(path.relative_to(folder)) for path in left})
