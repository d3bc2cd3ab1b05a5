"""How a command ends: its exit status, and one line on standard error.

==================================================  ======
what ended it                                       status
==================================================  ======
nothing, `--help`, `--version`                      0
any other error                                     1
wrong usage, a server that cannot be used           2
Ctrl-C                                              130
==================================================  ======
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable

import click

from queue_eval.errors import QueueEvalError, ServerError, UsageError

FAILED, WRONG_USAGE, INTERRUPTED = 1, 2, 130


class Interrupted(Exception):  # noqa: N818 - a signal, not an error
    """The user pressed Ctrl-C; the message says what that means for what was going on."""


class Invocation:
    """One call of the program. Users' terminals get no log records; `--debug` shows them, and tracebacks."""

    def __init__(self) -> None:
        self.debug = False
        # Without any handler, Python would write warnings to standard error by itself.
        logging.getLogger("queue_eval").addHandler(logging.NullHandler())
        warnings.showwarning = _show_warning

    def set_debug(self) -> None:
        self.debug = True
        logging.basicConfig(level=logging.DEBUG, format="%(asctime)s %(levelname)-7s %(name)s: %(message)s")


def guarded(run: Callable[[], None], invocation: Invocation) -> int:
    """The exit status of `run`, after saying in one line what was wrong, if anything."""
    try:
        run()
        # Here and not at the interpreter's end, which would complain of a reader that has gone.
        sys.stdout.flush()
    except click.exceptions.Exit as leave:
        return leave.exit_code
    except (KeyboardInterrupt, click.Abort, Interrupted) as error:
        _explain(str(error) or "interrupted", invocation)
        return INTERRUPTED
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        command = error.ctx.command_path if error.ctx else "queue-eval"
        complain(f"no command was given; see: {command} --help")
        return WRONG_USAGE
    except click.UsageError as error:
        _explain(_usage(error), invocation)
        return WRONG_USAGE
    except click.ClickException as error:
        _explain(error.format_message(), invocation)
        return FAILED
    except QueueEvalError as error:
        _explain(str(error) or type(error).__name__, invocation)
        return WRONG_USAGE if isinstance(error, (UsageError, ServerError)) else FAILED
    except BrokenPipeError:
        # Whoever read this has enough. What is still buffered must not be tried again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return FAILED
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        reason = error.strerror or str(error) or type(error).__name__
        _explain(f"{place}{reason}; check the path, its permissions and the free space", invocation)
        return FAILED
    except Exception as error:
        hint = "" if invocation.debug else "; add --debug for the traceback"
        _explain(f"unexpected {type(error).__name__}: {error}{hint}", invocation)
        return FAILED
    return 0


def complain(message: str) -> None:
    """Write one line to standard error, whatever the message holds."""
    click.echo(f"queue-eval: {' '.join(message.split())}", err=True)


def _explain(message: str, invocation: Invocation) -> None:
    if invocation.debug:
        traceback.print_exc()
    complain(message)


def _usage(error: click.UsageError) -> str:
    message = error.format_message().strip().rstrip(".")
    command = error.ctx.command_path if error.ctx else "queue-eval"
    if message:
        message = message[0].lower() + message[1:]
    return f"{message}; see: {command} --help"


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    complain(f"warning: {message}")
