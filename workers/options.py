"""The options of a worker, as its command line or its driver gives them."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from queue_eval.campaign.registry import is_served
from queue_eval.function.allow_list import AllowList
from queue_eval.machine import new_worker_name
from workers.scheduler import Allocation
from workers.slot_board import SlotBoard

DEFAULT_LEASE_S = 30.0


@dataclass(frozen=True)
class WorkerOptions:
    slots: int
    campaigns: tuple[str, ...] | None = None
    """None: all campaigns of its queues."""
    queues: tuple[str, ...] | None = None
    """The labels of the campaigns to serve. None: those without a label, or whichever `campaigns` names."""
    board: SlotBoard | None = None
    """The cores and GPUs that the slots own; None: they own nothing, and share what there is."""
    name: str = field(default_factory=new_worker_name)
    lease_s: float = DEFAULT_LEASE_S
    """A shorter lease finds a dead worker sooner. A longer one survives longer pauses of a live worker."""
    idle_timeout_s: float | None = None
    """End after so long without a job."""
    time_limit_s: float | None = None
    """End within so long of `began_at`: drain early enough, then release what still runs."""
    began_at: float = field(default_factory=time.monotonic)
    """When this process began (monotonic, s)."""
    drain_timeout_s: float | None = None
    """How long a drain may take before what still runs is given back; None: see `workers.drain`."""
    notice_s: float | None = None
    """How long before its end this worker drains, and running jobs are told; None: see `workers.drain`."""
    home: Path | None = None
    """Where the spool is kept, and by default working folders and checkpoints."""
    mailroom: Path | None = None
    """The folder of messages between this worker and its running attempts; the worker makes it."""
    python: str = field(default_factory=lambda: os.environ.get("QUEUE_EVAL_PYTHON") or sys.executable)
    """The interpreter that runs user code."""

    allow: AllowList | None = None
    """Which functions may run here; None: whichever a campaign names."""
    memory_limit: int | None = None
    """Bytes of memory that one slot may use."""
    jobs_per_child: int | None = None
    """A process that runs user code is replaced after so many attempts."""
    library_threads: int | None = None
    """How many threads a library is to use in a process whose slots own no cores; None: as it likes."""
    allocation: Allocation | None = None
    """The allocation that a scheduler has given to this worker."""
    allocation_ends_at: float | None = None
    """When the allocation ends (s since 1970), where it is known."""
    launch: str | None = None
    """Digest of how its driver has started it, of a local worker: see queue_eval/driver/launch.py."""

    @property
    def ends_at(self) -> float | None:
        """When this worker ends at the latest (monotonic, s), as far as that is known at its start."""
        ends = []
        if self.time_limit_s is not None:
            ends.append(self.began_at + self.time_limit_s)
        if self.allocation_ends_at is not None:
            # Whole seconds: two readings of the clocks must not make two plans of one campaign.
            ends.append(float(round(time.monotonic() + self.allocation_ends_at - time.time())))
        return min(ends, default=None)

    def serves(self, campaign: str, label: str) -> bool:
        return is_served(campaign, label, self.campaigns, self.queues)
