"""What is known of all outcomes of a campaign together: folded from the result stream, one entry at a time.

::

    entries of the result stream ──▶ fold ──▶ counts by state          as they stand: a job counts once
                                         ├──▶ failures by their last line      the same
                                         ├──▶ the best, by key                 the same
                                         ├──▶ a sample of jobs, by chance      the same
                                         ├──▶ when the newest finished
                                         └──▶ the course                       as it happened

All of it is bounded, but for one byte per job: how the job stands. A summary can be kept and taken up by
another process: it knows the entry up to which it goes.
"""

from __future__ import annotations

import base64
import heapq
import zlib
from bisect import insort
from collections import deque
from typing import Any

from queue_eval.campaign.result_stream import ResultEntry, is_entry, judged
from queue_eval.errors import DamagedError
from queue_eval.model.codec import decode, encode
from queue_eval.model.states import State
from queue_eval.views.course import Course
from queue_eval.views.failure_groups import FailureGroups
from queue_eval.views.numbers import MOST_KEYS, numbers_of

MOST_BEST = 100
"""So many of the best jobs are known, in each direction."""

MOST_SAMPLED = 1000
MOST_TIMES = 500
"""So many newest times of finishing are known: the pace is that of these."""

_VERSION = 1

_NONE, _SUCCEEDED, _CANCELLED, _FAILED = range(4)
"""How a job stands, as a byte. From `_FAILED` on: it has failed, and belongs to the group of this place."""

_MOST_JOBS = 2**31
_COMPRESSION = 1
_MAX_PLAIN_BYTES = 2**28


class Summary:
    """Assumes: entries are folded in their order, each once. One thread at a time."""

    def __init__(self) -> None:
        self.cursor = "0-0"
        """The newest entry that was folded."""
        self.groups = FailureGroups()
        self.course = Course()
        self.times_ms: deque[int] = deque(maxlen=MOST_TIMES)
        """When the newest outcomes came (Unix), the newest last."""
        self.keys: list[str] = []
        """The names of numbers in results (`numbers.py`), in the order in which they were first seen."""
        self.counts = {State.SUCCEEDED: 0, State.FAILED: 0, State.CANCELLED: 0}
        self.has_unranked = False
        """A job that has succeeded runs again, or has done so. So a former result of it may stand among the
        best: only a new summary knows."""
        self._low: dict[str, list[tuple[float, int]]] = {}
        self._high: dict[str, list[tuple[float, int]]] = {}
        self._sample: list[tuple[int, int]] = []
        self._stands = bytearray()

    def fold(self, entry: ResultEntry) -> None:
        """Take in the entry behind `cursor`."""
        self.cursor = entry.entry
        job = entry.id
        if not 0 < job < _MOST_JOBS:
            return  # it is damaged, and names no job
        entry = judged(entry)
        self.forget(job)
        numbers: dict[str, float] = {}
        if entry.state is State.SUCCEEDED:
            standing = _SUCCEEDED
            numbers = self._ranked(job, entry.body)
        elif entry.state is State.FAILED:
            standing = _FAILED + self.groups.add(job, entry.cause, entry.body, entry.finished_ms)
        else:
            standing = _CANCELLED
        self.counts[entry.state] += 1
        self.times_ms.append(entry.finished_ms)
        self.course.add(entry, numbers)
        if job >= len(self._stands):
            self._stands.extend(bytes(max(1024, job + 1 - len(self._stands), len(self._stands) // 8)))
        self._stands[job] = standing

    def pass_over(self, entry: ResultEntry) -> None:
        """Go beyond the entry behind `cursor`, which does not count: its job has run again since."""
        self.cursor = entry.entry
        self.times_ms.append(entry.finished_ms)

    def forget(self, job: int) -> None:
        """The job has no outcome any more: it runs again."""
        standing = self._stands[job] if job < len(self._stands) else _NONE
        if standing == _NONE:
            return
        self._stands[job] = _NONE
        if standing == _SUCCEEDED:
            self.counts[State.SUCCEEDED] -= 1
            self.has_unranked = True
        elif standing == _CANCELLED:
            self.counts[State.CANCELLED] -= 1
        else:
            self.counts[State.FAILED] -= 1
            self.groups.remove(job, standing - _FAILED)

    def without_success(self) -> list[int]:
        """The jobs that have failed or were cancelled."""
        return [job for job, standing in enumerate(self._stands) if standing > _SUCCEEDED]

    def failed_of(self, title: str) -> list[int]:
        """The jobs that count in the failure groups of this title."""
        places = {_FAILED + place for place, group in enumerate(self.groups.groups) if group.title == title}
        return [job for job, standing in enumerate(self._stands) if standing in places] if places else []

    def best(self, key: str, n: int, direction: str = "max") -> list[tuple[int, float]]:
        """(job, value) of the `n` best by this key, at most `MOST_BEST`; of equal ones the lower id first."""
        ranks, sign = (self._high, -1) if direction == "max" else (self._low, 1)
        return [(job, sign * value) for value, job in ranks.get(key, ())[:n]]

    def sample(self) -> list[int]:
        """Jobs that have succeeded, chosen by chance; the same for everybody who asks."""
        return sorted(job for _, job in self._sample)

    def to_bytes(self) -> bytes:
        """For another process. It holds no config, no result and only last lines of errors."""
        document = {
            "version": _VERSION, "cursor": self.cursor, "groups": self.groups.as_json(),
            "course": self.course.as_json(), "times_ms": list(self.times_ms), "keys": self.keys,
            "counts": {state.value: count for state, count in self.counts.items()},
            "has_unranked": self.has_unranked, "low": self._low, "high": self._high, "sample": self._sample,
            "stands": base64.b85encode(zlib.compress(self._stands, _COMPRESSION)).decode(),
        }  # fmt: skip
        return zlib.compress(encode(document).encode(), _COMPRESSION)

    @classmethod
    def from_bytes(cls, kept: bytes) -> Summary:
        """Raises DamagedError for anything that `to_bytes` of this version has not made."""
        try:
            document = decode(_unpacked(kept))
            if document["version"] != _VERSION or not is_entry(document["cursor"]):
                raise ValueError("another version")
            return cls._of(document)
        except (ValueError, TypeError, LookupError, AttributeError, OverflowError, zlib.error) as error:
            raise DamagedError(f"the kept summary cannot be read: {type(error).__name__}: {error}") from error

    @classmethod
    def _of(cls, document: dict[str, Any]) -> Summary:
        found = cls()
        found.cursor = document["cursor"]
        found.groups = FailureGroups.of(document["groups"])
        found.course = Course.of(document["course"])
        found.times_ms.extend(map(int, document["times_ms"]))
        found.keys = list(map(str, document["keys"]))[:MOST_KEYS]
        found.counts = {state: int(document["counts"][state.value]) for state in found.counts}
        found.has_unranked = bool(document["has_unranked"])
        for name, ranks in (("low", found._low), ("high", found._high)):
            for key, pairs in document[name].items():
                ranks[key] = [(float(value), int(job)) for value, job in pairs]
        found._sample = [(int(lot), int(job)) for lot, job in document["sample"]]
        found._stands = bytearray(_unpacked(base64.b85decode(document["stands"])))
        if max(found._stands, default=0) >= _FAILED + len(found.groups.groups):
            raise ValueError("a job belongs to a group that is not there")
        return found

    def _ranked(self, job: int, body: bytes) -> dict[str, float]:
        """The numbers of a result, each put among the best if it belongs there."""
        numbers = numbers_of(body)
        for key, value in list(numbers.items()):
            if key not in self._high:
                if len(self.keys) == MOST_KEYS:
                    del numbers[key]
                    continue
                self.keys.append(key)
                self._low[key], self._high[key] = [], []
            _rank(self._low[key], value, job)
            _rank(self._high[key], -value, job)
        if numbers:
            self._draw(job)
        return numbers

    def _draw(self, job: int) -> None:
        """Keep the jobs that have drawn the lowest lots. A job's lot depends on nothing but its id."""
        lot = -(job * 2654435761 % 2**32)  # Knuth's multiplicative hash
        if len(self._sample) < MOST_SAMPLED:
            heapq.heappush(self._sample, (lot, job))
        elif lot > self._sample[0][0]:
            heapq.heapreplace(self._sample, (lot, job))


def _rank(ranks: list[tuple[float, int]], value: float, job: int) -> None:
    if len(ranks) == MOST_BEST:
        if (value, job) >= ranks[-1]:
            return
        ranks.pop()
    insort(ranks, (value, job))


def _unpacked(packed: bytes) -> bytes:
    unpacker = zlib.decompressobj()
    plain = unpacker.decompress(packed, _MAX_PLAIN_BYTES)
    if not unpacker.eof:
        raise ValueError("it is cut off, or too long")
    return plain
