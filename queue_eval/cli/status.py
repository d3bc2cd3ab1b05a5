"""`queue-eval status`: how far a campaign is, what is best, what failed, and who works on it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import click

from queue_eval.campaign.commands import CampaignCommands
from queue_eval.campaign.meta import created_ms_of, label_of, text_of
from queue_eval.cli.connect import campaign_queue
from queue_eval.cli.inside import given_back_often, unfit_jobs
from queue_eval.cli.options import json_option, server_options
from queue_eval.cli.output import Line, print_json, styled, worker_lines
from queue_eval.cli.terminal import Coloured, redrawn, say
from queue_eval.driver.sources import changed_sources, known_sources, results_by_source
from queue_eval.errors import UsageError
from queue_eval.model.table_cells import finite
from queue_eval.transport.hints import spell_command
from queue_eval.views.formats import shorten, shown_duration, shown_time
from queue_eval.views.numbers import WHOLE
from queue_eval.views.standing import Standing, StandingReader

_MAX_SHOWN_GROUPS = 5
_MAX_SHOWN_IDS = 3

_READ_S = 5.0
"""So long `status` reads results that no viewer has read before. What is left, the next look reads."""

_WATCH_EVERY_S = 1.0


@click.command("status")
@click.argument("campaign")
@server_options
@json_option
@click.option("--watch", is_flag=True, help="Show it anew every second, until Ctrl-C.")
@click.option("--key", metavar="NAME", help="The number in the results that decides what is best.")
@click.option("--minimize", is_flag=True, help="The lowest is best.")
def status_command(
    campaign: str, url: str | None, home: str | None, as_json: bool, watch: bool, key: str | None,
    minimize: bool,
) -> None:  # fmt: skip
    """Count a campaign's jobs by state; show its pace, what is best, what failed, and its workers."""
    if watch and as_json:
        raise UsageError("--watch and --json do not go together; call status --json as often as needed")
    with campaign_queue(campaign, url, home, looks=True) as queue:
        reader = StandingReader(queue, key=key, direction="min" if minimize else "max")
        try:
            if watch:
                redrawn(lambda: list(_lines(reader.read())), _WATCH_EVERY_S)
                return
            standing = reader.read(_READ_S, to_the_end=True)
            _check_key(key, standing)
        finally:
            reader.close()
        if as_json:
            print_json(standing.as_json() | _troubles_as_json(queue, standing))
            return
        for line in (*_lines(standing), *_sources(queue)):
            say(*line)


def _check_key(key: str | None, standing: Standing) -> None:
    """Raise UsageError if results have numbers, but none of this name."""
    keys = standing.overview.summary.keys
    if key is not None and keys and key not in keys:
        known = ", ".join(name for name in keys if name != WHOLE)
        has = f"they have: {known}" if known else "they are numbers themselves; leave --key out"
        raise UsageError(f"no result of campaign {standing.campaign!r} has a number {key!r}; {has}")


def _lines(standing: Standing) -> Iterator[Line]:
    meta, snapshot, pace = standing.meta, standing.snapshot, standing.pace
    paused = " (paused)" if snapshot.paused else ""
    rate = "-" if pace.rate_per_s is None else f"{pace.rate_per_s:.3g} jobs/s"
    guess = ", judged by the jobs that run" if pace.is_guess and pace.time_left_s else ""
    left = f"{shown_duration(pace.time_left_s)}{guess}" if pace.time_left_s != 0 else "none"
    for label, value in (
        ("campaign", standing.campaign + paused),
        ("function", text_of(meta, "function")),
        ("method", text_of(meta, "method")),
        ("queue", label_of(meta)),
        ("created", shown_time(created_ms_of(meta)) + " UTC"),
        ("rate", rate),
        ("time left", left),
        ("best", _best(standing)),
    ):
        yield [f"{label:<11}{value}"]
    yield []
    for state, count in snapshot.counts.items():
        yield [styled(f"{state:<11}", state if count else ""), f"{count:>9}"]
    planned = f" of {snapshot.planned} planned" if snapshot.planned > snapshot.last_id else ""
    yield [f"{'total':<11}{snapshot.last_id:>9}{planned}"]
    yield from _failures(standing)
    yield []
    for reason in standing.troubles:
        yield [reason.text]
    if standing.troubles:
        yield []
    elif not standing.workers and "resting" in meta:
        yield ["all is finished: no worker looks at this campaign until jobs are added"]
    elif not standing.workers:
        yield ["no worker serves this campaign"]
    if standing.workers:
        yield from worker_lines(
            ("worker", "host", "pid", "slots", "running", "state", "seen"),
            [
                (
                    row["name"], row["host"], row["pid"], row["slots"], row["running"], row["state"],
                    "-" if row["last_seen_s"] is None else f"{shown_duration(row['last_seen_s'])} ago",
                )
                for row in standing.workers
            ],
            right=(2, 3, 4),
            allocations=standing.workers,
        )  # fmt: skip


def _best(standing: Standing) -> str:
    best, share = standing.best, standing.overview.read_share
    part = f" (of the first {share:.0%} of the results; look again for the rest)" if share < 1 else ""
    if best is None:
        return f"-{part}"
    name = "" if best.key == WHOLE else f"{best.key}="
    config = shorten(json.dumps(finite(best.config)), 100)
    return f"{name}{best.value:.6g}, job {best.job}: {config}{part}"


def _failures(standing: Standing) -> Iterator[Line]:
    """How many jobs failed of what, the most first."""
    groups = standing.overview.summary.groups.ranked()
    if not groups:
        return
    yield []
    width = len(str(groups[0].count))
    for group in groups[:_MAX_SHOWN_GROUPS]:
        jobs = f"job{'s' * (group.count > 1)} {', '.join(map(str, group.newest[:_MAX_SHOWN_IDS]))}"
        more = ", …" if group.count > _MAX_SHOWN_IDS else ""
        what = f"  {shorten(group.title, 100)}  ({jobs}{more})"
        yield [Coloured(f"{group.count:>{width}} failed", "red"), what]
    if others := groups[_MAX_SHOWN_GROUPS:]:
        count = sum(group.count for group in others)
        yield [f"{count:>{width}} failed  in {len(others)} other ways: --json names them"]


def _sources(queue: CampaignCommands) -> Iterator[Line]:
    """Which code the results are of, where it is more than one."""
    meta = queue.meta()
    sources = _counted_sources(queue, meta)
    if not sources:
        return
    counted = ", ".join(f"{count} of {source}" for source, count in sources.items())
    yield []
    yield [f"results are of {len(sources)} sources: {counted}"]
    if changed_sources(meta, sources) == set():
        yield ["all are of the code as it is here now; they reach different files of it"]
    else:
        again = spell_command(queue.link.access, "retry", queue.campaign, "--source-changed")
        yield [f"run those of other code than now again with: {again}"]


def _troubles_as_json(queue: CampaignCommands, standing: Standing) -> dict[str, Any]:
    unfit = unfit_jobs(queue, label_of(standing.meta), standing.live)
    given_back = given_back_often(queue)
    return {
        "sources": _counted_sources(queue, queue.meta()),
        "given_back_in_a_row": [{"id": job, "times": times} for job, times in given_back.items()],
        "unfit": [
            {"slots": found.shape.slots, "time_request": found.shape.time_s or None, "why": found.why}
            for found in unfit
        ],
    }


def _counted_sources(queue: CampaignCommands, meta: dict[str, bytes]) -> dict[str, int]:
    """How many results each source gave; empty unless there are several sources."""
    if len(known_sources(meta)) < 2:
        return {}
    counts = {source: len(jobs) for source, jobs in results_by_source(queue).items()}
    return counts if len(counts) > 1 else {}
