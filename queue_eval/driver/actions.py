"""What people do to a campaign by hand, and the sentences that tell what came of it.

The command line and the live view call these, so that they do and say the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from queue_eval.campaign.commands import CampaignCommands
from queue_eval.campaign.registry import WorkerCard, ask_to_drain, live_workers
from queue_eval.driver.checkpoint_disk import CheckpointDisk
from queue_eval.driver.local_register import retire_idle
from queue_eval.errors import QueueEvalError, UsageError
from queue_eval.model.moves import Stopped
from queue_eval.transport.access import entered_home
from queue_eval.transport.hints import spell_command
from queue_eval.transport.link import Link
from queue_eval.views.attendance import why_undone


class Retried(NamedTuple):
    """What came of running jobs again."""

    again: int
    """How many."""
    silent: list[WorkerCard]
    """Workers that may run these jobs in the environment that they were started in."""
    unserved: str | None
    """Why no worker does them, and what to do."""


class Paused(NamedTuple):
    """What came of pausing a campaign, or of letting it go on."""

    has_changed: bool
    unserved: str | None
    """Why no worker goes on with it, and what to do."""


def check_ids(queue: CampaignCommands, ids: Iterable[int]) -> None:
    """Raise UsageError unless the campaign has these jobs."""
    last_id = queue.snapshot().last_id
    unknown = [str(job_id) for job_id in ids if job_id > last_id]
    if unknown:
        has = f"its ids are 1 to {last_id}" if last_id else "it has none yet"
        raise UsageError(f"campaign {queue.campaign!r} has no job {', '.join(unknown)}; {has}")


def cancel(queue: CampaignCommands, ids: Sequence[int] = ()) -> int:
    """Cancel these jobs, or all that are not finished. Returns how many were."""
    count = len(queue.cancel(ids)) if ids else queue.cancel_up_to(queue.snapshot().last_id)
    if (disk := CheckpointDisk.of(queue.campaign, queue.meta())) is not None:
        disk.sweep(queue)
    return count


def stop(queue: CampaignCommands, ids: Sequence[int] = ()) -> Stopped:
    """Ask these jobs, or all that run, to stop early."""
    # Of the jobs that are not finished, the script asks those that have begun.
    return queue.stop(ids or [job for job, _, _ in queue.outstanding()])


def retry(
    queue: CampaignCommands, ids: Sequence[int], home: str | None, *, results: dict[int, str] | None = None
) -> Retried:
    """Run these failed or cancelled jobs again, or with `results` (id -> entry) whatever gave them."""
    silent = []
    if (ids or results) and not queue.snapshot().outstanding:
        silent = retire_idle(queue, queue.link.access.home or entered_home(home))
    count = len(queue.retry(ids) if results is None else queue.retry_results(results))
    if count:
        queue.notify("retry")
    return Retried(count, silent, why_undone(queue, tells_pause=count > 0))


def set_paused(queue: CampaignCommands, *, paused: bool) -> Paused:
    """Start no more of a campaign's jobs, or go on with it."""
    has_changed = queue.pause(paused)
    queue.notify("pause" if paused else "resume")
    return Paused(has_changed, None if paused else why_undone(queue, tells_pause=True))


def drain(link: Link, names: Sequence[str]) -> None:
    """Have workers finish what they run, then end. Raises QueueEvalError if one of them does not live."""
    alive = {worker.card.name for worker in live_workers(link)}
    unknown = [name for name in names if name not in alive]
    if unknown:
        raise QueueEvalError(
            f"there is no live worker {', '.join(map(repr, unknown))}; see: queue-eval workers"
        )
    ask_to_drain(link, names)


# The sentences --------------------------------------------------------------------------------------------


def told_of_count(campaign: str, verb: str, count: int, asked: int, otherwise: str) -> str:
    """How many jobs were cancelled or retried, and of those asked for how the others were."""
    rest = f"; {asked - count} {otherwise}" if asked > count else ""
    return f"{count} job{'' if count == 1 else 's'} of {campaign} {verb}{rest}"


FINISHED_BEFORE = "was finished already"
NEVER_FAILED = "had neither failed nor been cancelled"


def told_of_stop(queue: CampaignCommands, stopped: Stopped, ids: Sequence[int]) -> list[str]:
    """How many were asked to stop early, and how many of them do not look."""
    asked, looking = len(stopped.asked), len(stopped.looking)
    rest = len(ids) - asked
    others = f"; {rest} {'has' if rest == 1 else 'have'} not begun, or finished before" if rest > 0 else ""
    told = [f"asked {asked} running job{'' if asked == 1 else 's'} to stop early{others}"]
    if looking < asked:
        look = "it does not look" if asked == 1 else f"{looking or 'none'} of them look{'s' * (looking < 2)}"
        run_on = "it runs on" if asked == 1 else f"{'the others' if looking else 'they'} run on"
        end = f"end what never looks with: {spell_command(queue.link.access, 'cancel', queue.campaign)}"
        told.append(f"{look} at stop_requested so far, and {run_on} until then; {end}")
    return told


def told_of_pause(campaign: str, done: Paused, *, paused: bool) -> str:
    already = "" if done.has_changed else "already "
    return f"campaign {campaign} is {already}{'paused' if paused else 'going on'}"


def told_of_drain(names: Sequence[str]) -> str:
    return f"asked to drain: {', '.join(names)}"
