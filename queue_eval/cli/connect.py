"""The way of the commands to a server: it must be there already, and must answer soon."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shlex import quote

from queue_eval.access import Access, find_access, home_folder, safe_url
from queue_eval.connection import Link
from queue_eval.errors import ServerUnreachableError
from queue_eval.queue import CampaignQueue

PATIENCE_S = 5.0
"""A server that goes away during a command is waited for this long."""


@contextmanager
def connected(url: str | None, home: str | None) -> Iterator[Link]:
    """A checked link to the server that is named; no server is ever started.

    Raises ServerUnreachableError, ServerRefusedError, and UsageError for an access file out of order.
    """
    access = named_access(url, home)

    def give_up(away_s: float) -> None:
        if away_s > PATIENCE_S:
            raise ServerUnreachableError(
                f"the server at {safe_url(access.url)} went away; run the command again when it is back"
            )

    link = Link(access, name="queue-eval", on_wait=give_up)
    try:
        check(link)
        yield link
    finally:
        link.close()


@contextmanager
def campaign_queue(campaign: str, url: str | None, home: str | None) -> Iterator[CampaignQueue]:
    """An existing campaign. Raises CampaignNotFoundError, and what `connected` raises."""
    with connected(url, home) as link:
        yield CampaignQueue.attach(link, campaign)[0]


def named_access(url: str | None, home: str | None) -> Access:
    """The server that is named. Raises ServerUnreachableError when none is."""
    access = find_access(url, home)
    if access is None:
        raise ServerUnreachableError(
            f"no server is known: there is no access file in {home_folder(home)}; start a server with: "
            f"{start_command(home)}; or name one by --access, --url or --home"
        )
    return access


def check(link: Link) -> None:
    """As `Link.check`, but says so when the server of a home is known not to run."""
    try:
        link.check()
    except ServerUnreachableError as error:
        home = link.access.home
        if home is not None and (state := _stopped_state(home)):
            raise ServerUnreachableError(
                f"the server of {home} is not running ({state}); start it with: {start_command(home)}"
            ) from error
        raise


def start_command(home: str | Path | None) -> str:
    """What a user types to start the server of `home`."""
    return "queue-eval server start" + (f" --home {quote(str(home))}" if home else "")


def _stopped_state(home: Path) -> str | None:
    from queue_eval.server import server_state

    state = server_state(home).state
    return state if state in ("stopped", "crashed") else None
