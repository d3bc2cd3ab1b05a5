"""A campaign as a whole, as a document that the screens draw: plain data, which no later look changes."""

from __future__ import annotations

from typing import Any

from queue_eval.campaign.meta import created_ms_of
from queue_eval.model.table_cells import finite
from queue_eval.views.numbers import main_key
from queue_eval.views.standing import Standing, described


def overview(standing: Standing) -> dict[str, Any]:
    """All that `status` shows. Times are Unix ms."""
    summary, snapshot, pace = standing.overview.summary, standing.snapshot, standing.pace
    busy = {worker.card.name: worker.card.busy for worker in standing.live}
    return described(standing.campaign, standing.meta, snapshot) | {
        "created_ms": created_ms_of(standing.meta),
        "now_ms": snapshot.now_ms,
        "planned": snapshot.planned,
        "rate_per_s": pace.rate_per_s,
        "time_left_s": pace.time_left_s,
        "time_left_is_guess": pace.is_guess,
        "read_share": standing.overview.read_share,
        "key": main_key(summary.keys),
        "best": finite(None if standing.best is None else standing.best.as_json()),
        "reasons": [] if standing.unserved is None else [{"sentence": standing.unserved}],
        "failures": [
            {"line": group.title, "cause": group.cause or None, "count": group.count,
             "newest": list(group.newest), "first_ms": group.first_ms, "last_ms": group.last_ms}
            for group in summary.groups.ranked()
        ],
        "workers": [row | {"busy": busy.get(row["name"])} for row in standing.workers],
    }  # fmt: skip
