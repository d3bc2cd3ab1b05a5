"""Lays campaigns to rest that are over, so that they cost workers nothing, and wakes them.

::

    worker   rest.lua notes it in the campaign ──▶ register of those that rest ──▶ rest.lua once more
    driver   enqueue, retry report the note    ──▶ off that register, a notice ──▶ the note is taken off

The note decides, because it lies beside the jobs. The register only tells workers what not to look at.
A driver that adds jobs to a resting campaign gets the note with the same reply. A worker that puts the
campaign on the register after that sees that it is not over, and takes it off again.
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
"""A campaign is over when all its jobs are finished and nothing has happened for this long."""


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
    """Have workers look no more at those of these campaigns that are still over. Returns those."""
    at = round(time.time() * 1000)
    link.call(lambda client: client.zadd(keys.RESTING, dict.fromkeys(campaigns, at)))
    # A driver may have added jobs, and woken the campaign, before it was put on the register.
    goes_on = set(wake_open(link, campaigns))
    return [campaign for campaign in campaigns if campaign not in goes_on]


def wake_open(link: Link, campaigns: Sequence[str]) -> list[str]:
    """Take those off the register of resting campaigns that are not over, or are gone. Returns those."""
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
    """All campaigns on the register of resting ones."""
    names = link.call(lambda client: client.zrange(keys.RESTING, 0, -1))
    return [name.decode(errors="replace") for name in names]


def wake(link: Link, campaign: str) -> None:
    """Have workers look at a campaign to which jobs were added."""
    try:
        with link.skipping_nodes():
            link.call(lambda client: client.zrem(keys.RESTING, campaign))
    except NodeAwayError as error:
        # Its note stays, so it is woken later: see `CampaignCommands.stay_listed`.
        log.warning("campaign %s cannot be woken for now: %s", campaign, error)
        return
    notify(link, "wake", campaign=campaign)
    # The note goes last: should this process die before, the next driver that adds jobs still sees the note
    # and wakes the campaign.
    link.call(lambda client: client.hdel(keys.Keys(campaign).meta, "resting"))


def _look(reply: Sequence[Any]) -> Look:
    uid, revision, rests = reply
    return Look(uid.decode(errors="replace"), int(revision), rests == 1)
