"""Which column of a table holds which key of the configs."""

from __future__ import annotations

from collections.abc import Collection, Iterable


def column_names(keys: Iterable[str], own: Collection[str]) -> dict[str, str]:
    """Key -> column, one for each of the `keys` of all configs of a table, in their order.

    A key named like one of our `own` columns gets ``config.`` in front, as often as it takes to get a name
    that is no other key.
    """
    known = dict.fromkeys(keys)
    names = {}
    for key in known:
        column = key
        while column in own or (column != key and column in known):
            column = f"config.{column}"
        names[key] = column
    return names
