"""Decides whose fault it is that a run function was not loaded: this worker's, or the function's own.

The function is at fault when no worker has ever loaded this revision of it, and every other worker that
serves the campaign says on its card that it cannot. A worker that is busy, or has not tried yet, does not say
so. Nor does a worker without a working interpreter, which never came to load it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from queue_eval.campaign.keys import DEFAULT_QUEUE
from queue_eval.campaign.registry import MAX_REASON_CHARACTERS, LiveWorker, live_workers
from queue_eval.errors import CampaignNotFoundError
from queue_eval.foreign_text import plain
from queue_eval.machine import is_alive, machine_id
from queue_eval.model.moves import Release
from queue_eval.transport.link import Link
from workers.executors.protocol import NO_INTERPRETER
from workers.options import WorkerOptions
from workers.runner import Runner
from workers.state.loads import Unloaded
from workers.state.served_campaign import ServedCampaign
from workers.state.worker_state import WorkerState

log = plain(logging.getLogger(__name__))


class LoadFailures:
    """Judges attempts whose processes never loaded the run function. Assumes: one thread at a time.

    `show_card` has this worker's card written anew, soon: other workers and drivers wait for it.
    """

    def __init__(
        self, link: Link, options: WorkerOptions, state: WorkerState, runner: Runner,
        show_card: Callable[[], None],
    ) -> None:  # fmt: skip
        self._link = link
        self._options = options
        self._state = state
        self._runner = runner
        self._show_card = show_card
        self._machine = machine_id()

    def judge(self, served: ServedCampaign, unloaded: Sequence[Unloaded]) -> list[Release]:
        """If it is the function's fault, have the attempts settled. Else step aside, and return the releases.

        Raises CampaignNotFoundError when the campaign is gone; then nothing has been done.
        """
        reason = one_line(unloaded[-1].reason)
        may_blame, label = self._look_at(served)
        others = self._others(served.name, label)
        has_tried = not any(attempt.reason.startswith(NO_INTERPRETER) for attempt in unloaded)
        have_all_failed = all(_has_failed(worker.card.refused.get(served.name)) for worker in others)
        # While it drains, what stops this worker may have ended its processes, too.
        if may_blame and has_tried and have_all_failed and not self._state.is_draining:
            # When it is alone, no worker must be told, and the driver is told with each job.
            if self._state.loads.blame_function(served, unloaded, reason if others else ""):
                log.warning(
                    "no worker can load the run function of campaign %s, so its jobs fail: %s",
                    served.name, reason,
                )  # fmt: skip
            if others:
                self._show_card()
            return []
        pause_s = self._state.loads.step_aside(served, unloaded, reason)
        if pause_s is not None:
            # Otherwise each waiting job would be tried, and would fail, on its own.
            self._runner.take_back(lane_id=served.lane_id)
            log.warning(
                "this worker steps aside for campaign %s and asks for nothing of it for %g s: %s",
                served.name, pause_s, reason,
            )  # fmt: skip
            self._show_card()
        return [
            Release(attempt.settlement.id, attempt.settlement.attempt, one_line(attempt.reason))
            for attempt in unloaded
        ]

    def _look_at(self, served: ServedCampaign) -> tuple[bool, str]:
        """Whether the function may be at fault, as no worker has ever loaded it; and the campaign's label."""
        key = served.queue.keys.meta
        fields = self._link.call(lambda client: client.hmget(key, "uid", "revision", "loaded", "queue"))
        uid, revision, loaded, label = ((field or b"").decode(errors="replace") for field in fields)
        if uid != served.queue.uid:
            raise CampaignNotFoundError(f"campaign {served.name!r} was purged")
        # If the campaign was opened anew meanwhile, nothing is known of its new revision.
        is_present = revision == str(served.plan.revision)
        return is_present and loaded != revision, label or DEFAULT_QUEUE

    def _others(self, campaign: str, label: str) -> list[LiveWorker]:
        """The other workers that serve the campaign or are being started for it, without those that end."""
        return [
            worker
            for worker in live_workers(self._link)
            if worker.card.name != self._options.name
            and worker.card.serves(campaign, label)
            and worker.card.state != "draining"
            and not self._is_dead(worker)
        ]

    def _is_dead(self, worker: LiveWorker) -> bool:
        """Whether a worker is known to be dead: its card outlives it for a while."""
        card = worker.card
        if card.lease_s is not None and worker.last_seen_s > card.lease_s:
            return True
        if card.machine != self._machine or card.pid is None or card.born is None:
            return False
        return not is_alive(card.pid, card.born)


def _has_failed(reason: str | None) -> bool:
    """Whether a worker says that it cannot load the function, for another reason than its interpreter."""
    return reason is not None and not reason.startswith(NO_INTERPRETER)


def one_line(reason: str) -> str:
    return " ".join(reason.split())[:MAX_REASON_CHARACTERS]
