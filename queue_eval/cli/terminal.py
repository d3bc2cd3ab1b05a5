"""Writes all output of the command line: no other module writes to a terminal.

Messages hold text from the server, from files and from the command line itself. This text is made printable
here, so that no control sequence but those of our own colours reaches a terminal.
"""

from __future__ import annotations

import logging
import os
import select
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import click

from queue_eval.foreign_text import one_line, printable

if TYPE_CHECKING:
    from rich.text import Text


class Coloured(NamedTuple):
    """Text in a colour."""

    text: str
    colour: str


def say(*parts: str | Coloured, err: bool = False) -> None:
    """Write one line, to standard output or with `err` to standard error. Colours are for terminals."""
    stream = sys.stderr if err else sys.stdout
    wants_colours = stream.isatty() and not os.environ.get("NO_COLOR")
    click.echo("".join(_shown(part, wants_colours=wants_colours) for part in parts), err=err)


def redrawn(lines: Callable[[], Sequence[Sequence[str | Coloured]]], every_s: float) -> None:
    """Show lines on the terminal and replace them by newer ones, until Ctrl-C. What does not fit is cut off.

    Where standard output is no terminal, they are written once.
    """
    if not sys.stdout.isatty():
        for line in lines():
            say(*line)
        return
    from rich.console import Console
    from rich.live import Live

    console = Console(highlight=False)
    with suppress(KeyboardInterrupt), Live(console=console, auto_refresh=False, screen=True) as live:
        while True:
            live.update(_drawing(lines(), console.height), refresh=True)
            time.sleep(every_s)


def _drawing(lines: Sequence[Sequence[str | Coloured]], height: int) -> Text:
    from rich.text import Text

    drawing = Text(no_wrap=True, overflow="ellipsis", end="")
    for number, line in enumerate(lines[:height]):
        if number:
            drawing.append("\n")
        for part in line:
            colour = part.colour if isinstance(part, Coloured) else None
            drawing.append(_shown(part, wants_colours=False), style=colour)
    return drawing


def say_in_place(line: str) -> None:
    """Write over the line of a terminal on which the cursor is."""
    click.echo(f"\r{_shown(line, wants_colours=False)}\x1b[K", err=True, nl=False)


def say_json(text: str, *, ends_line: bool = True) -> None:
    """Write JSON of ASCII characters, which may have several lines."""
    # DEL is the one control character that JSON allows in a string without an escape.
    click.echo(text.replace("\x7f", "\\u007f"), nl=ends_line)


def say_help(text: str) -> None:
    """Write a page of help. It is our own text, and is written as it is."""
    click.echo(text)


def ask(question: str) -> bool:
    """Whether the user answers yes."""
    return click.confirm(one_line(question), err=True)


def log_to_terminal(level: int, formatter: logging.Formatter, *, replaces: bool = False) -> None:
    """Write all log records to standard error, those of other packages too.

    If that was asked for before, it goes on as it was; with `replaces` it goes on by this formatter.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    logging.basicConfig(level=level, handlers=[handler])
    for earlier in logging.root.handlers:
        if replaces and isinstance(earlier.formatter, PlainFormatter):
            earlier.setFormatter(formatter)


def may_write_log() -> bool:
    """Whether a line can be written to standard error without waiting for who reads it."""
    try:
        descriptor = sys.stderr.fileno()
    except (OSError, ValueError):  # it is no file
        return True
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(0))


class PlainFormatter(logging.Formatter):
    """Writes records as printable text."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


class BriefFormatter(PlainFormatter):
    """The same for people who look on: the time of day, and the level from warnings on."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(message)s", "%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        level = "" if record.levelno < logging.WARNING else f"{record.levelname} "
        return f"{record.asctime} {level}{record.message}"


def _shown(part: str | Coloured, *, wants_colours: bool) -> str:
    text = printable(part if isinstance(part, str) else part.text).replace("\n", "\\n")
    if isinstance(part, str) or not wants_colours:
        return text
    return click.style(text, fg=part.colour)
