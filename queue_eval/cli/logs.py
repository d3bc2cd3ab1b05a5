"""`queue-eval logs`: what jobs print, also while they run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import click

from queue_eval.campaign.commands import CampaignCommands
from queue_eval.cli.connect import campaign_queue, waiting_campaign_queue
from queue_eval.cli.failures import complain
from queue_eval.cli.options import JOB_ID, json_option, server_options
from queue_eval.cli.output import print_json
from queue_eval.cli.terminal import say
from queue_eval.driver.actions import check_ids
from queue_eval.errors import UsageError
from queue_eval.views.output import CampaignFollower, JobFollower, Piece, newest_lines
from queue_eval.views.output_lines import LineReader

_EVERY_S = 1.0
"""How long `--follow` waits between two looks."""


@click.command("logs")
@click.argument("campaign")
@click.argument("ids", type=JOB_ID, nargs=-1, metavar="[ID]...")
@click.option("--follow", "-f", is_flag=True, help="Go on until these jobs, or all, have ended.")
@click.option("--attempt", type=click.IntRange(min=1), metavar="N", help="Only this attempt of the job.")
@click.option(
    "--lines", type=click.IntRange(min=0), metavar="N", help="Begin with the last N lines of each job."
)
@server_options
@json_option
def logs_command(
    campaign: str, ids: tuple[int, ...], follow: bool, attempt: int | None, lines: int | None,
    url: str | None, home: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Show what jobs print, also while they run: these, or all that run now."""
    ids = tuple(dict.fromkeys(ids))
    if follow and as_json:
        raise UsageError("--json prints one document, and --follow goes on; leave out one of them")
    if attempt is not None and len(ids) != 1:
        raise UsageError("--attempt is of one job; name that job by its id")
    connect = waiting_campaign_queue if follow else campaign_queue
    with connect(campaign, url, home, looks=True) as queue:
        check_ids(queue, ids)
        look, is_over = _follow(queue, ids, attempt)
        pieces = look()
        if lines is not None:
            pieces = newest_lines(pieces, lines) if lines else []
        if as_json:
            print_json({"campaign": campaign, "output": [_as_json(piece) for piece in pieces]})
            return
        printer = _Printer(ids, queue.snapshot().last_id, follow=follow)
        printer.show(pieces)
        while follow and not is_over():
            time.sleep(_EVERY_S)
            printer.show(look())
        printer.end()
    if not printer.has_shown:
        complain(_nothing(campaign, ids))


def _follow(
    queue: CampaignCommands, ids: Sequence[int], attempt: int | None
) -> tuple[Callable[[], list[Piece]], Callable[[], bool]]:
    """A look at these jobs, and whether the last one has seen all that there will be."""
    if not ids:
        everything = CampaignFollower(queue)
        return everything.look, lambda: everything.is_over
    followers = [JobFollower(queue, job_id, attempt) for job_id in ids]

    def look() -> list[Piece]:
        queue.standing()  # a campaign that was purged meanwhile has no more to tell
        return [piece for one in followers if not one.is_over for piece in one.look()]

    return look, lambda: all(one.is_over for one in followers)


class _Printer:
    """Writes pieces as lines: of one job with headings of its attempts, of several with the id in front."""

    def __init__(self, ids: Sequence[int], last_id: int, *, follow: bool) -> None:
        self._follow = follow
        self._width = 0 if len(ids) == 1 else len(str(max(ids, default=last_id)))
        self._readers: dict[int, LineReader] = {}
        self._attempts: dict[int, int] = {}
        self.has_shown = False

    def show(self, pieces: Sequence[Piece]) -> None:
        several = len({piece.attempt for piece in pieces}) > 1
        for piece in pieces:
            if not self._follow:  # a job's last line is whole, or comes no more
                for other in [job for job in self._readers if job != piece.job]:
                    self._end(other)
            if piece.attempt != self._attempts.get(piece.job):
                self._end(piece.job)
                if self._attempts.get(piece.job) or several or self._width:
                    self._head(piece)
                self._attempts[piece.job] = piece.attempt
            if piece.missing:
                self._end(piece.job)
                where = f"; {piece.where}" if piece.where else ""
                self._write(piece.job, [f"[… {piece.missing} bytes not shown{where}]"])
            reader = self._readers.setdefault(piece.job, LineReader(shows_bars=self._follow))
            self._write(piece.job, reader.feed(piece.text))

    def end(self) -> None:
        for job_id in list(self._readers):
            self._end(job_id)

    def _head(self, piece: Piece) -> None:
        if not self._width:
            say(f"attempt {piece.attempt}:")
        elif piece.attempt > 1:
            self._write(piece.job, [f"[attempt {piece.attempt}]"])

    def _end(self, job_id: int) -> None:
        if (reader := self._readers.pop(job_id, None)) is not None:
            self._write(job_id, reader.end())

    def _write(self, job_id: int, lines: Iterable[str]) -> None:
        prefix = f"{job_id:>{self._width}} | " if self._width else ""
        for line in lines:
            say(prefix + line)
            self.has_shown = True


def _as_json(piece: Piece) -> dict[str, Any]:
    return {
        "id": piece.job, "attempt": piece.attempt, "missing": piece.missing,
        "where": piece.where or None, "text": piece.text.decode(errors="replace"),
    }  # fmt: skip


def _nothing(campaign: str, ids: Sequence[int]) -> str:
    if not ids:
        return f"no running job of {campaign!r} has printed anything; to see one that has ended, name its id"
    return f"nothing printed is on record of job {', '.join(map(str, ids))} of {campaign!r}"
