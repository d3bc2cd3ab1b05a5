"""Finds and deletes expired campaigns: unnamed ones, all gathered, that their driver has closed long ago.

::

    open (unnamed)      close (all gathered)       14 days later, whoever looks
    expires = 1   ───▶  closed = now, …      ───▶  purge with an age: the script decides

This module only finds candidates. The script `purge` decides from the meta and the columns whether to delete
one, in the same step as the deletion. A campaign that is opened by its name expires no more.
"""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from queue_eval.campaign import keys
from queue_eval.campaign.commands import CampaignCommands, unlist
from queue_eval.campaign.keys import Keys, is_campaign_name
from queue_eval.campaign.paging import PAGE, pages
from queue_eval.errors import NodeAwayError, QueueEvalError
from queue_eval.foreign_text import plain
from queue_eval.transport.error_kinds import REDIS_ERRORS, is_damage
from queue_eval.transport.link import Link

log = plain(logging.getLogger(__name__))

EXPIRE_AFTER_S = 14 * 86400.0
"""How long an unnamed campaign is kept after its driver has closed it."""

_PRUNE_EVERY_S = 3600
"""How often one of all drivers of a server looks for expired campaigns in passing."""

_MAX_PRUNED = 20
_MAX_PRUNING_S = 0.1
"""How many campaigns a driver deletes in passing, and after what time it starts on no further one."""

FIELDS = ("uid", "expires", "closed", "last_id", "revision", "retried")


class Expired(NamedTuple):
    """A campaign that its meta shows to have expired. Only the script `purge` knows for certain."""

    campaign: str
    uid: str
    listed_ms: float
    """Its score in the register."""
    closed_ms: int
    jobs: int

    def purge(self, link: Link, age_s: float) -> bool:
        """Delete the campaign, unless something has happened to it since. Returns whether it is gone."""
        commands = CampaignCommands(link, self.campaign, self.uid)
        return commands.purge_expired(self.listed_ms, round(age_s * 1000))


def closed_ms_of(meta: Mapping[str, bytes]) -> int | None:
    """When (ms) the driver of a campaign that expires closed it; None for all other campaigns."""
    closed = re.fullmatch(rb"(\d{1,15}) (\d{1,15}) (\d{1,15})", meta.get("closed", b""))
    if closed is None or meta.get("expires") != b"1" or "retried" in meta:
        return None
    is_untouched = (meta.get("last_id"), meta.get("revision")) == (closed[2], closed[3])
    return int(closed[1]) if is_untouched else None


def find_expired(
    link: Link, age_s: float, *, deadline: float = math.inf, tidies: bool = True
) -> Iterator[Expired]:
    """Campaigns that were closed at least `age_s` ago, the oldest first, until `deadline` (monotonic, s).

    `tidies`: take names off the register whose campaign is gone. A process has died while it deleted them.
    """
    seconds, micros = link.call(lambda client: client.time())
    # A campaign that was closed by then was created by then, so the register's scores narrow the search.
    # They are read before the uids: see `CampaignCommands.purge_expired`.
    before_ms = seconds * 1000 + micros / 1000 - age_s * 1000
    listed = link.call(
        lambda client: client.zrangebyscore(keys.CAMPAIGNS, "-inf", before_ms, withscores=True)
    )
    known = [(raw.decode(errors="replace"), score) for raw, score in listed]
    for page in pages([(name, score) for name, score in known if is_campaign_name(name)], PAGE):
        metas = _metas(link, [name for name, _ in page])
        for (name, score), meta in zip(page, metas, strict=True):
            if meta is None:
                continue  # it is damaged, or its node is away
            if "uid" not in meta:
                if tidies:
                    unlist(link, name, repr(score))
                continue
            closed_ms = closed_ms_of(meta)
            if closed_ms is not None and closed_ms <= before_ms:
                uid = meta["uid"].decode(errors="replace")
                yield Expired(name, uid, score, closed_ms, int(meta["last_id"]))
        if time.monotonic() >= deadline:
            return


def prune_in_passing(link: Link, purge: Callable[[Expired, Link, float], bool] = Expired.purge) -> None:
    """Delete a few expired campaigns, if no driver has looked within the hour. Errors of the server are not
    raised. `purge`: deletes one, as `Expired.purge` does."""
    try:
        with suppress(*REDIS_ERRORS), link.skipping_nodes():
            if link.call(lambda client: client.set(keys.PRUNED, "1", nx=True, ex=_PRUNE_EVERY_S)):
                _prune_some(link, time.monotonic() + _MAX_PRUNING_S, purge)
    except QueueEvalError as error:
        log.info("expired campaigns are left to others: %s", error)


def _prune_some(link: Link, deadline: float, purge: Callable[[Expired, Link, float], bool]) -> None:
    count = 0
    for expired in find_expired(link, EXPIRE_AFTER_S, deadline=deadline):
        with suppress(QueueEvalError):  # a damaged one must not keep the others
            count += purge(expired, link, EXPIRE_AFTER_S)
        if count >= _MAX_PRUNED or time.monotonic() >= deadline:
            break
    if count:
        # The time may end before thousands of campaigns that stay are looked through. What lies behind them
        # is left to `queue-eval campaigns --prune`.
        log.info("deleted %d campaigns without a name that had expired", count)


def _metas(link: Link, names: Sequence[str]) -> list[dict[str, bytes] | None]:
    """The meta fields that decide on each campaign's expiry; None where they cannot be read."""
    # One command for each: on a cluster the campaigns lie in different slots.
    replies = link.ask_each([(Keys(name).meta, ("HMGET", Keys(name).meta, *FIELDS)) for name in names])
    for reply in replies:
        if isinstance(reply, Exception) and not (is_damage(reply) or isinstance(reply, NodeAwayError)):
            raise reply
    return [
        None
        if isinstance(reply, Exception)
        else {field: value for field, value in zip(FIELDS, reply, strict=True) if value is not None}
        for reply in replies
    ]
