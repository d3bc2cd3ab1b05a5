"""How the campaigns of a worker share its slots: a pure function of what each has and wants.

A campaign that runs in this worker's own processes shares the slots with all other such campaigns. A campaign
that is forwarded shares its slots with no other.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

MAX_PREFETCH_PER_SLOT = 256
"""At most this many jobs are held in advance for each slot, and at most twice as many for all together."""


class Share(NamedTuple):
    """What one campaign may ask for."""

    slots: int
    """How many slots its jobs may take at once."""
    prefetch: int
    """How many more short jobs may wait on the worker behind those that run."""

    @property
    def is_empty(self) -> bool:
        return self.slots + self.prefetch == 0


NOTHING = Share(0, 0)


class Claim(NamedTuple):
    """What the rule must know of the campaign whose share is asked for."""

    slots: int
    """How many of its attempts may run at once while those of no other campaign run. Negative while more
    slots are missing than there are (see `ServedCampaign.missing_slots`)."""
    slots_in_hand: int = 0
    """How many slots are taken by its attempts that have not ended."""
    may_ask: bool = True
    """False while this worker drains, or serves the campaign no more."""
    job_limit: int | None = None
    """How many jobs may be tried while nobody knows whether the run function loads here. None: no limit."""
    reserved_slots: int = 0
    """How many slots are to run free for a wide job of this campaign; 0 for none."""
    has_wide_jobs: bool = False
    """Whether a job that takes several slots runs."""
    prefetch_per_slot: int = 0
    """How many jobs may wait behind each slot; 0 unless all jobs of late were short."""


class SlotUse(NamedTuple):
    """How much of the slots is in use, over all campaigns that share them."""

    slots_in_hand: int
    rivals: int
    """How many campaigns have attempts in hand or work to ask for."""
    reserved_slots: int
    """How many slots are to run free for wide jobs of one of the campaigns, the largest number of all."""


def slot_use(sharing: Iterable[tuple[int, bool, int]]) -> SlotUse:
    """`sharing`: slots in hand, whether there is work to ask for, and reserved slots, of each campaign."""
    in_hand = rivals = reserved = 0
    for slots_in_hand, has_work, reserved_slots in sharing:
        in_hand += slots_in_hand
        rivals += bool(slots_in_hand or has_work)
        reserved = max(reserved, reserved_slots)
    return SlotUse(in_hand, rivals, reserved)


def fair_share(claim: Claim, use: SlotUse) -> Share:
    """The most that one campaign may ask for. `use`: of the slots that it shares, with itself counted."""
    if not claim.may_ask or claim.job_limit == 0:
        return NOTHING
    free = claim.slots - use.slots_in_hand
    # Slots are shared fairly between campaigns that have work. A single one has them all.
    # The quota is rounded up, so that no slot stays free.
    quota = -(-claim.slots // use.rivals) if use.rivals > 1 else claim.slots
    slots = max(0, min(free, quota - claim.slots_in_hand))
    if claim.reserved_slots:
        # A wide job may take more than its campaign's share: else it would never begin.
        return Share(max(slots, min(free, claim.reserved_slots), 0), 0)
    if claim.job_limit is not None:
        slots = min(slots, claim.job_limit)
    if use.reserved_slots:
        # The slots that run free for another campaign's wide job are not for this one.
        return Share(max(0, min(slots, free - use.reserved_slots)), 0)
    if use.rivals > 1 or claim.has_wide_jobs or claim.job_limit is not None:
        return Share(slots, 0)
    already_waiting = max(0, claim.slots_in_hand - claim.slots)
    prefetch = min(claim.prefetch_per_slot * claim.slots, 2 * MAX_PREFETCH_PER_SLOT)
    return Share(slots, max(0, prefetch - already_waiting))
