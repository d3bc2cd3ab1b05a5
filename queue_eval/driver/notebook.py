"""What a notebook shows of an evaluator."""

from __future__ import annotations

from queue_eval.campaign.commands import CampaignCommands
from queue_eval.campaign.meta import text_of
from queue_eval.errors import QueueEvalError
from queue_eval.model.html import escaped, facts, shortened
from queue_eval.views.formats import shown_duration
from queue_eval.views.numbers import WHOLE
from queue_eval.views.standing import Standing, StandingReader

_READ_S = 2.0
_MOST_GROUPS = 5


def evaluator_html(queue: CampaignCommands, gathered: int, outstanding: int) -> str:
    """A campaign as a whole. `gathered`, `outstanding`: jobs of this driver."""
    pairs = [("campaign", escaped(queue.campaign))]
    try:
        reader = StandingReader(queue)
        standing = reader.read(_READ_S, to_the_end=True)
        reader.close()
    except QueueEvalError as error:
        pairs.append(("server", escaped(str(error))))
    else:
        pairs += _pairs(standing)
    pairs.append(("this driver", f"{gathered} gathered, {outstanding} outstanding"))
    return facts(pairs)


def _pairs(standing: Standing) -> list[tuple[str, str]]:
    snapshot, pace = standing.snapshot, standing.pace
    counts = ", ".join(f"{count} {state.value}" for state, count in snapshot.counts.items() if count)
    paused = " (paused)" if snapshot.paused else ""
    pairs = [
        ("function", escaped(text_of(standing.meta, "function"))),
        ("jobs", f"{snapshot.finished} of {snapshot.planned} finished{paused}: {counts or 'none yet'}"),
    ]
    if pace.time_left_s:
        pairs.append(("time left", shown_duration(pace.time_left_s)))
    if (best := standing.best) is not None:
        name = "" if best.key == WHOLE else f"{best.key} = "
        value = f"{escaped(name)}{best.value:.6g}, job {best.job}"
        pairs.append(("best", f"{value}: {shortened(best.config, 200)}"))
    groups = standing.overview.summary.groups.ranked()[:_MOST_GROUPS]
    if groups:
        shown = (f"{group.count}: {shortened(group.title, 120)}" for group in groups)
        pairs.append(("failed", "<br>".join(shown)))
    if standing.troubles:
        pairs.append(("waits", "<br>".join(escaped(reason.text) for reason in standing.troubles)))
    return pairs
