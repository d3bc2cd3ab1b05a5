"""Commands that messages tell the user to type; each names the server that it is for."""

from __future__ import annotations

import os
from shlex import quote

from queue_eval.access import Access, home_folder


def spell_command(access: Access | None, *words: str) -> str:
    """``queue-eval`` with these words, and the option that leads to the server of `access`.

    The option is left out where the command finds the server without: in the default home, or in what
    $QUEUE_EVAL_HOME or $QUEUE_EVAL_URL names. A URL may hold a password, so it is not shown.
    """
    return " ".join(["queue-eval", *words, *_server_option(access)])


def spell_worker(access: Access, campaign: str, *words: str) -> str:
    """The command that starts a worker for a campaign of the server of `access`."""
    return f"{spell_command(access, 'worker', *words)} --campaign {campaign}"


def spell_attach(access: Access, campaign: str) -> str:
    """The call in Python that comes back to a campaign of the server of `access`."""
    arguments = [repr(campaign)]
    if access.home is not None:
        arguments += [f"home={str(access.home)!r}"] if access.home != home_folder() else []
    elif access.file is not None:
        arguments.append(f"access={str(access.file)!r}")
    elif not _is_of_environment(access):
        arguments.append("url=URL")
    return f"Evaluator.attach({', '.join(arguments)})"


def _server_option(access: Access | None) -> list[str]:
    if access is None:
        return []
    if access.home is not None:
        return ["--home", quote(str(access.home))] if access.home != home_folder() else []
    if access.file is not None:
        return ["--access", quote(str(access.file))]
    return [] if _is_of_environment(access) else ["--url", "URL"]


def _is_of_environment(access: Access) -> bool:
    return access.url == os.environ.get("QUEUE_EVAL_URL")
