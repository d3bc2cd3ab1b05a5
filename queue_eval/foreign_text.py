"""Makes text that others wrote safe for a terminal, a log or a message.

Names, reasons, errors and outputs come from the server, where other drivers, workers and user code have
written them. A terminal obeys the control sequences in them. So all text passes through here::

    command line   `cli.terminal`, the one module of it that writes
    logs           `plain`, which every module puts around its logger
    warnings       `user_warning.warn_user`
    errors         `errors.QueueEvalError`, when it is shown; a server's error that is its cause, as soon
                   as `clients` reads it
    callbacks      what they print of a job

It uses the standard library only, and imports nothing at first: every process that runs user code has it.
"""

from __future__ import annotations

TYPE_CHECKING = False  # see `queue_eval`

if TYPE_CHECKING:
    from logging import Logger, LogRecord


def printable(text: str) -> str:
    """`text` with those characters escaped that move a cursor, change a terminal, or hide or reorder others.

    They are written as Python's `repr` writes them. Ends of lines and tabs stay.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)


def one_line(text: str) -> str:
    """`text` as one printable line, with single blanks between its words."""
    return printable(" ".join(text.split()))


def last_line(text: str) -> str:
    """The last line of a text: of a traceback the exception. Empty for an empty text."""
    return (text.strip().splitlines() or [""])[-1]


def plain(log: Logger) -> Logger:
    """Return `log`. All its records are printable from now on, in every handler."""
    log.addFilter(_make_plain)
    return log


def _make_plain(record: LogRecord) -> bool:
    message = record.getMessage()
    if not message.isprintable():
        record.msg, record.args = _indented(message), None
    if record.exc_info and not record.exc_text:
        from traceback import format_exception

        # A formatter uses this text, if it is set, instead of making its own.
        record.exc_text = _indented("\n" + "".join(format_exception(*record.exc_info)).rstrip("\n"))[1:]
    return True


def _indented(text: str) -> str:
    """Printable text whose further lines are indented, so that none of them looks like a line of the log."""
    return printable(text).replace("\n", "\n    ")
