"""`queue-eval job`: show one job whole."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import click

from queue_eval.campaign.commands import CampaignCommands
from queue_eval.campaign.executions import ExecutionReader
from queue_eval.campaign.registry import card_of
from queue_eval.cli.connect import campaign_queue
from queue_eval.cli.inside import Told, read_told
from queue_eval.cli.options import JOB_ID, json_option, server_options
from queue_eval.cli.output import print_json, print_table, shown_allocation, styled
from queue_eval.cli.terminal import Coloured, say
from queue_eval.driver.actions import check_ids
from queue_eval.model.states import RELEASED, Outcome, State
from queue_eval.transport.link import damaged
from queue_eval.views.formats import iso, shorten, shown_duration, shown_time
from queue_eval.views.records import JobRecord, JobRecordReader
from queue_eval.views.running import Running, read_running

_SHORT_VALUE = 66
"""A value of so many characters stands in one line of 80, beside its label."""


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
        running = read_running(queue, job_id) if record.state is State.RUNNING else None
        card = card_of(queue.link, record.worker) if record.worker else None
    allocation = card.allocation_as_json() if card is not None else {}
    if as_json:
        more = {"attempts_on_record": attempts, "output": output} | told.as_json()
        more["running"] = running.as_json() if running else None
        if allocation:
            more["allocation"] = allocation
        print_json({"campaign": campaign} | record.as_json() | more)
    else:
        _show(campaign, record, attempts, output, shown_allocation(allocation), told, running)


def _attempts(queue: CampaignCommands, record: JobRecord) -> list[dict[str, Any]]:
    """Every attempt on record that is over, oldest first."""
    return [
        {
            "attempt": one.number,
            "outcome": one.cause or (Outcome.OK.value if one.outcome == State.SUCCEEDED else one.outcome),
            "worker": one.worker,
            "host": one.host,
            "started_at": _iso(one.started_at),
            "ended_at": _iso(one.finished_at),
            "run_s": one.run_s,
            "error": one.error,
            "output": one.output or "",
        }
        for one in ExecutionReader(queue).executions_of(record.id)
        if one.finished_at is not None
    ]


def _iso(time: datetime | None) -> str | None:
    return None if time is None else iso(time.timestamp() * 1000)


def _show(
    campaign: str, record: JobRecord, attempts: list[dict[str, Any]], output: str,
    allocation: str | None, told: Told, running: Running | None,
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
        *([("running", running.summary())] if running else []),
        ("submitted", f"{shown_time(record.submitted_ms)} UTC"),
        ("finished", f"{shown_time(record.finished_ms)} UTC" if record.entry else "-"),
        ("ran", shown_duration(record.run_s)),
        ("duration", shown_duration(record.duration_s)),
        *told.lines(),
    ]
    for label, value in lines:
        say(f"{label:<11}", value)
    _show_value("config", record.as_json()["config"])
    if record.tag:
        _show_value("tag", record.as_json()["tag"])
    if record.state is State.SUCCEEDED:
        _show_value("result", record.result)
    _block("error", record.error)
    if attempts:
        say()
        print_table(
            ("attempt", "outcome", "started", "ended", "ran", "worker", "host"),
            [
                (
                    a["attempt"], _end_of(a), _short(a["started_at"]), _short(a["ended_at"]),
                    shown_duration(a["run_s"]), a["worker"], a["host"],
                )
                for a in attempts
            ],
            right=(0, 4),
        )  # fmt: skip
    # The error and the output of the attempt that settled the job are those of the job.
    for attempt in attempts[:-1] if record.state in (State.SUCCEEDED, State.FAILED) else attempts:
        if attempt["outcome"] != RELEASED:
            _block(f"error of attempt {attempt['attempt']}", attempt["error"])
        _block(f"output of attempt {attempt['attempt']}", attempt["output"])
    _block("output", output)
    if running:
        _block(f"last lines of attempt {running.attempt}", "\n".join(running.last_lines()))


def _show_value(label: str, value: Any) -> None:
    """A JSON value: in one line if that is short, else indented."""
    text = json.dumps(value)
    if len(text) <= _SHORT_VALUE:
        say(f"{label:<11}", text)
        return
    first, *more = json.dumps(value, indent=2).split("\n")
    say(f"{label:<11}", first)
    for line in more:
        say(" " * 11, line)


def _short(time: str | None) -> str | None:
    """A time as `iso` gives it, without the year and the zone."""
    return None if time is None else time[5:19].replace("T", " ")


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
