"""Pauses between tries."""

from __future__ import annotations

from queue_eval.backoff import Backoff


def pauses_s(backoff: Backoff, count: int) -> list[float]:
    return [backoff.next_s() for _ in range(count)]


def test_each_pause_is_twice_the_one_before_up_to_the_limit() -> None:
    assert pauses_s(Backoff(0.5, 3.0), 5) == [0.5, 1.0, 2.0, 3.0, 3.0]


def test_the_factor_may_be_another() -> None:
    assert pauses_s(Backoff(1.0, 50.0, factor=3.0), 5) == [1.0, 3.0, 9.0, 27.0, 50.0]


def test_after_a_success_it_begins_anew() -> None:
    backoff = Backoff(0.5, 3.0)
    pauses_s(backoff, 4)
    backoff.reset()
    assert pauses_s(backoff, 2) == [0.5, 1.0]


def test_jitter_takes_away_at_most_its_share_and_does_not_add_up() -> None:
    longest_s = [0.5, 1.0, 2.0, 3.0, 3.0]
    seen = [pauses_s(Backoff(0.5, 3.0, jitter=0.5), 5) for _ in range(200)]
    for pauses in seen:
        assert all(s / 2 <= pause_s <= s for pause_s, s in zip(pauses, longest_s, strict=True))
    assert len({pauses[0] for pauses in seen}) > 100
