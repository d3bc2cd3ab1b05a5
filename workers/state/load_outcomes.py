"""Which run functions this worker could load: what must be judged, and what the server must be told."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence

from workers.state.held_jobs import DOUBTFUL
from workers.state.loads import Unloaded
from workers.state.served_campaign import ServedCampaign
from workers.state.served_campaigns import ServedCampaigns


class LoadOutcomes:
    """Guarantees: every public method is atomic, under the lock of `WorkerState`, which it shares."""

    def __init__(self, changed: threading.Condition, campaigns: ServedCampaigns) -> None:
        self._changed = changed
        self._campaigns = campaigns

    def is_pending(self) -> bool:
        """Whether there is something to judge, or to tell the server."""
        with self._changed:
            return any(served.loads.unloaded or served.loads.is_untold for served in self._reachable())

    def take_unloaded(self) -> list[tuple[ServedCampaign, list[Unloaded]]]:
        """Attempts whose processes never loaded the run function, to be judged."""
        with self._changed:
            found = [served for served in self._reachable() if served.loads.unloaded]
            return [(served, served.loads.take_unloaded()) for served in found]

    def keep_unloaded(self, served: ServedCampaign, unloaded: Sequence[Unloaded]) -> None:
        """These attempts could not be judged; the campaign waits a little."""
        with self._changed:
            served.loads.unloaded[:0] = unloaded
            served.put_off()

    def campaigns_to_tell(self) -> list[ServedCampaign]:
        """Campaigns whose function was loaded here anew, as the server does not know yet."""
        with self._changed:
            return [served for served in self._reachable() if served.loads.is_untold]

    def untold(self, served: ServedCampaign) -> tuple[int | None, dict[str, str]]:
        """What the server is to be told: the revision that was loaded, and the sources that are new."""
        with self._changed:
            return served.loads.revision, dict(served.loads.new_sources)

    def mark_told(self, served: ServedCampaign, revision: int | None, sources: Iterable[str]) -> None:
        """The server knows this now."""
        with self._changed:
            served.loads.know(revision, sources)

    def blame_function(self, served: ServedCampaign, unloaded: Sequence[Unloaded], reason: str) -> bool:
        """No worker can load the run function: settle these attempts with that error.

        `reason` is told to the drivers and the other workers, unless it is empty. Returns whether the
        function is blamed for the first time.
        """
        with self._changed:
            for attempt in unloaded:
                settlement = attempt.settlement
                served.held.add_ended(settlement, is_doubtful=settlement.outcome in DOUBTFUL)
            return served.loads.blame_function(reason)

    def step_aside(self, served: ServedCampaign, unloaded: Sequence[Unloaded], reason: str) -> float | None:
        """Other workers may load it: hold these attempts no more, and ask for none for a while.

        Returns for how long (s), or None when this worker had stepped aside before.
        """
        with self._changed:
            for attempt in unloaded:
                served.held.strike_off(attempt.settlement.id, attempt.settlement.attempt)
            # This worker does not want the jobs that it knows of: it leaves their marker to others.
            served.may_have_work = True
            return served.loads.step_aside(time.monotonic(), reason)

    def _reachable(self) -> list[ServedCampaign]:
        now = time.monotonic()
        return [served for served in self._campaigns if not served.is_put_off(now)]
