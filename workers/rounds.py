"""Part of the heartbeat: decides which campaigns this worker serves, refuses, or leaves to rest."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

from queue_eval.campaign import keys
from queue_eval.campaign.commands import CampaignQueue
from queue_eval.campaign.resting import Look, all_resting, lay_to_rest, look_at_all, wake_open
from queue_eval.errors import (
    CampaignNotFoundError,
    DamagedError,
    FunctionError,
    MethodUnavailableError,
    NodeAwayError,
    ServerRefusedError,
)
from queue_eval.foreign_text import plain
from queue_eval.transport.link import Link
from queue_eval.transport.script_calls import KeyCommand
from workers.options import WorkerOptions
from workers.plan import label_of, make_plan
from workers.state.worker_state import WorkerState

log = plain(logging.getLogger(__name__))

_SWEEP_EVERY_S = 6 * 3600
"""How often a worker looks at all resting campaigns."""

_SWEPT_S = 60
"""For so long after a sweep no other worker sweeps: of workers that start together, one does it."""


class Rounds:
    """Only the lease keeper calls this, except for `hear`.

    A worker for all campaigns leaves those that are over (see queue_eval/campaign/resting.py). A worker for
    named campaigns goes on looking at these.
    """

    def __init__(
        self, link: Link, options: WorkerOptions, state: WorkerState,
        attempt: Callable[[str, Callable[[], None]], None],
    ) -> None:  # fmt: skip
        """`attempt` runs a step for a campaign, and logs its error."""
        self._link = link
        self._options = options
        self._state = state
        self._attempt = attempt
        self._may_rest = options.campaigns is None
        self._sweep_at = time.monotonic()
        self._lock = threading.Lock()
        self._heard: set[str] = set()

    def hear(self, campaigns: set[str]) -> None:
        """A notice names these campaigns. A driver of an earlier build adds jobs without waking them."""
        with self._lock:
            self._heard |= campaigns

    def asks(self) -> list[KeyCommand]:
        """The command that lists the campaigns, or none when this worker serves named ones."""
        if self._options.campaigns is not None:
            return []
        if self._may_rest:
            return [(keys.CAMPAIGNS, ("ZDIFF", 2, keys.CAMPAIGNS, keys.RESTING))]
        return [(keys.CAMPAIGNS, ("ZRANGE", keys.CAMPAIGNS, 0, -1))]

    def is_barred(self, reply: object) -> bool:
        """Whether the server forbids workers to read which campaigns rest, as an earlier build has set it up.
        Then ask again, for all campaigns."""
        if self._may_rest and isinstance(reply, ServerRefusedError):
            self._may_rest = False
            return True
        return False

    def listed(self, reply: list[bytes] | None) -> list[str]:
        """The campaigns to look at, from the reply: the oldest first, where the server lists them."""
        if self._options.campaigns is not None:
            return list(self._options.campaigns)
        names = (campaign.decode(errors="replace") for campaign in reply or ())
        return [campaign for campaign in names if keys.is_campaign_name(campaign)]

    def wake(self) -> list[str]:
        """Wake campaigns that rest and are not over: a process that died, or an earlier build, may have left
        them. Returns which these are."""
        if not self._may_rest:
            return []
        with self._lock:
            heard, self._heard = self._heard, set()
        now = time.monotonic()
        try:
            if now >= self._sweep_at:
                if self._link.call(lambda client: client.set(keys.SWEPT, 1, nx=True, ex=_SWEPT_S)):
                    heard |= set(all_resting(self._link))
                self._sweep_at = now + _SWEEP_EVERY_S
            return wake_open(self._link, sorted(filter(keys.is_campaign_name, heard)))
        except NodeAwayError:  # the next beat tries again
            self.hear(heard)
            return []

    def go(self, listed: Sequence[str]) -> None:
        """Look at campaigns that are listed and not served, and at served ones that are idle here."""
        holdings = self._state.campaigns.holdings()
        served_names = {served.name for served, _ in holdings}
        idle = [served.name for served, tokens in holdings if not tokens] if self._may_rest else []
        # In the order of the list, the oldest campaign first: see `ServedCampaigns.reasons`.
        names = [name for name in dict.fromkeys(listed) if name not in served_names] + idle
        over: list[str] = []
        looks = look_at_all(self._link, names, may_rest=self._may_rest)
        for name, look in zip(names, looks, strict=True):
            if isinstance(look, Look) and look.rests:
                over.append(name)
            elif isinstance(look, Exception) or name not in served_names:
                self._attempt(name, partial(self._judge, name, look))
        if over:
            self._rest(over)

    def look_at(self, campaign: str) -> None:
        """Look at a campaign that may have been opened anew."""
        (look,) = look_at_all(self._link, [campaign], may_rest=False)
        self._judge(campaign, look)

    def _judge(self, campaign: str, look: Look | Exception) -> None:
        """Serve a campaign, unless it is not there, or not for this worker."""
        if isinstance(look, Exception):
            raise look
        # Do not read the whole meta at each beat: it may hold megabytes of code for other workers.
        if not look.uid or self._state.campaigns.is_refused(campaign, look.uid, look.revision):
            return
        try:
            queue, meta = CampaignQueue.attach(self._link, campaign)
        except CampaignNotFoundError:
            return
        except (ServerRefusedError, DamagedError) as error:
            self._refuse(campaign, look.uid, look.revision, error)
            return
        revision = int(meta["revision"])
        if not self._options.serves(campaign, label_of(meta)):
            self._state.campaigns.refuse(campaign, queue.uid, revision)
            self._state.campaigns.withdraw(campaign)
            return
        try:
            plan = make_plan(queue, meta, self._options, self._link.access)
        except (FunctionError, MethodUnavailableError) as error:
            self._refuse(campaign, queue.uid, revision, error)
            return
        self._state.campaigns.serve(queue, plan)

    def _refuse(self, campaign: str, uid: str, revision: int, error: Exception) -> None:
        log.error("campaign %s is not served: %s", campaign, error)
        self._state.campaigns.refuse(campaign, uid, revision, str(error))
        # The jobs that run belong to an opening that was accepted: they are finished.
        self._state.campaigns.withdraw(campaign)

    def _rest(self, campaigns: Sequence[str]) -> None:
        resting = lay_to_rest(self._link, campaigns)
        left = [queue for name in resting if (queue := self._state.leave_idle(name)) is not None]
        if not left:
            return
        log.debug("campaigns %s are over", [queue.campaign for queue in left])
        replies = CampaignQueue.leave_all(self._link, self._options.name, left)
        for queue, reply in zip(left, replies, strict=True):
            if isinstance(reply, Exception) and not isinstance(reply, CampaignNotFoundError):
                log.debug("the attendance of %s ends with its lease: %s", queue.campaign, reply)
