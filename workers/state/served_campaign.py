"""One campaign as a worker serves it: what to run, what it holds, and when to ask for more."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from queue_eval.campaign.commands import CampaignCommands
from queue_eval.model.attempt import Token
from workers.executors.protocol import Plan
from workers.job_folders import JobFolders
from workers.pace import Pace
from workers.state.fair_share import MAX_PREFETCH_PER_SLOT, Claim, Share, SlotUse, fair_share, slot_use
from workers.state.held_jobs import HeldJobs
from workers.state.live_outputs import LiveOutputs
from workers.state.loads import Loads
from workers.state.signs import Signs

PREFETCH_MS = 50.0
"""About so much work per slot is held in advance, while all jobs of late were short."""

FORWARDED_PREFETCH_MS = 200.0
"""The same for jobs that are forwarded: their results come in bunches."""

PREFETCH_LONGEST_MS = 500.0
"""No job may be longer for that. It is half of what a job may wait for its slot (`WAITED_TOO_LONG_S`)."""

PUT_OFF_S = 5.0
"""A campaign whose call failed is left alone for so long."""


@dataclass
class ServedCampaign:
    """Guarded by the lock of `WorkerState`."""

    queue: CampaignCommands
    plan: Plan
    held: HeldJobs = field(default_factory=HeldJobs)
    signs: Signs = field(default_factory=Signs)
    live: LiveOutputs = field(default_factory=LiveOutputs)
    may_have_work: bool = True
    """Whether the server may have jobs waiting."""
    took_marker: bool = False
    """This worker popped the marker that says so, and owes the others a look."""
    not_before: float | None = None
    """No call before this moment (monotonic, s), for the last one failed; None when it did not."""
    due_at: float | None = None
    """When the next scheduled job is due, as far as this worker knows (monotonic, s)."""
    missing_slots: int = 0
    """Slots taken by abandoned threads, or all slots while the backend that jobs are forwarded to is away.
    Below zero when the backend has room for more."""
    pace: Pace = field(default_factory=Pace)
    loads: Loads = field(default_factory=Loads)
    is_on_roster: bool = False
    reserved_slots: int = 0
    """The slots that are to run free for a wide job; 0 for none."""
    has_other_wide_jobs: bool = False
    """Wide jobs wait that were not for this worker when it last asked: it leaves their marker to others."""
    may_have_shapes: bool = False
    """Jobs were seen that take several slots, or ask for time, and are for workers such as this one."""
    is_prefetch_limited: bool = False
    """Narrow jobs wait beyond this worker's share in advance. It asks again when a slot runs free."""
    trouble: str = ""
    """Why none of its forwarded jobs run; "" when all is well."""
    unknown_since: dict[Token, float] = field(default_factory=dict)
    """What the server says is held here and is not, and since when. Only the lease keeper uses it."""
    unanswered: str = ""
    """The request of a call to a node of a cluster whose reply never came. The call may have leased jobs, and
    the same request gets them."""
    settler_queue: CampaignCommands | None = None
    """The campaign over the settler's own link, once the settler has called it."""
    place: tuple[Plan, str] | None = None
    """The id of the folder in which checkpoints lie by this plan, see `checkpoint_place`."""
    is_in_call: bool = False
    """A call is under way, which may bring leases."""
    is_withdrawn: bool = False
    """The campaign is not for this worker any more: what runs is finished, and nothing more is leased."""

    @property
    def folders(self) -> JobFolders:
        return JobFolders(self.plan.setup.inside)

    def checkpoint_place(self) -> str:
        """The id of the folder in which checkpoints of its jobs here lie; empty where there is none. Only the
        settler calls this."""
        if self.place is None or self.place[0] is not self.plan:
            self.place = (self.plan, self.folders.place())
        return self.place[1]

    @property
    def name(self) -> str:
        return self.queue.campaign

    @property
    def lane_id(self) -> str:
        """The id of its lane in the runner. It tells apart two campaigns that had one name in turn."""
        return self.queue.uid

    @property
    def slots(self) -> int:
        """How many attempts of it may run at once, if no other campaign's do."""
        return self.plan.slots - self.missing_slots

    @property
    def is_forwarding(self) -> bool:
        return self.plan.setup.forward is not None

    @property
    def is_ahead(self) -> bool:
        """Whether jobs wait here behind those that run."""
        return self.held.slots_in_hand > self.slots

    @property
    def has_ended_jobs(self) -> bool:
        """Whether attempts have ended that are neither settled nor given back."""
        return bool(self.held.outbox or self.held.doubtful or self.loads.unloaded)

    def is_put_off(self, now: float) -> bool:
        """Whether its last call failed so recently that the next one waits."""
        return self.not_before is not None and self.not_before > now

    def put_off(self) -> None:
        """Leave the campaign alone for a while, for a call failed."""
        self.not_before = time.monotonic() + PUT_OFF_S

    def may_lease(self, now: float) -> bool:
        """Whether it has work, as far as is known, that this worker may ask for."""
        return self.may_have_work and not self.loads.is_paused(now)

    def share(self, now: float, use: SlotUse, *, may_ask: bool) -> Share:
        """What may be asked for. `use`: of this worker's own slots; `may_ask`: whether it leases anything."""
        held = self.held
        if self.is_forwarding:  # it runs elsewhere, and takes nobody's slots here
            use = slot_use([(held.slots_in_hand, self.may_lease(now), self.reserved_slots)])
        work_ms = FORWARDED_PREFETCH_MS if self.is_forwarding else PREFETCH_MS
        claim = Claim(
            slots=self.slots,
            slots_in_hand=held.slots_in_hand,
            may_ask=may_ask and not self.is_withdrawn,
            job_limit=self.loads.job_limit(held.proofs, now),
            reserved_slots=self.reserved_slots,
            has_wide_jobs=bool(held.wide),
            prefetch_per_slot=self.pace.fitting(
                work_ms, longest_ms=PREFETCH_LONGEST_MS, most=MAX_PREFETCH_PER_SLOT
            ),
        )
        return fair_share(claim, use)
