"""Names the values of a job, for tables, conditions and orders: one spelling everywhere.

===================  =====================================================================================
name                 value
===================  =====================================================================================
`id`, `state`, …     a column of our own (`OWN_COLUMNS`), as in exported tables
`lr`                 a key of the config, else of the result
`p:lr`, `r:loss`     a key of the config, of the result; `config.state` also is a key of the config, as it is
                     spelled in tables where we have a column of that name
`model.layers`       a key within a key; a key that itself has a dot comes first
===================  =====================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from queue_eval.model.states import State
from queue_eval.model.table_cells import NOTHING

COUNTS = frozenset(("id", "attempts", "releases"))
SECONDS = frozenset(("run_s", "wait_s", "duration", "elapsed_sec"))
TIMES = frozenset(("submitted_at", "started_at", "finished_at"))
OBJECTIVES = frozenset(("objective", "result"))
OWN_COLUMNS = COUNTS | SECONDS | TIMES | OBJECTIVES | {
    "state", "cause", "worker", "host", "error", "source", "tag", "stopped_early",
}  # fmt: skip
"""The columns of our own. `objective` and `result` are the same: what a job that has succeeded returned."""

_CONFIG, _RESULT = "p:", "r:"
_CONFIG_IN_TABLES = "config."


def value_of(job: Mapping[str, Any], name: str) -> Any:
    """The value of this name of a job, which is as `JobRecord.as_json` gives it; NOTHING where it has none.

    A job that has not succeeded has no objective: the failure value stands for none.
    """
    config, result = job["config"], job["result"] if job["state"] == State.SUCCEEDED else NOTHING
    if name in OBJECTIVES:
        return result
    if name in OWN_COLUMNS:
        return NOTHING if job[name] is None else job[name]
    # The whole name comes first: configs read from DeepHyper's tables have keys like `p:lr` themselves.
    places = [(config, name), (result, name)]
    for prefix, holder in ((_CONFIG, config), (_RESULT, result), (_CONFIG_IN_TABLES, config)):
        if name.startswith(prefix):
            places.append((holder, name.removeprefix(prefix)))
    places.append(({"tag": job["tag"]}, name))
    found = (_within(holder, path) for holder, path in places)
    return next((value for value in found if value is not NOTHING), NOTHING)


def _within(value: Any, path: str) -> Any:
    """What a dict holds under a key, or under keys within keys, separated by dots; else NOTHING."""
    if not isinstance(value, dict):
        return NOTHING
    if path in value:
        return value[path]
    head, dot, rest = path.partition(".")
    while dot:
        if head in value and (found := _within(value[head], rest)) is not NOTHING:
            return found
        more, dot, rest = rest.partition(".")
        head = f"{head}.{more}"
    return NOTHING
