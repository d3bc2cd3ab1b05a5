"""Spells the commands that messages ask the user to type, each with the server that it is for."""

from __future__ import annotations

import os
from pathlib import Path
from shlex import quote

from queue_eval.transport.access import Access, home_folder

_URL = "URL"
"""Stands in place of a URL, which may hold a password. The user knows it."""


def spell_command(access: Access | None, *words: str) -> str:
    """``queue-eval`` with these words, and the option that leads to the server of `access`.

    The option is left out where the command finds the server without it: in the default home, or by
    $QUEUE_EVAL_HOME or $QUEUE_EVAL_URL. A URL may hold a password, so it is not shown.
    """
    return " ".join(["queue-eval", *words, *_server_option(access)])


def spell_worker(access: Access, campaign: str, *words: str) -> str:
    """The command that starts a worker for a campaign of the server of `access`."""
    return f"{spell_command(access, 'worker', *words)} --campaign {campaign}"


def spell_attach(access: Access, campaign: str) -> str:
    """The call in Python that attaches to a campaign of the server of `access`."""
    arguments = [repr(campaign)]
    if (way := _way_to(access)) is not None:
        option, path = way
        arguments.append(f"{option}={_URL if path is None else repr(str(path))}")
    return f"Evaluator.attach({', '.join(arguments)})"


def _server_option(access: Access | None) -> list[str]:
    if access is None or (way := _way_to(access)) is None:
        return []
    option, path = way
    return [f"--{option}", _URL if path is None else quote(str(path))]


def _way_to(access: Access) -> tuple[str, Path | None] | None:
    """The option that leads to a server, and its path (None for a URL). None where no option is needed."""
    if access.home is not None:
        return None if access.home == home_folder() else ("home", access.home)
    if access.file is not None:
        return "access", access.file
    return None if access.url == os.environ.get("QUEUE_EVAL_URL") else ("url", None)
