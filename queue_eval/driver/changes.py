"""Changes of a campaign that a user asks for, by the command line or in the browser."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import NamedTuple

from queue_eval.campaign.commands import CampaignCommands
from queue_eval.campaign.registry import WorkerCard, ask_to_drain, live_workers
from queue_eval.driver.checkpoint_disk import CheckpointDisk
from queue_eval.driver.local_register import retire_idle
from queue_eval.errors import QueueEvalError, UsageError
from queue_eval.model.moves import Stopped
from queue_eval.transport.access import entered_home
from queue_eval.transport.link import Link


class Retried(NamedTuple):
    jobs: int
    """How many jobs run again."""
    silent: list[WorkerCard]
    """Local workers that no driver uses and that do not answer; they may run these jobs in an old
    environment."""


def check_ids(queue: CampaignCommands, ids: Iterable[int]) -> None:
    """Raise UsageError unless the campaign has these jobs."""
    last_id = queue.snapshot().last_id
    unknown = [str(job_id) for job_id in ids if job_id > last_id]
    if unknown:
        has = f"its ids are 1 to {last_id}" if last_id else "it has none yet"
        raise UsageError(f"campaign {queue.campaign!r} has no job {', '.join(unknown)}; {has}")


def cancel_jobs(queue: CampaignCommands, ids: Collection[int] | None) -> int:
    """Cancel these jobs, or all that are not finished. Returns how many were."""
    if ids is None:
        count = queue.cancel_up_to(queue.snapshot().last_id)
    else:
        check_ids(queue, ids)
        count = len(queue.cancel(ids))
    if (disk := CheckpointDisk.of(queue.campaign, queue.meta())) is not None:
        disk.sweep(queue)
    return count


def stop_jobs(queue: CampaignCommands, ids: Collection[int] | None) -> Stopped:
    """Ask these jobs, or all that run, to stop early."""
    if ids is not None:
        check_ids(queue, ids)
    # Of the jobs that are not finished, the script asks those that have begun.
    return queue.stop([job for job, _, _ in queue.outstanding()] if ids is None else ids)


def retry_jobs(queue: CampaignCommands, ids: Collection[int] | None, home: str | None = None) -> Retried:
    """Run these failed or cancelled jobs again, or all that failed."""
    if ids is not None:
        check_ids(queue, ids)
    chosen = tuple(queue.failed_ids() if ids is None else ids)
    return retry_chosen(queue, chosen, lambda: queue.retry(chosen), home)


def retry_chosen(
    queue: CampaignCommands, chosen: Collection[int], retry: Callable[[], Sequence[int]], home: str | None
) -> Retried:
    """Run these jobs again: `retry` does it. `home`: where local workers write their logs, if not the home
    that the link comes from.

    Local workers that no driver uses are drained first if there was nothing to do.
    """
    silent: list[WorkerCard] = []
    if chosen and not queue.snapshot().outstanding:
        silent = retire_idle(queue, queue.link.access.home or entered_home(home))
    count = len(retry())
    if count:
        queue.notify("retry")
    return Retried(count, silent)


def set_paused(queue: CampaignCommands, *, paused: bool) -> bool:
    """Pause a campaign, or let it go on. Returns whether that has changed anything."""
    has_changed = queue.pause(paused)
    queue.notify("pause" if paused else "resume")
    return has_changed


def drain_workers(link: Link, names: Collection[str]) -> None:
    """Have workers finish what they run, then end. Raises QueueEvalError if one of them does not live."""
    alive = {worker.card.name for worker in live_workers(link)}
    unknown = [name for name in names if name not in alive]
    if unknown:
        raise QueueEvalError(
            f"there is no live worker {', '.join(map(repr, unknown))}; see: queue-eval workers"
        )
    ask_to_drain(link, list(names))
