"""What a driver is told when it is interrupted (Ctrl-C) in a call of ours."""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Callable
from types import TracebackType

from queue_eval.transport.access import Access
from queue_eval.transport.hints import spell_attach, spell_command


class TellInterrupted:
    """A block that may be interrupted. A KeyboardInterrupt leaves it with a sentence, without its frames.

    The traceback that the user sees then shows the user's own frames only: those of ours, of redis-py and of
    sockets tell nothing about an interruption. `sentence` is asked when it happens; None: say nothing.
    Assumes: no code of the user's runs in the block, whose frames would be lost.
    """

    def __init__(self, sentence: Callable[[], str | None]) -> None:
        self._sentence = sentence

    def __enter__(self) -> None:
        return

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, CancelledError):
            error.__traceback__ = None  # how asyncio passes an interruption on
        # Not a new error, nor one of another class: Python ends by the signal only for this one.
        if not isinstance(error, KeyboardInterrupt):
            return
        if not error.args and (sentence := self._sentence()) is not None:
            error.args = (sentence,)
        # A `with` block that lets an error through adds no frame of its own: the caller's is the last.
        error.__traceback__ = None
        error.__cause__ = error.__context__ = None


def describe_interruption(campaign: str, access: Access, *, is_named: bool) -> str:
    """That the jobs of a campaign go on, how to come back to them, and how to end them.

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
