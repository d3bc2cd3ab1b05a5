"""`queue-eval wait`: until nothing of a campaign is outstanding, or until a job has failed.

::

    newest entry of the result stream ──▶ snapshot ──▶ enough? ──no──▶ block until a later entry ──┐
                  ▲                                                                                │
                  └────────────────────────────────────────────────────────────────────────────────┘

The newest entry is read before the snapshot: so a job that finishes after the snapshot ends the blocking.
"""

from __future__ import annotations

import math
import os
import subprocess
import time
from contextlib import closing
from dataclasses import dataclass

import click

from queue_eval.campaign.commands import CampaignCommands
from queue_eval.campaign.result_stream import ResultReader
from queue_eval.cli.connect import campaign_queue, start_command, why_stopped
from queue_eval.cli.ending import FINALS, shown_counts, why_not_all_succeeded
from queue_eval.cli.failures import FAILED, Interrupted, TimedOut, complain
from queue_eval.cli.options import POSITIVE_DURATION, json_option, server_options
from queue_eval.cli.output import print_json
from queue_eval.cli.progress import Progress, open_bar
from queue_eval.cli.terminal import say
from queue_eval.errors import GiveUp, QueueEvalError
from queue_eval.model.moves import Snapshot
from queue_eval.model.states import State
from queue_eval.transport.access import Access, safe_url
from queue_eval.transport.hints import spell_command
from queue_eval.views.attendance import why_undone
from queue_eval.views.formats import shown_duration

_LOOK_AT_LEAST_S = 3.0
"""It looks so often even if no job finishes: more jobs may have come, or the campaign may be gone."""

_LOOK_AT_MOST_S = 0.5
"""The shortest time between two looks."""

_UNDONE_S = 5.0
"""What keeps jobs waiting is told of at the first look, or when it has lasted this long."""

_AWAY_S = 1.0
"""A server that is away for so long is told of."""

_STDERR = 2


@click.command("wait")
@click.argument("campaign")
@click.option(
    "--until", type=click.Choice(["finished", "failed"]), default="finished", show_default=True,
    help="Until every job has finished, or one has failed.",
)
@click.option("--timeout", type=POSITIVE_DURATION, metavar="D", help="End with status 124 after so long.")
@click.option(
    "--then", "command", metavar="COMMAND",
    help="Run this by the shell when the wait is over; it finds counts in QUEUE_EVAL_… variables.",
)
@server_options
@json_option
@click.pass_context
def wait_command(
    context: click.Context, campaign: str, until: str, timeout: float | None, command: str | None,
    url: str | None, home: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Wait until nothing of a campaign is outstanding. Ends with status 1 if any job failed, as `run` does.

    The command of --then is run after every end but a timeout and Ctrl-C. Its exit status is that of
    `queue-eval wait` if no job failed or was cancelled.
    """
    deadline = math.inf if timeout is None else time.monotonic() + timeout
    wait = _Wait(deadline, ends_at_failure=until == "failed")
    try:
        with campaign_queue(campaign, url, home, looks=True, on_wait=wait.note_absence) as queue:
            access = queue.link.access
            try:
                wait.run(queue)
            except KeyboardInterrupt:
                end = spell_command(access, "cancel", campaign)
                raise Interrupted(
                    f"interrupted; the campaign goes on: the same command waits again, or end it with: {end}"
                ) from None
    except GiveUp:
        wait.is_timed_out = True
    _report(campaign, wait, as_json=as_json)
    if wait.is_timed_out:
        away = "the server is away" if wait.is_away else f"{_shown_outstanding(wait)} not finished"
        raise TimedOut(f"waited for {shown_duration(timeout)} in vain: {away}; wait again, or for longer")
    assert wait.snapshot is not None
    why = why_not_all_succeeded(campaign, wait.snapshot.counts, {}, wait.first_failed, access)
    if wait.first_failed is not None and wait.snapshot.outstanding:
        see = spell_command(access, "job", campaign, str(wait.first_failed))
        why = f"job {wait.first_failed} of campaign {campaign!r} failed; see why with: {see}"
    status = 0
    if command is not None:
        outcome = _Outcome(campaign, wait.snapshot, wait.first_failed, 0 if why is None else FAILED)
        status = _run_by_shell(command, outcome, as_json=as_json)
    if why is not None:
        raise QueueEvalError(why)
    if status:
        complain(f"the command of --then ended with status {status}")
        context.exit(status)


class _Wait:
    """One wait, and how far it has come.

    `deadline`: when it ends in vain (monotonic, s). `ends_at_failure`: whether the first failed job ends it.
    """

    def __init__(self, deadline: float, *, ends_at_failure: bool) -> None:
        self._deadline = deadline
        self._ends_at_failure = ends_at_failure
        self.snapshot: Snapshot | None = None
        """As of the last look; None before the first one."""
        self.first_failed: int | None = None
        """The lowest id of a failed job, once the wait is over."""
        self.is_timed_out = False
        self.is_away = False
        """Whether the user was told that the server is away, and not yet that it is back."""
        self._undone_since = -math.inf
        self._is_told_undone = False

    def run(self, queue: CampaignCommands) -> None:
        """Wait. Raises GiveUp at the deadline while the server is away, and CampaignNotFoundError."""
        reader = ResultReader(queue.link, queue.keys.results, "0-0")
        with closing(reader), closing(_LateBar()) as bar:
            while True:
                reader.cursor = queue.standing().tail
                self.snapshot = snapshot = queue.snapshot()
                looked_at = time.monotonic()
                self._note_presence()
                is_over = self._is_over(queue, snapshot)
                bar.show(snapshot, goes_on=not is_over)
                if is_over:
                    return
                if looked_at >= self._deadline:
                    self.is_timed_out = True
                    return
                self._tell_undone(queue)
                reader.read(min(self._deadline - time.monotonic(), _LOOK_AT_LEAST_S), 1)
                pause_s = min(looked_at + _LOOK_AT_MOST_S, self._deadline) - time.monotonic()
                time.sleep(max(0.0, pause_s))

    def note_absence(self, access: Access, away_s: float) -> None:
        """The server has been away for so long. Says so once, and raises GiveUp at the deadline."""
        if time.monotonic() >= self._deadline:
            raise GiveUp
        if away_s < _AWAY_S or self.is_away:
            return
        self.is_away = True
        if access.home is not None and (why := why_stopped(access.home)) is not None:
            start = start_command(access.home)
            complain(f"the server of {access.home} is not running ({why}); waiting for it; start: {start}")
        else:
            complain(f"the server at {safe_url(access.url)} is away; waiting for it")

    def _note_presence(self) -> None:
        if self.is_away:
            self.is_away = False
            complain("the server is back")

    def _is_over(self, queue: CampaignCommands, snapshot: Snapshot) -> bool:
        if snapshot.outstanding and not (self._ends_at_failure and snapshot.counts[State.FAILED]):
            return False
        if snapshot.counts[State.FAILED]:
            self.first_failed = min(queue.failed_ids(), default=None)
        # If the failed jobs have been retried since the snapshot, the next look sees them outstanding.
        return bool(snapshot.counts[State.FAILED]) == (self.first_failed is not None)

    def _tell_undone(self, queue: CampaignCommands) -> None:
        """Say once why nobody does the jobs, if so. A worker that is replaced by another is no reason."""
        if self._is_told_undone:
            return
        if (why := why_undone(queue)) is None:
            self._undone_since = math.inf
            return
        self._undone_since = min(self._undone_since, time.monotonic())
        if time.monotonic() - self._undone_since >= _UNDONE_S:
            self._is_told_undone = True
            complain(why)


class _LateBar:
    """The bar of a terminal, from the first look on after which the wait goes on."""

    def __init__(self) -> None:
        self._bar: Progress | None = None

    def show(self, snapshot: Snapshot, *, goes_on: bool) -> None:
        done = snapshot.last_id - snapshot.outstanding
        if self._bar is None and goes_on:
            self._bar = open_bar(snapshot.last_id, done)
        if self._bar is not None:
            self._bar.show(done, snapshot.counts[State.FAILED], total=snapshot.last_id)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


@dataclass(frozen=True)
class _Outcome:
    """What the command of `--then` is told."""

    campaign: str
    snapshot: Snapshot
    first_failed: int | None
    status: int

    def as_environment(self) -> dict[str, str]:
        told = {"CAMPAIGN": self.campaign, "STATUS": self.status, "FIRST_FAILED": self.first_failed or ""}
        told |= {state.upper(): self.snapshot.counts[state] for state in FINALS}
        return {f"QUEUE_EVAL_{name}": str(value) for name, value in told.items()}


def _run_by_shell(command: str, outcome: _Outcome, *, as_json: bool) -> int:
    """Run the user's command. Returns its exit status; 128 and the signal's number if a signal ended it."""
    done = subprocess.run(  # noqa: S602 - the user gives it for the shell
        command, shell=True, check=False,
        env=os.environ | outcome.as_environment(),
        stdout=_STDERR if as_json else None,  # standard output is for one document
    )  # fmt: skip
    return done.returncode if done.returncode >= 0 else 128 - done.returncode


def _report(campaign: str, wait: _Wait, *, as_json: bool) -> None:
    snapshot = wait.snapshot
    if snapshot is None:  # the server went away before the first look
        return
    if as_json:
        print_json(
            {
                "campaign": campaign, "jobs": snapshot.last_id,
                "counts": {state.value: snapshot.counts[state] for state in FINALS},
                "outstanding": snapshot.outstanding, "first_failed": wait.first_failed,
                "timed_out": wait.is_timed_out,
            }
        )  # fmt: skip
    elif not snapshot.last_id:
        say(f"campaign {campaign} has no jobs yet")
    else:
        rest = f"{snapshot.outstanding} not finished" if snapshot.outstanding else ""
        say(f"campaign {campaign}: {', '.join(filter(None, (shown_counts(snapshot.counts, {}), rest)))}")


def _shown_outstanding(wait: _Wait) -> str:
    if wait.snapshot is None:
        return "it is not known what is"
    count, total = wait.snapshot.outstanding, wait.snapshot.last_id
    return f"{count} of {total} jobs {'is' if count == 1 else 'are'}"
