"""`queue-eval cancel`, `stop`, `retry`, `pause`, `resume`, `purge`: commands that change a campaign."""

from __future__ import annotations

import sys

import click

from queue_eval.campaign.commands import CampaignCommands
from queue_eval.cli.connect import campaign_queue
from queue_eval.cli.failures import FAILED
from queue_eval.cli.options import JOB_ID, json_option, server_options
from queue_eval.cli.output import print_json
from queue_eval.cli.terminal import ask, say
from queue_eval.driver import actions
from queue_eval.driver.actions import check_ids
from queue_eval.driver.checkpoint_disk import CheckpointDisk
from queue_eval.driver.sources import changed_sources, results_by_source
from queue_eval.driver.worker_logs import remove_outputs
from queue_eval.errors import UsageError

_ids_argument = click.argument("ids", nargs=-1, type=JOB_ID, metavar="[ID]...")


@click.command("cancel")
@click.argument("campaign")
@_ids_argument
@server_options
@json_option
def cancel_command(
    campaign: str, ids: tuple[int, ...], url: str | None, home: str | None, as_json: bool
) -> None:
    """Cancel these jobs, or all that are not finished; running ones are stopped."""
    with campaign_queue(campaign, url, home) as queue:
        check_ids(queue, ids)
        count = actions.cancel(queue, ids)
    _report(campaign, "cancelled", count, len(ids), actions.FINISHED_BEFORE, as_json=as_json)


@click.command("stop")
@click.argument("campaign")
@_ids_argument
@server_options
@json_option
def stop_command(
    campaign: str, ids: tuple[int, ...], url: str | None, home: str | None, as_json: bool
) -> None:
    """Ask these jobs, or all that run, to stop early: they return what they have, and succeed."""
    with campaign_queue(campaign, url, home) as queue:
        check_ids(queue, ids)
        stopped = actions.stop(queue, ids)
        if as_json:
            asked, looking = len(stopped.asked), len(stopped.looking)
            print_json({"campaign": campaign, "asked": asked, "looking": looking})
            return
        for line in actions.told_of_stop(queue, stopped, ids):
            say(line)


@click.command("retry")
@click.argument("campaign")
@_ids_argument
@click.option(
    "--source-changed", is_flag=True,
    help="Run again what finished, well or not, with other code than there is now on this machine.",
)
@server_options
@json_option
def retry_command(
    campaign: str, ids: tuple[int, ...], source_changed: bool, url: str | None, home: str | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Run these failed or cancelled jobs again; without ids, all that failed."""
    if ids and source_changed:
        raise UsageError("--source-changed chooses the jobs itself; leave out the ids, or the option")
    with campaign_queue(campaign, url, home) as queue:
        check_ids(queue, ids)
        changed = _results_of_changed_source(queue) if source_changed else None
        chosen = () if source_changed else ids or tuple(queue.failed_ids())
        done = actions.retry(queue, chosen, home, results=changed)
    for card in done.silent:
        risk = "it may run these jobs in the environment that it was started in"
        say(f"worker {card.name} does not answer; {risk}", err=True)
    _report(
        campaign, "retried", done.again, len(ids), actions.NEVER_FAILED, as_json=as_json,
        unserved=done.unserved,
    )  # fmt: skip
    if not as_json and done.unserved is not None:
        say(done.unserved)


def _results_of_changed_source(queue: CampaignCommands) -> dict[int, str]:
    found = results_by_source(queue)
    changed = changed_sources(queue.meta(), found)
    if changed is None:
        raise UsageError(
            f"nothing here tells which results of campaign {queue.campaign!r} are of other code: the files "
            "that its workers ran are not on this machine; give this command where they are, or give the ids "
            "of jobs"
        )
    return {job_id: entry for source in changed for job_id, entry in found[source].items()}


@click.command("pause")
@click.argument("campaign")
@server_options
@json_option
def pause_command(campaign: str, url: str | None, home: str | None, as_json: bool) -> None:
    """Start no more of a campaign's jobs; what runs is finished."""
    _set_paused(campaign, url, home, paused=True, as_json=as_json)


@click.command("resume")
@click.argument("campaign")
@server_options
@json_option
def resume_command(campaign: str, url: str | None, home: str | None, as_json: bool) -> None:
    """Go on with a paused campaign."""
    _set_paused(campaign, url, home, paused=False, as_json=as_json)


@click.command("purge")
@click.argument("campaign")
@click.option("--yes", is_flag=True, help="Do not ask.")
@server_options
@json_option
@click.pass_context
def purge_command(
    context: click.Context, campaign: str, yes: bool, url: str | None, home: str | None, as_json: bool
) -> None:
    """Delete a campaign with all its jobs and results. This cannot be undone."""
    with campaign_queue(campaign, url, home) as queue:
        if not yes:
            if not sys.stdin.isatty():
                raise UsageError(f"nobody can be asked about deleting {campaign!r}; say --yes to do it")
            snapshot = queue.snapshot()
            running = f", {snapshot.outstanding} of them not finished" if snapshot.outstanding else ""
            question = f"Delete campaign {campaign!r} with its {snapshot.last_id} jobs{running}?"
            if not ask(question):
                say("nothing was deleted", err=True)
                context.exit(FAILED)
        disk = CheckpointDisk.of(campaign, queue.meta())
        queue.purge()
        if queue.link.access.home is not None:
            remove_outputs(queue.link.access.home / "logs", campaign, queue.uid)
    if disk is not None:
        disk.remove()  # last: a checkpoint that stays is found by `doctor`
    if as_json:
        print_json({"campaign": campaign, "purged": True})
    else:
        say(f"campaign {campaign} is deleted")


def _set_paused(campaign: str, url: str | None, home: str | None, *, paused: bool, as_json: bool) -> None:
    with campaign_queue(campaign, url, home) as queue:
        done = actions.set_paused(queue, paused=paused)
    if as_json:
        more = {} if paused else {"unserved": done.unserved}
        print_json({"campaign": campaign, "paused": paused, "changed": done.has_changed} | more)
        return
    say(actions.told_of_pause(campaign, done, paused=paused))
    if done.unserved is not None:
        say(done.unserved)


def _report(
    campaign: str, verb: str, count: int, asked: int, otherwise: str, *, as_json: bool, **more: object
) -> None:
    if as_json:
        print_json({"campaign": campaign, verb: count} | more)
        return
    say(actions.told_of_count(campaign, verb, count, asked, otherwise))
