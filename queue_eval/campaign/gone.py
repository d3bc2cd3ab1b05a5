"""Finds out why a campaign is gone: it was purged, or the server has lost all its data."""

from __future__ import annotations

from typing import Any

from queue_eval.campaign import keys
from queue_eval.errors import CampaignNotFoundError, ServerError
from queue_eval.transport.access import safe_url
from queue_eval.transport.clients import node_of
from queue_eval.transport.link import Link


def campaign_gone(link: Link, campaign: str) -> CampaignNotFoundError:
    """The error to raise, with the reason as far as the server tells it."""
    key = keys.Keys(campaign).meta

    def ask(client: Any) -> tuple[dict[str, Any], list[Any]]:
        # A purge adds a notice, so an empty stream of notices means an emptied server.
        return client.info("replication", **node_of(client, key)), client.xrevrange(keys.NOTICES, count=1)

    try:
        with link.skipping_nodes():
            replication, notices = link.call(ask)
    except ServerError:  # this user has no right to INFO, or the node is away
        replication, notices = {}, [None]
    where = safe_url(link.access.url)
    if replication.get("role") == "slave":
        primary = f"{replication.get('master_host')}:{replication.get('master_port')}"
        return CampaignNotFoundError(
            f"campaign {campaign!r} is gone: the server at {where} is a replica of {primary} now, whose "
            "data has replaced its own; give the URL of a server that has the campaign, or end that with "
            "REPLICAOF NO ONE and restore a backup, or begin the campaign anew"
        )
    if not notices:
        return CampaignNotFoundError(
            f"campaign {campaign!r} is gone: the server at {where} was emptied (FLUSHALL, a REPLICAOF by "
            "mistake, a start without its data); restore a backup, or begin the campaign anew"
        )
    return CampaignNotFoundError(f"campaign {campaign!r} was purged")
