"""What a browser may change, with `--read-write`: the same as the commands of these names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from queue_eval.campaign.commands import CampaignCommands
from queue_eval.driver import actions
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
    ids = _checked(queue, order)
    count = actions.cancel(queue, ids)
    told = actions.told_of_count(queue.campaign, "cancelled", count, len(ids), actions.FINISHED_BEFORE)
    return {"sentence": told, "count": count}


def _stop(queue: CampaignCommands, order: Order) -> dict[str, Any]:
    ids = _checked(queue, order)
    stopped = actions.stop(queue, ids)
    sentence = "; ".join(actions.told_of_stop(queue, stopped, ids))
    return {"sentence": sentence, "count": len(stopped.asked)}


def _retry(queue: CampaignCommands, order: Order) -> dict[str, Any]:
    ids = _checked(queue, order)
    done = actions.retry(queue, ids or queue.failed_ids(), None)
    told = actions.told_of_count(queue.campaign, "retried", done.again, len(ids), actions.NEVER_FAILED)
    return {"sentence": "; ".join([told, *([done.unserved] if done.unserved else [])]), "count": done.again}


def _pause(queue: CampaignCommands, _: Order) -> dict[str, Any]:
    return _set_paused(queue, paused=True)


def _resume(queue: CampaignCommands, _: Order) -> dict[str, Any]:
    return _set_paused(queue, paused=False)


def _set_paused(queue: CampaignCommands, *, paused: bool) -> dict[str, Any]:
    done = actions.set_paused(queue, paused=paused)
    told = actions.told_of_pause(queue.campaign, done, paused=paused)
    return {"sentence": "; ".join([told, *([done.unserved] if done.unserved else [])])}


def _drain(queue: CampaignCommands, order: Order) -> dict[str, Any]:
    assert order.worker is not None
    actions.drain(queue.link, [order.worker])
    return {"sentence": actions.told_of_drain([order.worker])}


def _checked(queue: CampaignCommands, order: Order) -> list[int]:
    """The jobs that the order names; empty for all."""
    ids = order.ids or []
    actions.check_ids(queue, ids)
    return ids


ACTIONS: dict[str, Callable[[CampaignCommands, Order], dict[str, Any]]] = {
    "stop": _stop, "cancel": _cancel, "retry": _retry, "pause": _pause, "resume": _resume, "drain": _drain,
}  # fmt: skip
