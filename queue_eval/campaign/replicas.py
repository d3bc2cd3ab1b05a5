"""Waits until replicas have what a campaign's server has acknowledged (WAIT).

Replication is asynchronous: what was acknowledged last may be missing on the replica that takes over. WAIT
covers only the writes of its own connection. But a replica confirms the stream of all writes up to some
place. So when it confirms a new write of ours, it has all that was acknowledged before, whoever wrote that.
"""

from __future__ import annotations

from queue_eval.campaign.keys import Keys
from queue_eval.transport.access import safe_url
from queue_eval.transport.clients import is_cluster
from queue_eval.transport.error_kinds import REDIS_ERRORS, reason
from queue_eval.transport.link import Link
from queue_eval.user_warning import warn_user

PATIENCE_S = 10.0
"""How long replicas have to confirm."""

_MARGIN_S = 5.0
"""How much later than asked the reply to WAIT may come before it counts as lost."""


def await_replicas(link: Link, campaign: str, wanted: int) -> None:
    """Wait until `wanted` replicas have all that the campaign's server has acknowledged until now.

    Warns when they have not confirmed it after `PATIENCE_S`. Tries once: a server that is away is not waited
    for.
    """
    where = safe_url(link.access.url)
    try:
        confirmed = _confirmed(link, campaign, wanted)
    except REDIS_ERRORS as error:
        warn_user(f"no replica has confirmed campaign {campaign!r}: {where} says {reason(error)}")
        return
    if confirmed < wanted:
        warn_user(
            f"only {confirmed} of {wanted} replicas have confirmed campaign {campaign!r} within "
            f"{PATIENCE_S:g} s: a failover of {where} may undo its last moves; see INFO replication there"
        )


def _confirmed(link: Link, campaign: str, wanted: int) -> int:
    keys = Keys(campaign)
    client = link.dedicated(PATIENCE_S + _MARGIN_S)
    try:
        node = client
        if is_cluster(client):  # a campaign lies on one node
            node = client.get_redis_connection(client.get_node_from_key(keys.closing))
        # All on one connection, because WAIT covers its own only. The write leaves nothing behind.
        pipeline = node.pipeline(transaction=False)
        pipeline.hset(keys.closing, "at", 1)
        pipeline.delete(keys.closing)
        pipeline.wait(wanted, round(PATIENCE_S * 1000))
        return int(pipeline.execute()[-1])
    finally:
        client.close()
