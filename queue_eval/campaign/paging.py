"""Splits what is sent and read into pages, so that each call keeps the server busy only for a short time."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from queue_eval.model.moves import Submission

PAGE = 1000
"""How many items one call sends or reads at most."""

_MAX_BATCH_BYTES = 4 * 2**20
"""How large the configs and tags of one batch are together, unless a single one is larger."""

_PORTION_BYTES = 8 * 2**20
"""How much a portion is meant to read."""

_FIRST_PORTION = 100
_MAX_PORTION = 2000
"""How many values the first portion asks for, and any portion at most."""


def batches(submissions: Iterable[Submission]) -> Iterator[list[Submission]]:
    """Split submissions so that each call stays short on the server."""
    batch: list[Submission] = []
    size = 0
    for submission in submissions:
        length = len(submission.config) + len(submission.tag)
        if batch and (len(batch) == PAGE or size + length > _MAX_BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(submission)
        size += length
    if batch:
        yield batch


def pages(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    while page := list(itertools.islice(iterator, size)):
        yield page


class Portion:
    """How many values of unknown size to ask for next: as many as make up `_PORTION_BYTES`, by the size of
    those that came last."""

    def __init__(self) -> None:
        self.count = _FIRST_PORTION

    def adapt(self, count: int, size_bytes: int) -> None:
        """Learn that `count` values had `size_bytes` together."""
        fitting = _PORTION_BYTES * count // max(size_bytes, 1)
        self.count = max(1, min(fitting, 4 * self.count, _MAX_PORTION))
