"""Connects commands to a server, which must exist already and must answer soon."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from shlex import quote

from queue_eval.campaign.commands import CampaignCommands
from queue_eval.cli.failures import complain
from queue_eval.errors import ServerUnreachableError
from queue_eval.transport.access import Access, find_access, home_folder, safe_url
from queue_eval.transport.link import Link

PATIENCE_S = 5.0
"""How long a command waits for a server that goes away while the command runs."""


@contextmanager
def connected(
    url: str | None, home: str | None, *, looks: bool = False,
    on_wait: Callable[[Access, float], None] | None = None,
) -> Iterator[Link]:  # fmt: skip
    """A checked link to the server that the options or the environment name.

    Starts no server, with one exception: for a command that only looks (`looks`), it wakes an embedded server
    that its watcher had stopped because nobody needed it. `on_wait` is called again and again while a server
    is away that has answered, with its access and the seconds; without it, the command gives up after
    PATIENCE_S.

    Raises ServerUnreachableError, ServerRefusedError, and UsageError for an access file that cannot be used.
    """
    access = named_access(url, home)

    def wait(away_s: float) -> None:
        if on_wait is not None:
            on_wait(access, away_s)
        elif away_s > PATIENCE_S:
            raise ServerUnreachableError(
                f"the server at {safe_url(access.url)} went away; run the command again when it is back"
            )

    link = Link(access, name="queue-eval", on_wait=wait)
    try:
        check(link, looks=looks)
        yield link
    finally:
        link.close()


@contextmanager
def campaign_queue(
    campaign: str, url: str | None, home: str | None, *, looks: bool = False,
    on_wait: Callable[[Access, float], None] | None = None,
) -> Iterator[CampaignCommands]:  # fmt: skip
    """An existing campaign. Raises CampaignNotFoundError, and what `connected` raises."""
    with connected(url, home, looks=looks, on_wait=on_wait) as link:
        yield CampaignCommands.attach(link, campaign)[0]


@contextmanager
def waiting_campaign_queue(
    campaign: str, url: str | None, home: str | None, *, looks: bool = False
) -> Iterator[CampaignCommands]:
    """As `campaign_queue`, for a command that goes on: it waits for a server that goes away, and says so."""
    told_at = math.inf

    def wait(access: Access, away_s: float) -> None:
        nonlocal told_at
        is_told = away_s >= told_at  # of this very absence
        if not is_told and away_s > PATIENCE_S:
            told_at = away_s
            complain(f"the server at {safe_url(access.url)} is away; waiting for it")
        elif not is_told:
            told_at = math.inf

    with connected(url, home, looks=looks, on_wait=wait) as link:
        yield CampaignCommands.attach(link, campaign)[0]


def named_access(url: str | None, home: str | None) -> Access:
    """How to reach the server that the options or the environment name.

    Raises ServerUnreachableError when no server is named.
    """
    access = find_access(url, home)
    if access is None:
        raise ServerUnreachableError(
            f"no server is known: there is no access file in {home_folder(home)}; start a server with: "
            f"{start_command(home)}; or name one by --access, --url or --home"
        )
    return access


def check(link: Link, *, looks: bool = False) -> None:
    """As `Link.check`; but if the server of a home does not run, the error says so, or a look wakes it."""
    from queue_eval.server.lifecycle import wake_server

    try:
        link.check()
    except ServerUnreachableError as error:
        home = link.access.home
        if home is None:
            raise
        if looks and wake_server(home):
            link.check()
        elif why := why_stopped(home):
            raise ServerUnreachableError(
                f"the server of {home} is not running ({why}); start it with: {start_command(home)}"
            ) from error
        else:
            raise


def start_command(home: str | Path | None) -> str:
    """What a user types to start the server of `home`."""
    return "queue-eval server start" + (f" --home {quote(str(home))}" if home else "")


def why_stopped(home: Path) -> str | None:
    """Why the server does not run, and on which other machine it last ran; None if it may run."""
    from queue_eval.server.home import ServerHome
    from queue_eval.server.lifecycle import server_state

    state = server_state(home)
    if state.state not in ("stopped", "crashed"):
        return None
    why = "stopped for want of work" if state.unneeded else state.state
    record = ServerHome(home).read()
    is_from_here = record is None or ServerHome(home).is_from_here(record)
    return why if is_from_here else f"{why}; it last ran on {state.node}"
