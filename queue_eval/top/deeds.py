"""What the keys do to a campaign: calls for the server's thread, each of which gives one sentence."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from queue_eval.driver import actions
from queue_eval.top.looks import CampaignLook
from queue_eval.top.view_screen import Deed
from queue_eval.transport.link import Link


def stop(look: CampaignLook, ids: Sequence[int] = ()) -> Deed:
    """Ask these jobs, or all that run, to stop early."""

    def deed() -> str:
        queue = look.source().queue
        return "; ".join(actions.told_of_stop(queue, actions.stop(queue, ids), ids))

    return deed


def cancel(look: CampaignLook, ids: Sequence[int] = ()) -> Deed:
    """Cancel these jobs, or all that are not finished."""

    def deed() -> str:
        queue = look.source().queue
        count = actions.cancel(queue, ids)
        return actions.told_of_count(queue.campaign, "cancelled", count, len(ids), actions.FINISHED_BEFORE)

    return deed


def retry(look: CampaignLook, ids: Sequence[int]) -> Deed:
    return _retry(look, lambda: ids)


def retry_group(look: CampaignLook, title: str) -> Deed:
    """All jobs of the group of failures with this title run again."""
    return _retry(look, lambda: look.failed_of(title))


def retry_all(look: CampaignLook) -> Deed:
    """All jobs that have failed run again."""

    def failed() -> list[int]:
        return look.source().queue.failed_ids()

    return _retry(look, failed)


def pause(look: CampaignLook, *, paused: bool) -> Deed:
    def deed() -> str:
        queue = look.source().queue
        done = actions.set_paused(queue, paused=paused)
        return _joined(actions.told_of_pause(queue.campaign, done, paused=paused), done.unserved)

    return deed


def drain(link: Link, worker: str) -> Deed:
    def deed() -> str:
        actions.drain(link, [worker])
        return actions.told_of_drain([worker])

    return deed


def _retry(look: CampaignLook, ids: Callable[[], Sequence[int]]) -> Deed:
    def deed() -> str:
        queue, chosen = look.source().queue, ids()
        done = actions.retry(queue, chosen, None) if chosen else actions.Retried(0, [], None)
        told = actions.told_of_count(
            queue.campaign, "retried", done.again, len(chosen), actions.NEVER_FAILED
        )
        return _joined(told, done.unserved)

    return deed


def _joined(told: str, unserved: str | None) -> str:
    return told if unserved is None else f"{told}; {unserved}"
