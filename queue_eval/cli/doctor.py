"""`queue-eval doctor`: what can hurt a campaign, checked one by one."""

from __future__ import annotations

import sys

import click

from queue_eval.cli.failures import FAILED
from queue_eval.cli.options import json_option, server_options
from queue_eval.cli.output import print_json, styled
from queue_eval.cli.terminal import ask, say
from queue_eval.errors import UsageError


@click.command("doctor")
@server_options
@json_option
@click.option(
    "--clean", is_flag=True,
    help="Remove what dead processes have left in shared memory, and, after asking, the checkpoints of jobs "
    "that are over.",
)
@click.option("--yes", is_flag=True, help="With --clean: do not ask.")
@click.pass_context
def doctor_command(
    context: click.Context, url: str | None, home: str | None, as_json: bool, clean: bool, yes: bool
) -> None:  # fmt: skip
    """Check the server, this machine and the campaigns; exit status 1 if any check fails."""
    from queue_eval.cli.checks import every_check

    if yes and not clean:
        raise UsageError("--yes goes with --clean; add it, or leave it out")
    can_ask = sys.stdin.isatty() and not as_json

    def agree(question: str) -> bool:
        return yes or (can_ask and ask(question))

    findings = list(every_check(url, home, clean=clean, agree=agree))
    is_well = all(finding.status != "fail" for finding in findings)
    if as_json:
        print_json({"ok": is_well, "checks": [finding._asdict() for finding in findings]})
    else:
        width = max(len(finding.name) for finding in findings)
        for status, name, detail in findings:
            say(styled(f"{status:<4}", status), f"  {name:<{width}}  {' '.join(detail.split())}")
    if not is_well:
        context.exit(FAILED)
