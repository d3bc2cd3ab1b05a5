"""Text that others wrote, on its way to a terminal, a log or a message.

Names, reasons, errors and outputs come from the server, where other drivers, workers and user code have
written them. A terminal obeys what they hold of control sequences. So all text leaves through here::

    command line   `cli.terminal`, the one module of it that writes
    logs           `plain`, which every module puts around its logger
    warnings       `user_warning.warn_user`
    errors         `errors.QueueEvalError`, when it is shown; those of the server that are its cause, as
                   soon as `clients` reads them
    callbacks      what they print of a job

Standard library only, and nothing at its import: every process that runs user code has it.
"""

from __future__ import annotations

TYPE_CHECKING = False  # see `queue_eval`

if TYPE_CHECKING:
    from logging import Logger, LogRecord


def printable(text: str) -> str:
    """`text` without characters that move a cursor, change the state of a terminal, or hide or reorder
    others: they are shown as Python writes them. Ends of lines and tabs stay."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)


def one_line(text: str) -> str:
    """`text` as one printable line, with single blanks between its words."""
    return printable(" ".join(text.split()))


def plain(log: Logger) -> Logger:
    """`log`, whose records are printable from now on, whoever handles them."""
    log.addFilter(_make_plain)
    return log


def _make_plain(record: LogRecord) -> bool:
    message = record.getMessage()
    if not message.isprintable():
        record.msg, record.args = _indented(message), None
    if record.exc_info and not record.exc_text:
        from traceback import format_exception

        # Formatters take this text instead of making their own.
        record.exc_text = _indented("\n" + "".join(format_exception(*record.exc_info)).rstrip("\n"))[1:]
    return True


def _indented(text: str) -> str:
    """Printable, and no line of it but the first begins as a line of the log does."""
    return printable(text).replace("\n", "\n    ")
