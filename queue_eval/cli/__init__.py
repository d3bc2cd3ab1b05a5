"""The command line, `queue-eval`: everything that a user does by hand.

It may import every wing. Each command is a function in a module of this wing; begin to read with `run`. The
group here knows each command's name, place and one line of help, and imports the module when the command is
called: neither the help nor the start of a worker loads anything else. Every command ends here, with an exit
status and at most one line on standard error.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple, NoReturn, TextIO

import click

from queue_eval import __version__
from queue_eval.cli.failures import Invocation, guarded
from queue_eval.startup import quietly_interrupted

PROGRAM = "queue-eval"
_COMPLETION = "_QUEUE_EVAL_COMPLETE"


class Entry(NamedTuple):
    """Where a command is, and its line in the help."""

    place: str
    """``module:attribute`` within this package."""
    help: str


SECTIONS: dict[str, dict[str, Entry]] = {
    "Evaluate": {
        "run": Entry("run:run_command", "Evaluate every config of a file; again resumes."),
        "worker": Entry("worker:worker_command", "Run a worker that evaluates jobs."),
        "workers": Entry("workers:workers_group", "List live workers, or drain them."),
        "server": Entry("server:server_group", "The bundled Valkey server, in the background."),
    },
    "Look": {
        "campaigns": Entry("campaigns:campaigns_command", "List campaigns, one line each."),
        "status": Entry("status:status_command", "How far a campaign is: counts, best, failures, workers."),
        "top": Entry("top:top_command", "Watch a campaign live, and act on it."),
        "jobs": Entry("job_table:jobs_command", "List a campaign's jobs."),
        "job": Entry("jobs:job_command", "Show one job whole."),
        "explain": Entry("explain:explain_command", "Say why jobs wait, or ended as they did."),
        "wait": Entry("wait:wait_command", "Wait until a campaign has finished, or a job fails."),
        "logs": Entry("logs:logs_command", "Show what jobs print, also while they run."),
        "web": Entry("web:web_command", "Show campaigns in a browser, live."),
        "export": Entry("export:export_command", "Write finished jobs to .csv, .parquet or .jsonl."),
        "page": Entry("page:page_command", "Write a campaign as one file for a browser."),
        "doctor": Entry("doctor:doctor_command", "Check what can hurt."),
        "chaos": Entry("chaos:chaos_command", "Attack a campaign of its own; check what must hold."),
    },
    "Change": {
        "cancel": Entry("control:cancel_command", "Cancel jobs that are not finished."),
        "stop": Entry("control:stop_command", "Ask running jobs to stop early, and succeed."),
        "retry": Entry("control:retry_command", "Run failed or cancelled jobs again."),
        "pause": Entry("control:pause_command", "Start no more of a campaign's jobs."),
        "resume": Entry("control:resume_command", "Go on with a paused campaign."),
        "purge": Entry("control:purge_command", "Delete a campaign with all its results."),
    },
}
_ENTRIES = {name: entry for section in SECTIONS.values() for name, entry in section.items()}


class LazyGroup(click.Group):
    """The commands of SECTIONS, each imported when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(_ENTRIES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        entry = _ENTRIES.get(cmd_name)
        if entry is None:
            return None
        module, _, attribute = entry.place.partition(":")
        with quietly_interrupted():
            command: click.Command = getattr(import_module(f"{__name__}.{module}"), attribute)
        _take_debug(command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        # click's own method would import every command to get its line.
        width = max(map(len, _ENTRIES))
        for title, entries in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), entry.help) for name, entry in entries.items()])


def _set_debug(ctx: click.Context, _: click.Parameter, given: bool) -> None:
    if given:
        ctx.ensure_object(Invocation).set_debug()


def _debug_option(*, hidden: bool) -> click.Option:
    return click.Option(
        ["--debug"], is_flag=True, is_eager=True, expose_value=False, callback=_set_debug, hidden=hidden,
        help="Show tracebacks and log what happens.",
    )  # fmt: skip


def _take_debug(command: click.Command) -> None:
    """Accept `--debug` after the command, too: there users add it to a line that has just failed."""
    if not any("--debug" in parameter.opts for parameter in command.params):
        command.params.append(_debug_option(hidden=True))
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            _take_debug(inner)


root = LazyGroup(
    PROGRAM,
    params=[_debug_option(hidden=False)],
    help="Long searches that survive anything: run, watch and mend them.",
    epilog="Exit status: 0 done, 1 failed, 2 wrong usage or unreachable server.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
click.version_option(__version__, prog_name=PROGRAM)(root)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit."""
    for stream in (sys.stdout, sys.stderr):
        _never_fail_to_encode(stream)
    if instruction := os.environ.get(_COMPLETION):
        from click.shell_completion import shell_complete

        sys.exit(shell_complete(root, {}, PROGRAM, _COMPLETION, instruction))
    given = list(sys.argv[1:] if arguments is None else arguments)
    invocation = Invocation(given)

    def run() -> None:
        with root.make_context(PROGRAM, given, obj=invocation) as context:
            root.invoke(context)

    sys.exit(guarded(run, invocation))


def _never_fail_to_encode(stream: TextIO) -> None:
    """Escape characters that the stream cannot encode: users' names and results may hold any character."""
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")
