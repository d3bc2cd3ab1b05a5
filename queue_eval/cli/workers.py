"""`queue-eval workers`: list live workers, or drain them."""

from __future__ import annotations

import time

import click

from queue_eval.campaign.registry import LiveWorker, live_workers
from queue_eval.cli.connect import connected
from queue_eval.cli.options import json_option, server_options
from queue_eval.cli.output import print_json, worker_lines
from queue_eval.cli.terminal import say
from queue_eval.driver.changes import drain_workers
from queue_eval.views.formats import shown_duration


@click.group("workers", invoke_without_command=True)
@server_options
@json_option
@click.pass_context
def workers_group(context: click.Context, url: str | None, home: str | None, as_json: bool) -> None:
    """List every live worker."""
    if context.invoked_subcommand is not None:
        return
    with connected(url, home, looks=True) as link:
        found = live_workers(link)
    if as_json:
        print_json([worker.as_json() for worker in found])
        return
    for line in worker_lines(
        ("worker", "host", "pid", "slots", "state", "up", "seen", "queues", "campaigns"),
        [_row(worker) for worker in found],
        right=(2, 3),
        allocations=[worker.card.allocation_as_json() for worker in found],
    ):
        say(*line)


def _row(worker: LiveWorker) -> tuple[object, ...]:
    card = worker.card
    up_s = None if not card.created else max(0.0, time.time() - card.created)
    return (
        card.name, card.host, card.pid, card.slots, card.state, shown_duration(up_s),
        f"{shown_duration(worker.last_seen_s)} ago", "-" if card.queues is None else ",".join(card.queues),
        "all" if card.campaigns is None else ",".join(card.campaigns),
    )  # fmt: skip


@workers_group.command("stop")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@server_options
@json_option
@click.pass_context
def stop_command(
    context: click.Context, names: tuple[str, ...], url: str | None, home: str | None, as_json: bool
) -> None:
    """Drain workers: they finish what they run, then end."""
    # Options before the word "stop" count, too.
    before = context.parent.params if context.parent else {}
    with connected(url or before.get("url"), home or before.get("home")) as link:
        drain_workers(link, names)
    if as_json or before.get("as_json"):
        print_json({"draining": list(names)})
    else:
        say(f"asked to drain: {', '.join(names)}")
