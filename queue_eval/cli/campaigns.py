"""`queue-eval campaigns`: list campaigns."""

from __future__ import annotations

import click

from queue_eval.campaign.expiry import closed_ms_of
from queue_eval.campaign.meta import created_ms_of, label_of, text_of
from queue_eval.cli.connect import connected
from queue_eval.cli.failures import complain
from queue_eval.cli.options import DURATION, json_option, server_options
from queue_eval.cli.output import print_json, print_table
from queue_eval.errors import UsageError
from queue_eval.model.states import State
from queue_eval.transport.link import Link
from queue_eval.views.campaign_list import every_campaign
from queue_eval.views.formats import shown_time
from queue_eval.views.standing import described, expires_ms

_MAX_SHOWN_GIVEN_BACK = 5
_MAX_SHOWN_UNFIT = 5


@click.command("campaigns")
@server_options
@json_option
@click.option("--prune", is_flag=True, help="Delete those that have expired, instead of listing all.")
@click.option(
    "--older-than", type=DURATION, metavar="DURATION",
    help="With --prune: those whose driver closed them at least so long ago, like 3d [default: 14d].",
)
@click.option("--dry-run", is_flag=True, help="With --prune: only say which would go.")
def campaigns_command(
    url: str | None, home: str | None, as_json: bool, prune: bool, older_than: float | None, dry_run: bool
) -> None:  # fmt: skip
    """List campaigns, the oldest first, or delete those that have expired.

    A campaign expires if it was given no name, its driver has gathered every result and has closed it, and
    nobody has opened it since.
    """
    if prune:
        from queue_eval.cli.pruning import prune_campaigns

        prune_campaigns(url, home, older_than, is_dry=dry_run, as_json=as_json)
        return
    if older_than is not None or dry_run:
        raise UsageError("--older-than and --dry-run go with --prune; add it, or leave them out")
    with connected(url, home, looks=True) as link:
        show_campaigns(link, as_json=as_json)


def show_campaigns(link: Link, *, as_json: bool) -> None:
    """Print all campaigns of the server."""
    found = list(every_campaign(link, _complain_of))
    if as_json:
        print_json([described(name, meta, snapshot) for name, meta, snapshot, _ in found])
        return
    expiring = any(closed_ms_of(meta) is not None for _, meta, _, _ in found)
    print_table(
        ("campaign", "function", "method", *State, "created", "queue", *(["expires"] if expiring else [])),
        [
            (
                name, text_of(meta, "function"), text_of(meta, "method"),
                *(snapshot.counts[state] for state in State),
                shown_time(created_ms_of(meta)) + (" (paused)" if snapshot.paused else ""), label_of(meta),
                *([_shown_expiry(meta)] if expiring else []),
            )
            for name, meta, snapshot, _ in found
        ],
        right=range(3, 3 + len(State)),
    )  # fmt: skip


def _complain_of(name: str, error: Exception) -> None:
    complain(f"warning: campaign {name!r} is left out: {error}")


def _shown_expiry(meta: dict[str, bytes]) -> str:
    at = expires_ms(meta)
    return "-" if at is None else shown_time(at)
