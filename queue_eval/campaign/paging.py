"""Nothing is sent or read whole: pages keep each call to the server short."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from queue_eval.model.moves import Submission

PAGE = 1000
_SUBMIT_BYTES = 4 * 2**20

_READ_BYTES = 8 * 2**20
_FIRST_PORTION = 100
_MOST_PORTION = 2000


def batches(submissions: Iterable[Submission]) -> Iterator[list[Submission]]:
    """Split submissions so that each call stays short on the server."""
    batch: list[Submission] = []
    size = 0
    for submission in submissions:
        if batch and (len(batch) == PAGE or size + len(submission.config) > _SUBMIT_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(submission)
        size += len(submission.config)
    if batch:
        yield batch


def pages(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    while page := list(itertools.islice(iterator, size)):
        yield page


class Portion:
    """How many values of unknown size to ask for at a time: as many as came to some megabytes of late."""

    def __init__(self) -> None:
        self.count = _FIRST_PORTION

    def seen(self, count: int, size: int) -> None:
        """So many were of so many bytes together."""
        fitting = _READ_BYTES * count // max(size, 1)
        self.count = max(1, min(fitting, 4 * self.count, _MOST_PORTION))
