"""Campaigns that are over cost workers nothing: they rest until a driver wakes them.

::

    worker   rest.lua notes it in the campaign ──▶ register of those that rest ──▶ rest.lua once more
    driver   enqueue, retry tell of the note   ──▶ off that register, a notice ──▶ the note is taken off

The note is what counts, for it lies beside the jobs; the register only tells workers what not to look at.
So whoever adds jobs to a campaign that rests learns it in the same moment, and a worker that puts a campaign
on the register after that sees that it is not over and takes it off again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from queue_eval.campaign import keys
from queue_eval.campaign.registry import notify
from queue_eval.campaign.scripts import script
from queue_eval.errors import NodeAwayError
from queue_eval.foreign_text import plain
from queue_eval.transport.link import Link

log = plain(logging.getLogger(__name__))

REST_AFTER_S = 60.0
"""A campaign is over when all its jobs have been finished, and nothing has happened, for so long."""


@dataclass(frozen=True, slots=True)
class Look:
    """How a campaign stands."""

    uid: str
    """Empty where there is none."""
    revision: int
    rests: bool


def look_at_all(link: Link, campaigns: Sequence[str], *, may_rest: bool) -> list[Look | Exception]:
    """How these campaigns stand, each noted as resting if it is over and `may_rest`.

    An error stands in place of what could not be seen.
    """
    after_ms = round(REST_AFTER_S * 1000) if may_rest else ""
    calls = [(keys.Keys(campaign).columns, (after_ms,)) for campaign in campaigns]
    replies = link.run_scripts(script("rest"), calls)
    return [reply if isinstance(reply, Exception) else _look(reply) for reply in replies]


def lay_to_rest(link: Link, campaigns: Sequence[str]) -> list[str]:
    """Have workers look at these no more, as far as they are still over; returns which."""
    at = round(time.time() * 1000)
    link.call(lambda client: client.zadd(keys.RESTING, dict.fromkeys(campaigns, at)))
    # A driver may have added jobs, and have woken the campaign, before it was put there.
    goes_on = set(wake_open(link, campaigns))
    return [campaign for campaign in campaigns if campaign not in goes_on]


def wake_open(link: Link, campaigns: Sequence[str]) -> list[str]:
    """Take those off the register that are not over, or not there any more; returns which."""
    looks = look_at_all(link, campaigns, may_rest=True)
    goes_on = [
        campaign
        for campaign, look in zip(campaigns, looks, strict=True)
        if isinstance(look, Look) and not look.rests
    ]
    if goes_on:
        link.call(lambda client: client.zrem(keys.RESTING, *goes_on))
    return goes_on


def all_resting(link: Link) -> list[str]:
    """The register."""
    names = link.call(lambda client: client.zrange(keys.RESTING, 0, -1))
    return [name.decode(errors="replace") for name in names]


def wake(link: Link, campaign: str) -> None:
    """Have workers look at a campaign to which jobs were added."""
    try:
        with link.skipping_nodes():
            link.call(lambda client: client.zrem(keys.RESTING, campaign))
    except NodeAwayError as error:
        # Its note stays, by which it is woken later: see `CampaignQueue.stay_listed`.
        log.warning("campaign %s cannot be woken for now: %s", campaign, error)
        return
    notify(link, "wake", campaign=campaign)
    # Last: until then whoever adds jobs is told to wake it, should this process die here.
    link.call(lambda client: client.hdel(keys.Keys(campaign).meta, "resting"))


def _look(reply: Sequence[Any]) -> Look:
    uid, revision, rests = reply
    return Look(uid.decode(errors="replace"), int(revision), rests == 1)
