"""How the campaigns of a worker share its slots: every rule, one row each."""

from __future__ import annotations

import pytest

from workers.state.fair_share import MAX_PREFETCH_PER_SLOT, Claim, Share, SlotUse, fair_share, slot_use

MOST = MAX_PREFETCH_PER_SLOT


@pytest.mark.parametrize(
    ("sharing", "use"),
    [
        pytest.param([], SlotUse(0, 0, 0), id="nobody"),
        pytest.param([(0, True, 0)], SlotUse(0, 1, 0), id="one that has work"),
        pytest.param([(2, False, 0)], SlotUse(2, 1, 0), id="one whose last jobs run"),
        pytest.param([(3, True, 0), (0, False, 0)], SlotUse(3, 1, 0), id="an idle one is no rival"),
        pytest.param([(3, True, 0), (1, False, 0), (0, True, 0)], SlotUse(4, 3, 0), id="three rivals"),
        pytest.param([(0, True, 2), (0, False, 4)], SlotUse(0, 1, 4), id="the largest reservation counts"),
    ],
)
def test_how_much_of_the_slots_is_in_use(sharing: list[tuple[int, bool, int]], use: SlotUse):
    assert slot_use(sharing) == use


@pytest.mark.parametrize(
    ("claim", "use", "share"),
    [
        # Alone on the worker: all slots.
        pytest.param(Claim(4), SlotUse(0, 1, 0), Share(4, 0), id="alone and idle: all slots"),
        pytest.param(Claim(4, 3), SlotUse(3, 1, 0), Share(1, 0), id="alone and busy: what is free"),
        pytest.param(Claim(4, 4), SlotUse(4, 1, 0), Share(0, 0), id="alone and full: nothing"),
        pytest.param(Claim(4), SlotUse(0, 0, 0), Share(4, 0), id="without known work: all slots, too"),
        pytest.param(Claim(-1, 0), SlotUse(0, 1, 0), Share(0, 0), id="more slots are missing than there are"),
        # It may not ask.
        pytest.param(Claim(4, may_ask=False), SlotUse(0, 1, 0), Share(0, 0), id="draining or withdrawn"),
        pytest.param(Claim(4, job_limit=0), SlotUse(0, 1, 0), Share(0, 0), id="it has stepped aside"),
        pytest.param(
            Claim(4, job_limit=0, reserved_slots=4), SlotUse(0, 1, 4), Share(0, 0),
            id="it has stepped aside, and a reservation changes nothing",
        ),
        # Rivals: a fair part each, rounded up, of what is free.
        pytest.param(Claim(4), SlotUse(0, 2, 0), Share(2, 0), id="two rivals: half each"),
        pytest.param(Claim(5), SlotUse(0, 2, 0), Share(3, 0), id="two rivals: rounded up"),
        pytest.param(Claim(2), SlotUse(0, 3, 0), Share(1, 0), id="more rivals than slots: one each"),
        pytest.param(Claim(4, 1), SlotUse(1, 2, 0), Share(1, 0), id="what it has counts"),
        pytest.param(Claim(4, 2), SlotUse(2, 2, 0), Share(0, 0), id="its part is taken"),
        pytest.param(Claim(4, 3), SlotUse(3, 2, 0), Share(0, 0), id="it has more than its part"),
        pytest.param(Claim(4), SlotUse(3, 2, 0), Share(1, 0), id="a rival still has more than its part"),
        pytest.param(Claim(4), SlotUse(4, 2, 0), Share(0, 0), id="a rival still has all slots"),
        pytest.param(Claim(4), SlotUse(9, 2, 0), Share(0, 0), id="a rival has jobs in advance"),
        # It waits for a wide job: it may exceed its part, and holds nothing in advance.
        pytest.param(
            Claim(4, reserved_slots=4), SlotUse(0, 1, 4), Share(4, 0), id="a wide job may begin at once"
        ),
        pytest.param(
            Claim(4, reserved_slots=4), SlotUse(0, 2, 4), Share(4, 0), id="a wide job may exceed the part"
        ),
        pytest.param(
            Claim(4, 1, reserved_slots=4), SlotUse(3, 2, 4), Share(1, 0), id="a wide job has what is free"
        ),
        pytest.param(
            Claim(4, reserved_slots=2), SlotUse(0, 1, 2), Share(4, 0), id="its part exceeds the wide job"
        ),
        pytest.param(
            Claim(4, 1, reserved_slots=2), SlotUse(6, 2, 2), Share(0, 0), id="a wide job, and nothing is free"
        ),
        pytest.param(
            Claim(4, reserved_slots=3, prefetch_per_slot=5), SlotUse(0, 1, 3), Share(4, 0),
            id="nothing is held in advance beside a reservation",
        ),
        pytest.param(
            Claim(4, reserved_slots=3, job_limit=1), SlotUse(0, 1, 3), Share(4, 0),
            id="a wide job tries whether the function loads",
        ),
        # Another campaign waits for a wide job: its slots run free.
        pytest.param(Claim(4), SlotUse(0, 2, 2), Share(2, 0), id="the rest is enough for its part"),
        pytest.param(Claim(4), SlotUse(0, 2, 3), Share(1, 0), id="the rest is less than its part"),
        pytest.param(Claim(4), SlotUse(1, 2, 3), Share(0, 0), id="no rest"),
        pytest.param(Claim(4), SlotUse(3, 2, 3), Share(0, 0), id="too much runs already"),
        pytest.param(
            Claim(4, prefetch_per_slot=5), SlotUse(0, 1, 1), Share(3, 0), id="nothing is held in advance"
        ),
        # While it is not known that the run function loads: a few to try.
        pytest.param(Claim(4, job_limit=1), SlotUse(0, 1, 0), Share(1, 0), id="one job to try"),
        pytest.param(Claim(4, 4, job_limit=1), SlotUse(4, 1, 0), Share(0, 0), id="one to try, no free slot"),
        pytest.param(
            Claim(4, job_limit=9, prefetch_per_slot=5), SlotUse(0, 1, 0), Share(4, 0),
            id="nothing is held in advance of a trial",
        ),
        # Short jobs wait here behind those that run.
        pytest.param(
            Claim(4, prefetch_per_slot=5), SlotUse(0, 1, 0), Share(4, 20), id="short jobs: some in advance"
        ),
        pytest.param(
            Claim(4, 4, prefetch_per_slot=5), SlotUse(4, 1, 0), Share(0, 20), id="full, and some in advance"
        ),
        pytest.param(
            Claim(4, 10, prefetch_per_slot=5), SlotUse(10, 1, 0), Share(0, 14), id="six wait already"
        ),
        pytest.param(
            Claim(4, 24, prefetch_per_slot=5), SlotUse(24, 1, 0), Share(0, 0), id="enough wait already"
        ),
        pytest.param(
            Claim(4, 40, prefetch_per_slot=5), SlotUse(40, 1, 0), Share(0, 0), id="more than enough wait"
        ),
        pytest.param(
            Claim(4, prefetch_per_slot=MOST), SlotUse(0, 1, 0), Share(4, 2 * MOST), id="a bound for all slots"
        ),
        pytest.param(
            Claim(1, prefetch_per_slot=MOST), SlotUse(0, 1, 0), Share(1, MOST), id="a bound for one slot"
        ),
        pytest.param(
            Claim(4, prefetch_per_slot=5), SlotUse(0, 2, 0), Share(2, 0), id="with rivals, none in advance"
        ),
        pytest.param(
            Claim(4, 2, has_wide_jobs=True, prefetch_per_slot=5), SlotUse(2, 1, 0), Share(2, 0),
            id="behind wide jobs, none in advance",
        ),
        pytest.param(
            Claim(-1, 0, prefetch_per_slot=5), SlotUse(0, 1, 0), Share(0, 0), id="no slots, none in advance"
        ),
    ],
)  # fmt: skip
def test_what_a_campaign_may_ask_for(claim: Claim, use: SlotUse, share: Share):
    assert fair_share(claim, use) == share


@pytest.mark.parametrize("rivals", range(2, 6))
@pytest.mark.parametrize("slots", range(1, 8))
def test_rivals_that_ask_in_turn_fill_the_worker_and_nobody_has_more_than_its_part(slots: int, rivals: int):
    held = [0] * rivals
    for _ in range(2):
        for number in range(rivals):
            use = slot_use((in_hand, True, 0) for in_hand in held)
            held[number] += fair_share(Claim(slots, held[number]), use).slots
    assert sum(held) == slots
    assert max(held) <= -(-slots // rivals)
