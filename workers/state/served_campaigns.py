"""Which campaigns a worker serves, which it refuses, and what it tells their drivers about that."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator

from queue_eval.campaign.commands import CampaignCommands
from queue_eval.model.attempt import Token
from workers.executors.protocol import Plan
from workers.runner import Runner
from workers.state.served_campaign import ServedCampaign


class ServedCampaigns:
    """Guarantees: every public method is atomic, under the lock of `WorkerState`, which it shares."""

    def __init__(self, changed: threading.Condition) -> None:
        self._changed = changed
        self._by_name: dict[str, ServedCampaign] = {}
        self._by_lane: dict[str, ServedCampaign] = {}
        self._refused: dict[str, tuple[str, int]] = {}
        """Campaign -> the uid and revision that are not to be served here."""
        self._reasons: dict[str, str] = {}
        self.runner: Runner | None = None

    # While the lock is held -----------------------------------------------------------------------------

    def __iter__(self) -> Iterator[ServedCampaign]:
        return iter(self._by_name.values())

    def get(self, campaign: str) -> ServedCampaign | None:
        return self._by_name.get(campaign)

    def of_lane(self, lane_id: str) -> ServedCampaign | None:
        return self._by_lane.get(lane_id)

    def strike_out(self, served: ServedCampaign) -> None:
        del self._by_name[served.name], self._by_lane[served.lane_id]

    def call_succeeded(self, served: ServedCampaign) -> None:
        """The server has answered: forget why the campaign could not be served, unless it was refused while
        that call was under way."""
        if not served.is_withdrawn:
            self._reasons.pop(served.name, None)

    # From any thread ------------------------------------------------------------------------------------

    def serve(self, queue: CampaignCommands, plan: Plan) -> None:
        """Serve this campaign too, or with another plan."""
        with self._changed:
            served = self._by_name.get(queue.campaign)
            if served is None or served.queue.uid != queue.uid:
                self.leave(queue.campaign)  # an earlier campaign of this name
                served = ServedCampaign(queue, plan)
                self._by_name[served.name] = self._by_lane[served.lane_id] = served
            if plan.revision != served.plan.revision:
                served.loads.reset()
            served.plan = plan
            served.may_have_work, served.is_withdrawn = True, False
            served.has_other_wide_jobs = served.is_prefetch_limited = False
            self._refused.pop(queue.campaign, None)
            self._reasons.pop(queue.campaign, None)
            self._changed.notify()

    def leave(self, campaign: str) -> None:
        """Forget a campaign that is gone, or not for this worker, and stop its jobs."""
        with self._changed:
            served = self._by_name.get(campaign)
            if served is not None:
                self.strike_out(served)
        if served is not None and self.runner is not None:
            self.runner.drop(served.lane_id)

    def withdraw(self, campaign: str) -> None:
        """Lease no more of a campaign that is not for this worker any more; finish what runs."""
        with self._changed:
            served = self._by_name.get(campaign)
            if served is not None:
                served.is_withdrawn, served.reserved_slots = True, 0
            self._changed.notify()

    def refuse(self, campaign: str, uid: str, revision: int, reason: str = "") -> None:
        """Remember that a campaign in this state is not to be served here. Its drivers are told `reason`."""
        with self._changed:
            self._refused[campaign] = (uid, revision)
            self._reasons.pop(campaign, None)
            if reason:
                self._reasons[campaign] = reason

    def is_refused(self, campaign: str, uid: str, revision: int) -> bool:
        with self._changed:
            return self._refused.get(campaign) == (uid, revision)

    def forget_unlisted(self, listed: Iterable[str]) -> None:
        """Forget refused campaigns that are no longer listed: a long-running worker meets ever new names."""
        with self._changed:
            kept = {*listed, *self._by_name}
            for place in (self._refused, self._reasons):
                for campaign in place.keys() - kept:
                    place.pop(campaign)

    def cannot_serve(self, campaign: str, reason: str) -> None:
        """Tell the drivers of this campaign that it cannot be served for now."""
        with self._changed:
            self._reasons[campaign] = reason

    def reasons(self) -> dict[str, str]:
        """Why campaigns that are for this worker are not served by it, or make no progress on it.

        Refused campaigns come first, the oldest of them at the head; then those that are served.
        """
        with self._changed:
            troubles = {served.name: served.trouble for served in self if served.trouble}
            unloaded = {served.name: served.loads.reason for served in self if served.loads.reason}
            reasons = dict(self._reasons)
            for name, reason in (troubles | unloaded).items():
                reasons.setdefault(name, reason)
            return reasons

    def holdings(self) -> list[tuple[ServedCampaign, list[Token]]]:
        """Every campaign served, with the tokens held."""
        with self._changed:
            return [(served, list(served.held.tokens.items())) for served in self]
