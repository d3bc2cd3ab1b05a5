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
from queue_eval.driver.changes import Retried, cancel_jobs, retry_chosen, retry_jobs, set_paused, stop_jobs
from queue_eval.driver.checkpoint_disk import CheckpointDisk
from queue_eval.driver.sources import changed_sources, results_by_source
from queue_eval.driver.worker_logs import remove_outputs
from queue_eval.errors import UsageError
from queue_eval.transport.hints import spell_command
from queue_eval.views.attendance import why_undone

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
        count = cancel_jobs(queue, ids or None)
    _report(campaign, "cancelled", count, len(ids), "was finished already", as_json=as_json)


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
        stopped = stop_jobs(queue, ids or None)
        cancel = spell_command(queue.link.access, "cancel", campaign)
    asked, looking = len(stopped.asked), len(stopped.looking)
    if as_json:
        print_json({"campaign": campaign, "asked": asked, "looking": looking})
        return
    rest = len(ids) - asked
    others = f"; {rest} {'has' if rest == 1 else 'have'} not begun, or finished before" if rest > 0 else ""
    say(f"asked {asked} running job{'' if asked == 1 else 's'} to stop early{others}")
    if looking == asked:
        return
    look = "it does not look" if asked == 1 else f"{looking or 'none'} of them look{'s' * (looking < 2)}"
    run_on = "it runs on" if asked == 1 else f"{'the others' if looking else 'they'} run on"
    say(f"{look} at stop_requested so far, and {run_on} until then; end what never looks with: {cancel}")


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
        if source_changed:
            retried = _retry_changed_source(queue, home)
        else:
            retried = retry_jobs(queue, ids or None, home)
        for card in retried.silent:
            risk = "it may run these jobs in the environment that it was started in"
            say(f"worker {card.name} does not answer; {risk}", err=True)
        count = retried.jobs
        unserved = why_undone(queue, tells_pause=count > 0)
    rest = "had neither failed nor been cancelled"
    _report(campaign, "retried", count, len(ids), rest, as_json=as_json, unserved=unserved)
    if not as_json and unserved is not None:
        say(unserved)


def _retry_changed_source(queue: CampaignCommands, home: str | None) -> Retried:
    found = results_by_source(queue)
    changed = changed_sources(queue.meta(), found)
    if changed is None:
        raise UsageError(
            f"nothing here tells which results of campaign {queue.campaign!r} are of other code: the files "
            "that its workers ran are not on this machine; give this command where they are, or give the ids "
            "of jobs"
        )
    results = {job_id: entry for source in changed for job_id, entry in found[source].items()}
    return retry_chosen(queue, results, lambda: queue.retry_results(results), home)


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
        has_changed = set_paused(queue, paused=paused)
        unserved = None if paused else why_undone(queue)
    if as_json:
        more = {} if paused else {"unserved": unserved}
        print_json({"campaign": campaign, "paused": paused, "changed": has_changed} | more)
        return
    already = "" if has_changed else "already "
    say(f"campaign {campaign} is {already}{'paused' if paused else 'going on'}")
    if unserved is not None:
        say(unserved)


def _report(
    campaign: str, verb: str, count: int, asked: int, otherwise: str, *, as_json: bool, **more: object
) -> None:
    if as_json:
        print_json({"campaign": campaign, verb: count} | more)
        return
    rest = f"; {asked - count} {otherwise}" if asked > count else ""
    say(f"{count} job{'' if count == 1 else 's'} of {campaign} {verb}{rest}")
