"""A campaign as a worker serves it: what to run, what it holds, what it has not settled yet."""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass, field

from queue_eval import signing
from queue_eval.codec import decode
from queue_eval.errors import FunctionError
from queue_eval.moves import Settlement
from queue_eval.pipe import Setup
from queue_eval.queue import CampaignQueue
from queue_eval.states import Method
from workers.executors import check_method
from workers.executors.protocol import Plan
from workers.options import WorkerOptions
from workers.pace import Pace

log = logging.getLogger(__name__)


@dataclass
class Served:
    """State of one campaign in this worker; guarded by the lock of the book.

    `tokens`: id -> attempt of every lease held. `in_hand`: attempts given to the runner and not ended.
    `outbox`: ended, not settled. `may_have_work`: the server may have jobs waiting.
    """

    queue: CampaignQueue
    plan: Plan
    tokens: dict[int, int] = field(default_factory=dict)
    in_hand: int = 0
    outbox: deque[Settlement] = field(default_factory=deque)
    may_have_work: bool = True
    took_marker: bool = False
    """This worker popped the marker that says so, and owes the others a look."""
    not_before: float = 0.0
    """No trade before this moment, after one that failed (monotonic, s)."""
    due_at: float | None = None
    """When the next scheduled job is due, as far as this worker knows (monotonic, s)."""
    missing_slots: int = 0
    """Slots taken by abandoned threads."""
    pace: Pace = field(default_factory=Pace)
    is_on_roster: bool = False

    def strike_off(self, job: int, attempt: int) -> None:
        """This lease is held no more; the job may be held again by now, as another attempt."""
        if self.tokens.get(job) == attempt:
            del self.tokens[job]

    @property
    def lane(self) -> str:
        """What the runner knows it by: two campaigns that had one name after the other are not mixed up."""
        return self.queue.uid

    @property
    def name(self) -> str:
        return self.queue.campaign


def make_plan(
    queue: CampaignQueue, meta: dict[str, bytes], options: WorkerOptions, key: bytes | None
) -> Plan:
    """What to run for a campaign, by its meta.

    Raises FunctionError when it is not to be run here (a bad signature, malformed options), and
    MethodUnavailableError when it cannot.
    """
    try:
        name = meta["function"].decode()
        method = Method(meta["method"].decode())
        campaign_options = decode(meta["options"])
        path = tuple(str(folder) for folder in campaign_options["path"])
        kwargs = dict(campaign_options["kwargs"])
        limit = campaign_options["time_limit"]
        time_limit_s = None if limit is None else float(limit)
        revision = int(meta["revision"])
        payload = meta.get("payload") or None
        signature = meta.get("signature", b"").decode()
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise FunctionError(f"campaign {queue.campaign!r} is malformed: {error!r}") from error
    check_method(method)
    if payload is not None:
        signing.verify(key, queue.campaign, name, payload, signature)
    setup = Setup(name, payload, path, kwargs, threads=1)
    return Plan(method, setup, options.slots, time_limit_s, options.python, revision)
