"""Turns a result that is NaN or infinite as a whole into a failure.

The process that runs user code reports such a result as it is, in Python's dialect of JSON. The worker makes
it a failure. So a worker and such a process of different versions understand each other.
"""

from __future__ import annotations

from queue_eval.model.states import Outcome

_OUTCOMES = {b"NaN": Outcome.NAN, b"Infinity": Outcome.INF, b"-Infinity": Outcome.INF}

_WORDS = {b"NaN": b"NaN", b"Infinity": b"infinite", b"-Infinity": b"minus infinity"}

_MAX_BYTES = max(map(len, _OUTCOMES))


def is_finite(result: bytes) -> bool:
    """Whether a result (JSON) is anything but a NaN or an infinity as a whole."""
    return len(result) > _MAX_BYTES or result not in _OUTCOMES


def judge_result(outcome: str, body: bytes) -> tuple[Outcome, bytes]:
    """The outcome of an attempt, and its result (JSON) or its error's text.

    `outcome` and `body` are what the process reports that has run the attempt.
    """
    if outcome == Outcome.OK and not is_finite(body):
        text = b"the result is %b; return a finite number, or a dict that holds this one" % _WORDS[body]
        return _OUTCOMES[body], text
    return Outcome(outcome), body
