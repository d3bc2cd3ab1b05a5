"""`queue-eval jobs` and `queue-eval job`: list a campaign's jobs, or show one of them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import click

from queue_eval.campaign.commands import CampaignCommands
from queue_eval.campaign.executions import ExecutionReader
from queue_eval.campaign.registry import card_of
from queue_eval.cli.connect import campaign_queue
from queue_eval.cli.inside import Told, read_told
from queue_eval.cli.options import JOB_ID, json_option, server_options
from queue_eval.cli.output import print_json, print_table, shown_allocation, styled
from queue_eval.cli.terminal import Coloured, say, say_json
from queue_eval.driver.changes import check_ids
from queue_eval.foreign_text import one_line
from queue_eval.model.states import RELEASED, Outcome, State
from queue_eval.model.table_cells import finite
from queue_eval.transport.link import damaged
from queue_eval.views.formats import iso, shorten, shown_duration, shown_time, shown_value
from queue_eval.views.records import JobRecord, JobRecordReader

_COLUMN_WIDTHS = (8, 10, 9, 32, 9)


@click.command("jobs")
@click.argument("campaign")
@click.option("--state", type=click.Choice([state.value for state in State]), help="Only jobs in this state.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="At most so many jobs.")
@server_options
@json_option
def jobs_command(
    campaign: str, state: str | None, limit: int | None, url: str | None, home: str | None, as_json: bool
) -> None:
    """List a campaign's jobs in the order of their ids."""
    with campaign_queue(campaign, url, home, looks=True) as queue:
        records = islice(JobRecordReader(queue).of_state(State(state) if state else None), limit)
        if as_json:
            _print_json_list(record.as_json() for record in records)
        else:
            _print_list(records)


@click.command("job")
@click.argument("campaign")
@click.argument("job_id", type=JOB_ID, metavar="ID")
@server_options
@json_option
def job_command(campaign: str, job_id: int, url: str | None, home: str | None, as_json: bool) -> None:
    """Show one job whole: its config, its result or error, every attempt on record, captured output."""
    with campaign_queue(campaign, url, home, looks=True) as queue:
        check_ids(queue, [job_id])
        found = JobRecordReader(queue).of([job_id])
        if not found:
            raise damaged(f"the config of job {job_id} is missing")
        record = found[0]
        attempts = _attempts(queue, record)
        output = (queue.outputs_of([job_id])[0] or b"").decode(errors="replace")
        told = read_told(queue, queue.meta(), record)
        card = card_of(queue.link, record.worker) if record.worker else None
    allocation = card.allocation_as_json() if card is not None else {}
    if as_json:
        more = {"attempts_on_record": attempts, "output": output} | told.as_json()
        if allocation:
            more["allocation"] = allocation
        print_json({"campaign": campaign} | record.as_json() | more)
    else:
        _show(campaign, record, attempts, output, shown_allocation(allocation), told)


def _attempts(queue: CampaignCommands, record: JobRecord) -> list[dict[str, Any]]:
    """Every attempt on record that is over, oldest first."""
    return [
        {
            "attempt": one.number,
            "outcome": one.cause or (Outcome.OK.value if one.outcome == State.SUCCEEDED else one.outcome),
            "worker": one.worker,
            "ended_at": iso(one.finished_at.timestamp() * 1000),
            "run_s": one.run_s,
            "error": one.error,
            "output": one.output or "",
        }
        for one in ExecutionReader(queue).executions_of(record.id)
        if one.finished_at is not None and one.outcome != State.CANCELLED
    ]


def _print_json_list(documents: Iterator[dict[str, Any]]) -> None:
    """Print a JSON list; each item is written as soon as it is there."""
    separator = "["
    for document in documents:
        say_json(f"{separator}\n{json.dumps(finite(document))}", ends_line=False)
        separator = ","
    say_json("\n]" if separator == "," else "[]")


def _print_list(records: Iterable[JobRecord]) -> None:
    """Print a line for each job as soon as it is there: so the columns have fixed widths."""
    width = 60
    if sys.stdout.isatty():
        import shutil

        width = max(20, shutil.get_terminal_size().columns - sum(_COLUMN_WIDTHS) - len(_COLUMN_WIDTHS) - 1)
    _print_line(("ID", "STATE", "ATTEMPTS", "WORKER", "DURATION"), "RESULT")
    for record in records:
        cells = (
            str(record.id), record.state.value, str(record.attempts), record.worker or "-",
            shown_duration(record.duration_s),
        )  # fmt: skip
        _print_line(cells, _gist(record, width), record.state.value)


def _print_line(cells: Iterable[str], last: str, state: str | None = None) -> None:
    texts = map(one_line, cells)
    padded: list[str | Coloured] = [
        text.rjust(width) if i in (0, 2, 4) else text.ljust(width)
        for i, (text, width) in enumerate(zip(texts, _COLUMN_WIDTHS, strict=True))
    ]
    if state is not None:
        padded[1] = styled(str(padded[1]), state)
    say(*(part for cell in padded for part in (cell, " ")), last)


def _gist(record: JobRecord, width: int) -> str:
    """The result or the error in one short line. Of a traceback it is the last line."""
    if record.state is State.SUCCEEDED:
        return shown_value(record.result, width)
    if record.error is not None:
        lines = record.error.strip().splitlines() or [""]
        cause = record.entry.cause if record.entry else ""
        return shorten(f"{cause}: {lines[-1]}", width)
    return "-"


def _show(
    campaign: str, record: JobRecord, attempts: list[dict[str, Any]], output: str,
    allocation: str | None, told: Told,
) -> None:  # fmt: skip
    early = " early, as it was asked" if record.stopped_early else ""
    lines: list[tuple[str, str | Coloured]] = [
        ("campaign", campaign),
        ("job", str(record.id)),
        ("state", styled(f"{record.state}{early}", record.state)),
        ("attempts", f"{record.attempts}, and {record.releases} given back" if record.releases
            else str(record.attempts)),
        ("slots", str(told.shape.slots)),
        ("worker", f"{record.worker} on {record.host}" if record.worker else "-"),
        *([("allocation", allocation)] if allocation else []),
        ("submitted", f"{shown_time(record.submitted_ms)} UTC"),
        ("finished", f"{shown_time(record.finished_ms)} UTC" if record.entry else "-"),
        ("ran", shown_duration(record.run_s)),
        ("duration", shown_duration(record.duration_s)),
        *told.lines(),
        ("config", json.dumps(record.as_json()["config"])),
        *([("tag", json.dumps(record.as_json()["tag"]))] if record.tag else []),
    ]
    if record.state is State.SUCCEEDED:
        lines.append(("result", json.dumps(record.result)))
    for label, value in lines:
        say(f"{label:<11}", value)
    _block("error", record.error)
    if attempts:
        say()
        print_table(
            ("attempt", "outcome", "worker", "ended", "ran"),
            [
                (a["attempt"], _end_of(a), a["worker"], a["ended_at"], shown_duration(a["run_s"]))
                for a in attempts
            ],
            right=(0,),
        )
    for attempt in attempts[:-1] if record.entry else attempts:
        if attempt["outcome"] != RELEASED:
            _block(f"error of attempt {attempt['attempt']}", attempt["error"])
        _block(f"output of attempt {attempt['attempt']}", attempt["output"])
    _block("output", output)


def _end_of(attempt: dict[str, Any]) -> str:
    """How an attempt ended, in a few words."""
    if attempt["outcome"] != RELEASED:
        return str(attempt["outcome"])
    return f"given back: {shorten(attempt['error'], 60)}"


def _block(title: str, text: str | None) -> None:
    if text:
        say()
        say(f"{title}:")
        for line in text.rstrip("\n").splitlines():
            say(f"  {line}")
