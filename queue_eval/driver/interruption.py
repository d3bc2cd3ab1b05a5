"""What a user reads after interrupting (Ctrl-C) a call of ours."""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Callable
from types import TracebackType

from queue_eval.transport.access import Access
from queue_eval.transport.hints import spell_attach, spell_command


class TellInterrupted:
    """A `with` block that a KeyboardInterrupt leaves with a sentence, and without our frames.

    The traceback then shows the user's own frames only, since those of ours, of redis-py and of sockets tell
    nothing about an interruption. `sentence` is called when an interruption happens; None says nothing.
    Assumes: no code of the user's runs in the block, since its frames would be lost.
    """

    def __init__(self, sentence: Callable[[], str | None]) -> None:
        self._sentence = sentence

    def __enter__(self) -> None:
        return

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, CancelledError):
            error.__traceback__ = None  # This is how asyncio passes an interruption on.
        # Keep this very error: Python ends by the signal only for a KeyboardInterrupt that is not replaced.
        if not isinstance(error, KeyboardInterrupt):
            return
        if not error.args and (sentence := self._sentence()) is not None:
            error.args = (sentence,)
        # A `with` block that lets an error through adds no frame of its own: the caller's is the last.
        error.__traceback__ = None
        error.__cause__ = error.__context__ = None


def describe_interruption(campaign: str, access: Access, *, is_named: bool) -> str:
    """Says that the jobs of a campaign go on, how to come back to them, and how to end them.

    `is_named`: the user gave the campaign its name, so that the same script opens it again.
    """
    come_back = (
        "run the same script again to resume"
        if is_named
        else f"come back to its jobs with: {spell_attach(access, campaign)}"
    )
    return (
        f"interrupted; started workers go on: {come_back}, or end it all with: "
        f"{spell_command(access, 'cancel', campaign)}"
    )
