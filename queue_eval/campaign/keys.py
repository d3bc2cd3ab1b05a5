"""The names of everything kept on the server: the only module that spells a key.

All keys of a campaign share the hash tag ``{campaign}``, so that a campaign lives in one slot of a
cluster and campaigns spread over it. `Keys.columns` is the order in which every script receives them;
`queue_eval/campaign/scripts/include/columns.lua` unpacks them in the same order.

=================  ======  ==========================================================================
key                type    holds
=================  ======  ==========================================================================
``:meta``          hash    function, method, options, creation time, schema version, last id
``:configs``       hash    id -> submission time (ms, Unix; 8 digits, base 36), then the config (JSON)
``:scheduled``     zset    id by due time (ms)
``:pending``       zset    id by (priority, id): see ``scripts/include/pending_score.lua``
``:pending:<s>``   zset    the same, of jobs of the shape s: "slots" from 2 on, or "slots@seconds"
``:held:<worker>`` hash    id -> "attempt request started": running on that worker
``:workers``       zset    worker by the expiry (ms) of its lease on all it holds
``:attempts``      hash    id -> "attempts failures losses uncharged suspect[ releases]", where not all zero
``:priorities``    hash    id -> priority, where not zero
``:results``       stream  the append-only log of terminal outcomes
``:index``         hash    id -> entry in the result stream: succeeded, failed and cancelled jobs
``:failed``        set     ids of failed jobs
``:cancelled``     set     ids of cancelled jobs
``:failures``      stream  each failed, lost or released attempt (bounded)
``:outputs``       hash    id -> captured output of the attempt that settled it or was cancelled, if any
``:fingerprints``  hash    config fingerprint (and occurrence) -> id
``:requests``      hash    worker or driver -> its last request, so that a repeat is recognised
``:roster``        hash    worker -> {"host", "pid"} of every worker that ever held a job of it
``:wake``          zset    one marker that idle workers block on, present while work may be waiting
``:wake_wide``     zset    the same for jobs of a shape
``:widths``        hash    id -> shape of the job: the slots that it takes and the seconds that it asks for
``:wide``          zset    the shapes that jobs of the campaign have, or had, by their slots
``:reserving``     zset    workers that let slots run free for a wide job, by when they began (ms)
``:reports``       hash    "id:n" -> the n-th block of what the job has reported (`model.report`)
``:report_heads``  hash    id -> "attempt covered blocks in_last points dropped looked size": of its reports
``:reported``      stream  which jobs have new reports (bounded)
``:stops``         hash    id -> when (ms) it was asked to stop early: unfinished jobs
``:checkpoints``   hash    id -> "attempt save place" of the newest: unfinished and failed jobs
``:give_backs``    zset    id by how often in a row it was given back without a new checkpoint
``:tags``          hash    id -> the tag (JSON) that was submitted with the job, where there is one
``:time_lacks``    hash    id -> "times longest_ms": how often in a row it was given back for lack of time
``:distant``       hash    id -> "since_ms attempt": a worker that does not see its checkpoint passed it over
                           then, or runs it as this attempt
``:summary``       hash    uid, cursor, kept: what viewers have read of the result stream up to the cursor
``:live``          hash    id -> "attempt total", then the newest of what the running attempt has printed
``:live_heads``    hash    id -> "attempt total" of the same: shows what is new without its text
=================  ======  ==========================================================================
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

from queue_eval.errors import UsageError
from queue_eval.model.shape import NARROW, Shape
from queue_eval.transport.urls import unless_url

CAMPAIGNS = "qe:campaigns"
"""zset: campaign by creation time (ms)."""

RESTING = f"qe:resting:{{{CAMPAIGNS}}}"
"""zset: campaign by when (ms) it was laid to rest: workers look at it no more. It lies in the slot of
`CAMPAIGNS`."""

SWEPT = "qe:resting:swept"
"""string: some worker has checked all resting campaigns; expires when the next may."""

PRUNED = "qe:pruned"
"""string: some driver has looked for expired campaigns; expires when the next may."""

WORKERS = "qe:workers"
"""zset: worker by the time (ms) of its last heartbeat."""

NOTICES = "qe:notices"
"""stream: what workers had better look at soon (new campaign, cancel, drain). A notice only saves time: each
heartbeat finds the same."""

COLUMNS = (
    "meta", "configs", "scheduled", "pending", "workers", "attempts", "priorities", "results", "index",
    "failed", "cancelled", "failures", "outputs", "fingerprints", "requests", "wake", "roster",
    "widths", "wide", "reserving", "wake_wide",
)  # fmt: skip

EXTRA_COLUMNS = (
    "reports", "report_heads", "reported", "stops", "checkpoints", "give_backs", "tags", "time_lacks",
    "distant", "summary", "live", "live_heads",
)  # fmt: skip
"""What only some campaigns have. Scripts are not given these keys, each of which would cost time in every
call: they make their names (``scripts/include/extra_key.lua``)."""

DRAIN = "qe:drain"
"""set: workers asked to drain."""

DEFAULT_QUEUE = "default"
"""The label of campaigns that were opened without one."""

_CAMPAIGN_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")


def is_campaign_name(name: str) -> bool:
    return _CAMPAIGN_NAME.fullmatch(name) is not None


def check_campaign_name(name: str) -> str:
    """Return `name`, or raise UsageError unless it may name a campaign."""
    if not isinstance(name, str) or not _CAMPAIGN_NAME.fullmatch(name):
        raise UsageError(
            f"campaign name {unless_url(name)!r} is not valid; use 1 to 100 letters, digits, '.', '_' or '-'"
        )
    return name


def check_queue_name(name: str) -> str:
    """Return `name`, or raise UsageError unless it may be the label of a campaign."""
    if not isinstance(name, str) or not _CAMPAIGN_NAME.fullmatch(name):
        raise UsageError(
            f"queue {unless_url(name)!r} is not valid; use 1 to 100 letters, digits, '.', '_' or '-'"
        )
    return name


def machine_key(machine: str) -> str:
    """hash: worker -> "pid born" of the workers on one machine, which can see whether the others live.
    Expires when none has served there for a while."""
    return f"qe:machine:{machine}"


def worker_key(worker: str) -> str:
    """Key of what a live worker says about itself (JSON, expires with its lease)."""
    return f"qe:worker:{worker}"


def nudge_key(worker: str) -> str:
    """zset: a worker adds to it, so that its own wake listener returns and blocks on another set of keys."""
    return f"{worker_key(worker)}:nudge"


@dataclass(frozen=True)
class Keys:
    """The keys of one campaign."""

    campaign: str

    def column(self, name: str) -> str:
        return f"qe:{{{self.campaign}}}:{name}"

    def held(self, worker: str) -> str:
        return self.column(f"held:{worker}")

    def pending_of(self, shape: Shape) -> str:
        """The key of the pending jobs of this shape."""
        return self.column("pending" if shape == NARROW else f"pending:{shape}")

    @cached_property
    def columns(self) -> tuple[str, ...]:
        return tuple(self.column(name) for name in COLUMNS)

    @cached_property
    def hiring(self) -> str:
        """string: the driver that may start workers now, by its token; expires."""
        return self.column("hiring")

    @cached_property
    def drivers(self) -> str:
        """hash: "machine pid born" of a driver that uses local workers -> "digest noted", their launch digest
        and when (ms) it was noted. Expires."""
        return self.column("drivers")

    @cached_property
    def closing(self) -> str:
        """hash: a closing driver that waits for replicas writes it and deletes it at once (`replicas`)."""
        return self.column("closing")

    @cached_property
    def meta(self) -> str:
        return self.column("meta")

    @cached_property
    def configs(self) -> str:
        return self.column("configs")

    @cached_property
    def results(self) -> str:
        return self.column("results")

    @cached_property
    def index(self) -> str:
        return self.column("index")

    @cached_property
    def reported(self) -> str:
        return self.column("reported")

    @cached_property
    def wake(self) -> str:
        return self.column("wake")

    @cached_property
    def wake_wide(self) -> str:
        return self.column("wake_wide")
