"""What a browser may change, with `--read-write`: the same as the commands of these names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from queue_eval.campaign.commands import CampaignCommands
from queue_eval.driver.changes import cancel_jobs, drain_workers, retry_jobs, set_paused, stop_jobs
from queue_eval.errors import UsageError

MOST_IDS = 100_000
_FIELDS = {"action", "ids", "group", "worker"}


class Order(NamedTuple):
    """What is to be done."""

    action: str
    ids: list[int] | None
    """None: all that the action is for."""
    group: str | None
    """The line of a group of failures, in place of ids."""
    worker: str | None


def parse_order(document: Any) -> Order:
    """From the body of a request. Raises UsageError, before anything has changed."""
    if not isinstance(document, Mapping):
        raise UsageError('an action is a JSON object, like {"action": "retry", "ids": [3]}')
    unknown = sorted(map(str, document.keys() - _FIELDS))
    if unknown:
        raise UsageError(f"an action has no field {unknown[0][:50]!r}; it has {', '.join(sorted(_FIELDS))}")
    action, ids = document.get("action"), document.get("ids")
    group, worker = document.get("group"), document.get("worker")
    if not isinstance(action, str) or action not in ACTIONS:
        raise UsageError(f"there is no action {str(action)[:50]!r}; give one of {', '.join(ACTIONS)}")
    if ids is not None:
        is_list = isinstance(ids, list) and all(type(job) is int and 0 < job < 2**53 for job in ids)
        if not is_list or not 0 < len(ids) <= MOST_IDS:
            raise UsageError(f"ids is a list of 1 to {MOST_IDS} ids of jobs; leave it out to mean all")
    if not isinstance(group, str | None) or not isinstance(worker, str | None):
        raise UsageError("group and worker are text")
    if ids is not None and group is not None:
        raise UsageError("give ids or a group, not both")
    if group is not None and action != "retry":
        raise UsageError("only retry takes a group of failures")
    if (worker is None) == (action == "drain"):
        raise UsageError("drain names its worker, and nothing else does")
    if ids is not None and action in ("pause", "resume", "drain"):
        raise UsageError(f"{action} takes no ids")
    return Order(action, ids, group, worker)


def carry_out(order: Order, queue: CampaignCommands, failed_of: Callable[[str], list[int]]) -> dict[str, Any]:
    """Do it. Returns what was done, in a sentence.

    `failed_of`: the jobs of a group of failures. Raises UsageError for jobs that are not there, and what
    `CampaignCommands` raise.
    """
    ids = order.ids if order.group is None else failed_of(order.group)
    if order.group is not None and not ids:
        raise UsageError("no job that has failed counts in this group any more; look at the groups again")
    return ACTIONS[order.action](queue, order._replace(ids=ids))


def _cancel(queue: CampaignCommands, order: Order) -> dict[str, Any]:
    return _done("cancelled", cancel_jobs(queue, order.ids))


def _stop(queue: CampaignCommands, order: Order) -> dict[str, Any]:
    stopped = stop_jobs(queue, order.ids)
    asked, looking = len(stopped.asked), len(stopped.looking)
    sentence = f"{_jobs(asked)} asked to stop early"
    if looking < asked:
        sentence += f"; {asked - looking} of them look at no request so far, and run on until they do"
    return {"sentence": sentence, "count": asked}


def _retry(queue: CampaignCommands, order: Order) -> dict[str, Any]:
    return _done("retried", retry_jobs(queue, order.ids).jobs)


def _pause(queue: CampaignCommands, _: Order) -> dict[str, Any]:
    return _paused("paused; what runs is finished", set_paused(queue, paused=True))


def _resume(queue: CampaignCommands, _: Order) -> dict[str, Any]:
    return _paused("going on", set_paused(queue, paused=False))


def _drain(queue: CampaignCommands, order: Order) -> dict[str, Any]:
    assert order.worker is not None
    drain_workers(queue.link, [order.worker])
    return {"sentence": f"worker {order.worker} was asked to drain: it finishes what it runs, then ends"}


def _done(verb: str, count: int) -> dict[str, Any]:
    return {"sentence": f"{_jobs(count)} {verb}", "count": count}


def _paused(words: str, has_changed: bool) -> dict[str, Any]:
    return {"sentence": f"the campaign is {'' if has_changed else 'already '}{words}"}


def _jobs(count: int) -> str:
    return f"{count} job{'' if count == 1 else 's'}"


ACTIONS: dict[str, Callable[[CampaignCommands, Order], dict[str, Any]]] = {
    "stop": _stop, "cancel": _cancel, "retry": _retry, "pause": _pause, "resume": _resume, "drain": _drain,
}  # fmt: skip
