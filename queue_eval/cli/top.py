"""`queue-eval top`: the live view in a terminal."""

from __future__ import annotations

import sys
from importlib.util import find_spec

import click

from queue_eval.campaign.commands import CampaignCommands
from queue_eval.cli.connect import check, connected, named_access
from queue_eval.cli.options import json_option, server_options
from queue_eval.cli.terminal import say
from queue_eval.transport.link import Link
from queue_eval.views.campaign_list import campaign_names


@click.command("top")
@click.argument("campaign", required=False)
@server_options
@json_option
@click.option("--key", metavar="NAME", help="The number in the results that decides what is best.")
@click.option("--minimize", is_flag=True, help="The lowest is best.")
def top_command(
    campaign: str | None, url: str | None, home: str | None, as_json: bool, key: str | None, minimize: bool
) -> None:
    """Watch a campaign live, or all of them: what runs, what failed, who works; and act on it.

    Off a terminal, and with --json, it shows once what `status` or `campaigns` show.
    """
    direction = "min" if minimize else "max"
    # Textual writes to standard error.
    is_terminal = all(s.isatty() for s in (sys.stdin, sys.stdout, sys.stderr)) and not as_json
    if is_terminal and find_spec("textual") is not None:
        _watch(campaign, url, home, key=key, direction=direction)
        return
    # Only here: the live view is to open at once.
    from queue_eval.cli.campaigns import show_campaigns
    from queue_eval.cli.status import show_status

    with connected(url, home, looks=True) as link:
        chosen = _chosen(link, campaign)
        if chosen is None:
            show_campaigns(link, as_json=as_json)
        else:
            queue = CampaignCommands.attach(link, chosen)[0]
            show_status(queue, key=key, direction=direction, as_json=as_json)
    if is_terminal:
        say("install queue-eval[top] for the live view")


def _watch(
    campaign: str | None, url: str | None, home: str | None, *, key: str | None, direction: str
) -> None:
    from queue_eval.top.app import show
    from queue_eval.top.server_thread import ServerThread

    server = ServerThread(named_access(url, home))
    try:
        check(server.link, looks=True)
        chosen = _chosen(server.link, campaign)
        if chosen is not None:
            CampaignCommands.attach(server.link, chosen)
    except BaseException:
        server.link.close()
        raise
    show(server, chosen, key=key, direction=direction)


def _chosen(link: Link, campaign: str | None) -> str | None:
    """The campaign that is named, or the only one."""
    if campaign is not None:
        return campaign
    names = campaign_names(link)
    return names[0] if len(names) == 1 else None
