"""`queue-eval campaigns --prune`: delete campaigns that have expired."""

from __future__ import annotations

from queue_eval.campaign.expiry import EXPIRE_AFTER_S, Expired, find_expired
from queue_eval.cli.connect import connected
from queue_eval.cli.failures import complain
from queue_eval.cli.output import print_json, print_table
from queue_eval.cli.terminal import say
from queue_eval.driver.checkpoint_disk import purge_expired
from queue_eval.errors import DamagedError
from queue_eval.views.formats import iso, shown_time


def prune_campaigns(
    url: str | None, home: str | None, older_than_s: float | None, *, is_dry: bool, as_json: bool
) -> None:
    """Delete campaigns that have expired, or were closed at least `older_than_s` ago, and list them.

    With `is_dry`, only list them.
    """
    age_s = EXPIRE_AFTER_S if older_than_s is None else older_than_s
    gone: list[Expired] = []
    with connected(url, home, looks=is_dry) as link:
        for expired in find_expired(link, age_s, tidies=not is_dry):
            try:
                if is_dry or purge_expired(expired, link, age_s):
                    gone.append(expired)
            except DamagedError as error:
                complain(f"warning: campaign {expired.campaign!r} is left out: {error}")
    if as_json:
        rows = [{"campaign": e.campaign, "jobs": e.jobs, "closed_at": iso(e.closed_ms)} for e in gone]
        print_json({"pruned": rows, "dry_run": is_dry})
        return
    if gone:
        print_table(
            ("campaign", "jobs", "closed"),
            [(e.campaign, e.jobs, shown_time(e.closed_ms)) for e in gone],
            right=(1,),
        )
    verb = "would delete" if is_dry else "deleted"
    say(f"{verb} {len(gone)} campaign{'' if len(gone) == 1 else 's'}")
