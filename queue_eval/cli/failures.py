"""How a command ends: its exit status, and one line on standard error.

==================================================  ======
end                                                 status
==================================================  ======
nothing, `--help`, `--version`                      0
any other error                                     1
wrong usage, a server that cannot be used           2
a wait that has lasted as long as it may            124
Ctrl-C                                              130
==================================================  ======
"""

from __future__ import annotations

import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import PurePath
from shlex import quote

import click
from click import format_filename

from queue_eval.cli.terminal import PlainFormatter, log_to_terminal, say, say_help
from queue_eval.errors import QueueEvalError, ServerError, UsageError
from queue_eval.foreign_text import printable
from queue_eval.transport.urls import safe_url

FAILED, WRONG_USAGE, TIMED_OUT, INTERRUPTED = 1, 2, 124, 130


class Interrupted(Exception):  # noqa: N818 - a signal, not an error
    """The user pressed Ctrl-C; the message says what that means for what was going on."""


class TimedOut(Exception):  # noqa: N818 - no error: the user has set this time
    """A wait has lasted as long as the user lets it; the message says what is still awaited."""


class Invocation:
    """One call of the program. Only `--debug` shows log records and tracebacks on the user's terminal.

    `arguments`: the words of the command line. A word that looks like a URL is hidden in messages: it was
    put in the wrong place if a message repeats it, and it may hold a password.
    """

    def __init__(self, arguments: Sequence[str] = ()) -> None:
        self.debug = False
        self.complain: Callable[[str], None] = complain
        """Writes the line about what was wrong."""
        self._hidden_words = sorted(set(_urls_among(arguments)), key=len, reverse=True)
        # Without any handler, Python itself would write log records from WARNING on to standard error.
        logging.getLogger("queue_eval").addHandler(logging.NullHandler())
        warnings.showwarning = _show_warning

    def set_debug(self) -> None:
        self.debug = True
        form = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
        log_to_terminal(logging.DEBUG, PlainFormatter(form))

    def without_urls(self, text: str) -> str:
        """`text`, in which the words of the command line that look like a URL are replaced by stars."""
        for word in self._hidden_words:
            text = text.replace(word, "***")
        return text


def guarded(run: Callable[[], None], invocation: Invocation) -> int:
    """Call `run`. Returns the exit status, and writes one line about what was wrong, if anything was."""
    try:
        run()
        # Flush here: at its end, the interpreter would write an error of its own if the reader has gone.
        sys.stdout.flush()
    except click.exceptions.Exit as leave:
        return leave.exit_code
    except (KeyboardInterrupt, click.Abort, Interrupted) as error:
        _explain(str(error) or "interrupted", invocation)
        return INTERRUPTED
    except TimedOut as end:
        _explain(str(end), invocation)
        return TIMED_OUT
    except click.exceptions.NoArgsIsHelpError as error:
        say_help(error.format_message())
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
        # The reader has closed the pipe. Python must not try again at exit to write what is still buffered.
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
    say(f"queue-eval: {' '.join(message.split())}", err=True)


def _explain(message: str, invocation: Invocation) -> None:
    if invocation.debug:
        write_traceback(invocation)
    invocation.complain(invocation.without_urls(message))


def write_traceback(invocation: Invocation) -> None:
    """Write the traceback of the error that is being handled to standard error."""
    for line in invocation.without_urls(traceback.format_exc()).rstrip("\n").split("\n"):
        say(line, err=True)


def _urls_among(arguments: Sequence[str]) -> Iterator[str]:
    """The arguments that look like a URL, in each form in which a message may spell them."""
    for argument in arguments:
        for word in (argument, argument.partition("=")[2] if argument.startswith("-") else ""):
            if "://" not in word and ":" not in word.rpartition("@")[0]:
                continue
            if safe_url(word) == word:
                continue  # it holds no password
            path = PurePath(word)
            # If the command takes a path or MODULE:FUNCTION here, a message may hold a part of the word.
            cuts = [i for i, letter in enumerate(word) if letter == ":"]
            parts = [part for i in cuts for part in (word[:i], word[i + 1 :]) if "@" in part or "//" in part]
            for text in (word, *map(str, (path, *path.parents)), *parts):
                if re.fullmatch(r"[a-z+]*:?/*|[./0-9]*", text):
                    continue
                for form in (text, repr(text)[1:-1], quote(text), format_filename(text)):
                    yield from (form, printable(form))


def _usage(error: click.UsageError) -> str:
    message = error.format_message().strip().rstrip(".")
    command = error.ctx.command_path if error.ctx else "queue-eval"
    if message:
        message = message[0].lower() + message[1:]
    return f"{message}; see: {command} --help"


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    complain(f"warning: {message}")
