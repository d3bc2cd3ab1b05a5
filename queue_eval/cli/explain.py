"""`queue-eval explain`: why a campaign's jobs, or one of them, wait, run or ended as they did."""

from __future__ import annotations

import click

from queue_eval.cli.connect import campaign_queue
from queue_eval.cli.options import JOB_ID, json_option, server_options
from queue_eval.cli.output import print_json, styled
from queue_eval.cli.terminal import say
from queue_eval.driver.actions import check_ids
from queue_eval.views.explaining import Explainer

_MAX_SHOWN_ATTEMPTS = 20


@click.command("explain")
@click.argument("campaign")
@click.argument("job_id", type=JOB_ID, metavar="[ID]", required=False)
@server_options
@json_option
def explain_command(
    campaign: str, job_id: int | None, url: str | None, home: str | None, as_json: bool
) -> None:
    """Say why a campaign's jobs wait, or why one of them waits, or ended as it did, and what to do."""
    with campaign_queue(campaign, url, home, looks=True) as queue:
        if job_id is not None:
            check_ids(queue, [job_id])
        explainer = Explainer(queue)
        found = explainer.campaign() if job_id is None else explainer.job(job_id)
    if as_json:
        print_json({"campaign": campaign, "id": job_id} | found.as_json())
        return
    for reason in found.reasons:
        say(styled(reason.sentence, found.state or ""))
        say(f"  {reason.advice}")
    told = zip(found.attempts, found.attempt_lines(), strict=True)
    # The first sentence tells of the one that runs.
    lines = [line for attempt, line in told if attempt.finished_at is not None]
    if (earlier := len(lines) - _MAX_SHOWN_ATTEMPTS) > 0:
        say(f"  {earlier} earlier attempts are left out; --json has them")
    for line in lines[-_MAX_SHOWN_ATTEMPTS:]:
        say(f"  {line}")
