"""Which pending jobs none of the workers could run, and what is said of them."""

from __future__ import annotations

import pytest

from queue_eval.campaign.registry import WorkerCard
from queue_eval.model.shape import Shape
from queue_eval.views.unfit import find_unfit


def card(slots: int | None = 1, longest_job_s: float | None = None) -> WorkerCard:
    return WorkerCard(name="w", slots=slots, longest_job_s=longest_job_s)


def test_a_card_tells_how_long_a_job_may_run():
    assert WorkerCard.parse("w", card(longest_job_s=55).encode().encode()).longest_job_s == 55
    assert WorkerCard.parse("w", card().encode().encode()).longest_job_s is None
    assert WorkerCard.parse("w", b'{"longest_job_s": "x"}').longest_job_s is None


@pytest.mark.parametrize(
    ("shape", "cards", "why"),
    [
        (Shape(1, 60), [card()], None),
        (Shape(1, 60), [card(1, 59), card(1, 60)], None),
        (Shape(1, 60), [], None),
        (Shape(1, 60), [card(1, 30), card(2, 59)],
         "asks for 60 s (time_request), and no worker that serves it has more than 59 s from its start"),
        (Shape(2, 60), [card(1), card(2, 30)],
         ("asks for 60 s (time_request), and no worker with 2 slots that serves it has more than 30 s "
          "from its start")),
        (Shape(3, 60), [card(1), card(2)], "takes 3 slots, and no worker that serves it has more than 2"),
        (Shape(2), [card(None)], "takes 2 slots, and no worker that serves it has more than 0"),
    ],
)  # fmt: skip
def test_what_no_worker_could_run(shape, cards, why):
    assert [found.why for found in find_unfit([shape], cards)] == ([] if why is None else [why])


def test_the_command_of_a_worker_that_could():
    wide, long = find_unfit([Shape(3), Shape(1, 60)], [card(1, 5)])
    assert (wide.words, long.words) == (("-n", "3"), ())
