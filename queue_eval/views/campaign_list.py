"""The campaigns of a server."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from queue_eval.campaign import keys
from queue_eval.campaign.commands import CampaignCommands
from queue_eval.errors import CampaignNotFoundError, DamagedError, ServerRefusedError, UsageError
from queue_eval.model.moves import Snapshot
from queue_eval.transport.link import Link


def every_campaign(
    link: Link, on_damage: Callable[[str, Exception], object]
) -> Iterator[tuple[str, dict[str, bytes], Snapshot, CampaignCommands]]:
    """Name, meta, counts and queue of each campaign, the oldest first.

    Leaves out damaged campaigns and those of another protocol version: they are reported to `on_damage`, with
    the error. Leaves out silently what was purged a moment ago or may not be read.
    """
    for name in campaign_names(link):
        try:
            queue, meta = CampaignCommands.attach(link, name)
            snapshot = queue.snapshot()
        except (CampaignNotFoundError, ServerRefusedError):
            continue  # it was purged a moment ago, or we may not read it
        except (DamagedError, UsageError) as error:
            on_damage(name, error)
            continue
        yield name, meta, snapshot, queue


def campaign_names(link: Link) -> list[str]:
    """What is on the server's register of campaigns, the oldest first."""
    names = link.call(lambda client: client.zrange(keys.CAMPAIGNS, 0, -1))
    return [name.decode(errors="replace") for name in names]
