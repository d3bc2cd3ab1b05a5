"""`queue-eval campaigns` and `queue-eval status`: list campaigns, and show how far one is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import click

from queue_eval.campaign import keys
from queue_eval.campaign.commands import CampaignCommands
from queue_eval.campaign.expiry import EXPIRE_AFTER_S, closed_ms_of
from queue_eval.campaign.meta import created_ms_of, label_of, text_of
from queue_eval.campaign.registry import LiveWorker, live_workers
from queue_eval.cli.connect import campaign_queue, connected
from queue_eval.cli.failures import complain
from queue_eval.cli.inside import given_back_often, unfit_jobs
from queue_eval.cli.options import DURATION, json_option, server_options
from queue_eval.cli.output import print_json, print_table, print_workers, styled
from queue_eval.cli.terminal import say
from queue_eval.driver.sources import changed_sources, known_sources, results_by_source
from queue_eval.errors import CampaignNotFoundError, DamagedError, ServerRefusedError, UsageError
from queue_eval.model.moves import Snapshot
from queue_eval.model.states import State
from queue_eval.transport.hints import spell_command
from queue_eval.transport.link import Link
from queue_eval.views.attendance import why_unserved
from queue_eval.views.formats import iso, shown_duration, shown_time
from queue_eval.views.pace import Pace, pace_of
from queue_eval.views.reasons import Reasons

_MAX_SHOWN_GIVEN_BACK = 5
_MAX_SHOWN_UNFIT = 5


@click.command("campaigns")
@server_options
@json_option
@click.option("--prune", is_flag=True, help="Delete those that have expired, instead of listing all.")
@click.option(
    "--older-than", type=DURATION, metavar="DURATION",
    help="With --prune: those whose driver closed them at least so long ago, like 3d [default: 14d].",
)
@click.option("--dry-run", is_flag=True, help="With --prune: only say which would go.")
def campaigns_command(
    url: str | None, home: str | None, as_json: bool, prune: bool, older_than: float | None, dry_run: bool
) -> None:  # fmt: skip
    """List campaigns, the oldest first, or delete those that have expired.

    A campaign expires if it was given no name, its driver has gathered every result and has closed it, and
    nobody has opened it since.
    """
    if prune:
        from queue_eval.cli.pruning import prune_campaigns

        prune_campaigns(url, home, older_than, is_dry=dry_run, as_json=as_json)
        return
    if older_than is not None or dry_run:
        raise UsageError("--older-than and --dry-run go with --prune; add it, or leave them out")
    with connected(url, home, looks=True) as link:
        found = list(every_campaign(link))
    if as_json:
        print_json([_described(name, meta, snapshot) for name, meta, snapshot, _ in found])
        return
    expiring = any(closed_ms_of(meta) is not None for _, meta, _, _ in found)
    print_table(
        ("campaign", "function", "method", *State, "created", "queue", *(["expires"] if expiring else [])),
        [
            (
                name, text_of(meta, "function"), text_of(meta, "method"),
                *(snapshot.counts[state] for state in State),
                shown_time(created_ms_of(meta)) + (" (paused)" if snapshot.paused else ""), label_of(meta),
                *([_shown_expiry(meta)] if expiring else []),
            )
            for name, meta, snapshot, _ in found
        ],
        right=range(3, 3 + len(State)),
    )  # fmt: skip


@click.command("status")
@click.argument("campaign")
@server_options
@json_option
def status_command(campaign: str, url: str | None, home: str | None, as_json: bool) -> None:
    """Count a campaign's jobs by state; show its workers, its rate and the time left."""
    with campaign_queue(campaign, url, home, looks=True) as queue:
        alive = live_workers(queue.link)  # before the snapshot, see why_unserved
        meta, snapshot = queue.meta(), queue.snapshot()
        why = why_unserved(campaign, label_of(meta), snapshot, alive, queue.link.access)
        unserved = why.text if why is not None else None
        reasons = Reasons(campaign, queue.link.access)
        pace = pace_of(queue, snapshot, created_ms_of(meta), is_served=unserved is None)
        workers = _workers_of(queue, snapshot, alive)
        sources = _sources_of(queue, meta)
        given_back = given_back_often(queue)
        unfit = unfit_jobs(queue, label_of(meta), alive)
    if as_json:
        more: dict[str, Any] = {"sources": sources}
        more["given_back_in_a_row"] = [{"id": job, "times": times} for job, times in given_back.items()]
        more["unfit"] = [
            {"slots": found.shape.slots, "time_request": found.shape.time_s or None, "why": found.why}
            for found in unfit
        ]
        more |= {"rate_per_s": pace.rate_per_s, "time_left_s": pace.time_left_s, "unserved": unserved}
        print_json(_described(campaign, meta, snapshot) | {"workers": workers} | more)
    else:
        _show(campaign, meta, snapshot, workers, pace, unserved)
        if unfit:
            say()
            for found in islice(unfit, _MAX_SHOWN_UNFIT):
                say(reasons.unfit("a job", found).text)
        if given_back:
            say()
            for job, times in islice(given_back.items(), _MAX_SHOWN_GIVEN_BACK):
                say(reasons.given_back(job, times).text)
            if (others := len(given_back) - _MAX_SHOWN_GIVEN_BACK) > 0:
                say(f"so were {others} more: --json names them")
        if sources:
            counted = ", ".join(f"{count} of {source}" for source, count in sources.items())
            again = spell_command(queue.link.access, "retry", campaign, "--source-changed")
            say()
            say(f"results are of {len(sources)} sources: {counted}")
            if changed_sources(meta, sources) == set():
                say("all are of the code as it is here now; they reach different files of it")
            else:
                say(f"run those of other code than now again with: {again}")


def _sources_of(queue: CampaignCommands, meta: dict[str, bytes]) -> dict[str, int]:
    """How many results each source gave; empty unless there are several sources."""
    if len(known_sources(meta)) < 2:
        return {}
    counts = {source: len(jobs) for source, jobs in results_by_source(queue).items()}
    return counts if len(counts) > 1 else {}


def every_campaign(
    link: Link, on_damage: Callable[[str, Exception], object] | None = None
) -> Iterator[tuple[str, dict[str, bytes], Snapshot, CampaignCommands]]:
    """Name, meta, counts and queue of each campaign, the oldest first.

    Leaves out damaged campaigns and those of another protocol version: they are reported to `on_damage`, with
    the error, or else on standard error. Leaves out silently what was purged a moment ago or may not be read.
    """
    for raw in link.call(lambda client: client.zrange(keys.CAMPAIGNS, 0, -1)):
        name = raw.decode(errors="replace")
        try:
            queue, meta = CampaignCommands.attach(link, name)
            snapshot = queue.snapshot()
        except (CampaignNotFoundError, ServerRefusedError):
            continue  # it was purged a moment ago, or we may not read it
        except (DamagedError, UsageError) as error:
            if on_damage is None:
                complain(f"warning: campaign {name!r} is left out: {error}")
            else:
                on_damage(name, error)
            continue
        yield name, meta, snapshot, queue


def expires_ms(meta: dict[str, bytes]) -> int | None:
    """When an unnamed campaign may be deleted; None while it may not."""
    closed_ms = closed_ms_of(meta)
    return None if closed_ms is None else closed_ms + round(EXPIRE_AFTER_S * 1000)


def _shown_expiry(meta: dict[str, bytes]) -> str:
    at = expires_ms(meta)
    return "-" if at is None else shown_time(at)


def _described(campaign: str, meta: dict[str, bytes], snapshot: Snapshot) -> dict[str, Any]:
    return {
        "campaign": campaign,
        "function": text_of(meta, "function"),
        "method": text_of(meta, "method"),
        "queue": label_of(meta),
        "created_at": iso(created_ms_of(meta)),
        "expires_at": None if (at := expires_ms(meta)) is None else iso(at),
        "paused": snapshot.paused,
        "counts": {state.value: count for state, count in snapshot.counts.items()},
    }


def _workers_of(
    queue: CampaignCommands, snapshot: Snapshot, live: Iterable[LiveWorker]
) -> list[dict[str, Any]]:
    """Live workers that attend the campaign or were started for it, and dead ones that hold jobs of it."""
    alive = {worker.card.name: worker for worker in live}
    attending = {attendance.worker: attendance.running for attendance in snapshot.workers}
    named = [n for n, worker in alive.items() if worker.card.is_for(queue.campaign) or n in attending]
    dead = [name for name, running in attending.items() if running and name not in alive]
    rows = [_worker_row(alive[name], attending.get(name, 0)) for name in named]
    rows += [
        {
            "name": name, "host": host, "pid": None, "slots": None, "running": attending[name],
            "last_seen_s": None, "state": "lost",
        }
        for name, host in zip(dead, queue.hosts_of(dead), strict=True)
    ]  # fmt: skip
    return sorted(rows, key=lambda row: str(row["name"]))


def _worker_row(worker: LiveWorker, running: int) -> dict[str, Any]:
    card = worker.card
    return {
        "name": card.name, "host": card.host, "pid": card.pid, "slots": card.slots, "running": running,
        "last_seen_s": worker.last_seen_s, "state": card.state,
    } | card.allocation_as_json()  # fmt: skip


def _show(
    campaign: str, meta: dict[str, bytes], snapshot: Snapshot, workers: list[dict[str, Any]], pace: Pace,
    unserved: str | None,
) -> None:  # fmt: skip
    paused = " (paused)" if snapshot.paused else ""
    rate = "-" if pace.rate_per_s is None else f"{pace.rate_per_s:.3g} jobs/s"
    for label, value in (
        ("campaign", campaign + paused),
        ("function", text_of(meta, "function")),
        ("method", text_of(meta, "method")),
        ("queue", label_of(meta)),
        ("created", shown_time(created_ms_of(meta)) + " UTC"),
        ("rate", rate),
        ("time left", shown_duration(pace.time_left_s) if snapshot.outstanding else "none"),
    ):
        say(f"{label:<11}{value}")
    say()
    for state, count in snapshot.counts.items():
        say(styled(f"{state:<11}", state if count else ""), f"{count:>9}")
    say(f"{'total':<11}{snapshot.last_id:>9}")
    say()
    if unserved is not None:
        say(unserved)
    elif not workers and "resting" in meta:
        say("all is finished: no worker looks at this campaign until jobs are added")
    elif not workers:
        say("no worker serves this campaign")
    if not workers:
        return
    print_workers(
        ("worker", "host", "pid", "slots", "running", "state", "seen"),
        [
            (
                row["name"], row["host"], row["pid"], row["slots"], row["running"], row["state"],
                "-" if row["last_seen_s"] is None else f"{shown_duration(row['last_seen_s'])} ago",
            )
            for row in workers
        ],
        right=(2, 3, 4),
        allocations=workers,
    )  # fmt: skip
