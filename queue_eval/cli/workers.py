"""`queue-eval workers`: who is alive, and how to drain one."""

from __future__ import annotations

import time

import click

from queue_eval import keys
from queue_eval.cli.connect import connected
from queue_eval.cli.fleet import live_workers
from queue_eval.cli.options import json_option, server_options
from queue_eval.cli.output import print_json, print_table, shown_duration
from queue_eval.connection import Link
from queue_eval.errors import QueueEvalError


@click.group("workers", invoke_without_command=True)
@server_options
@json_option
@click.pass_context
def workers_group(context: click.Context, url: str | None, home: str | None, as_json: bool) -> None:
    """List every live worker."""
    if context.invoked_subcommand is not None:
        return
    with connected(url, home) as link:
        found = live_workers(link)
    if as_json:
        print_json([worker.as_json() for worker in found])
        return
    print_table(
        ("worker", "host", "pid", "slots", "state", "up", "seen", "campaigns"),
        [
            (
                worker.name, worker.host, worker.pid, worker.slots, worker.state,
                shown_duration(None if worker.created is None else max(0.0, time.time() - worker.created)),
                f"{shown_duration(worker.last_seen_s)} ago",
                "all" if worker.campaigns is None else ",".join(worker.campaigns),
            )
            for worker in found
        ],
        right=(2, 3),
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
    # What was said before the word "stop" counts, too.
    before = context.parent.params if context.parent else {}
    with connected(url or before.get("url"), home or before.get("home")) as link:
        alive = {worker.name for worker in live_workers(link)}
        unknown = [name for name in names if name not in alive]
        if unknown:
            raise QueueEvalError(
                f"there is no live worker {', '.join(map(repr, unknown))}; see: queue-eval workers"
            )
        for name in names:
            _ask_to_drain(link, name)
    if as_json or before.get("as_json"):
        print_json({"draining": list(names)})
    else:
        click.echo(f"asked to drain: {', '.join(names)}")


def _ask_to_drain(link: Link, name: str) -> None:
    link.call(lambda client: client.sadd(keys.DRAIN, name))
    # Only so that it is noticed at once: every heartbeat looks at the set.
    notice = {"what": "drain", "worker": name}
    link.call(lambda client: client.xadd(keys.NOTICES, notice, maxlen=1000, approximate=True))
