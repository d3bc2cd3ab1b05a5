"""A campaign as a worker serves it: what to run, what it holds, what it has not settled yet."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from queue_eval.campaign.commands import CampaignQueue
from queue_eval.campaign.keys import DEFAULT_QUEUE
from queue_eval.errors import FunctionError
from queue_eval.function import signing
from queue_eval.machine import machine_id
from queue_eval.model.attempt import Token
from queue_eval.model.codec import decode
from queue_eval.model.moves import Settlement
from queue_eval.model.states import Method
from queue_eval.runtime.environment import working_folder
from queue_eval.runtime.pipe import Setup
from queue_eval.transport.access import Access
from workers.executors import check_method
from workers.executors.protocol import Plan
from workers.loads import Loads
from workers.options import WorkerOptions
from workers.pace import Pace

_LATELY = 1000
_WORTH_MS = 50.0
_LARGE_BYTES = 16_384


@dataclass
class Served:
    """State of one campaign in this worker; guarded by the lock of the book.

    `tokens`: id -> attempt of every lease held. `in_hand`: slots of the attempts that the runner has
    and that have not ended. `outbox`: ended, not settled. `may_have_work`: the server may have jobs waiting.
    """

    queue: CampaignQueue
    plan: Plan
    tokens: dict[int, int] = field(default_factory=dict)
    in_hand: int = 0
    wide: dict[Token, int] = field(default_factory=dict)
    """The slots of each attempt in hand that takes more than one."""
    proofs: dict[Token, tuple[str, str]] = field(default_factory=dict)
    """Of the attempts that the runner has: the request and the digest of their leases."""
    outbox: deque[Settlement] = field(default_factory=deque)
    doubtful: deque[Settlement] = field(default_factory=deque)
    """Errors and deaths of a moment ago: they are given back should this worker be told to stop."""
    lately: deque[Settlement] = field(default_factory=lambda: deque(maxlen=_LATELY))
    """Acknowledged; a server that goes back in time forgets the last ones."""
    may_have_work: bool = True
    took_marker: bool = False
    """This worker popped the marker that says so, and owes the others a look."""
    not_before: float | None = None
    """No call before this moment (monotonic, s), for the last one failed; None when it did not."""
    due_at: float | None = None
    """When the next scheduled job is due, as far as this worker knows (monotonic, s)."""
    missing_slots: int = 0
    """Slots taken by abandoned threads, or all while those that it forwards to are away; below zero when
    they have room for more."""
    pace: Pace = field(default_factory=Pace)
    loads: Loads = field(default_factory=Loads)
    is_on_roster: bool = False
    reserved: int = 0
    """The slots that are to run free for a wide job; 0 for none."""
    aside: bool = False
    """Wide jobs wait that were not for this worker when it last asked: their marker is not its business."""
    held_back: bool = False
    """So do narrow ones, beyond its share in advance; it asks again when a slot runs free."""
    trouble: str = ""
    """Why nothing of it that is forwarded runs; "" when all is well."""
    unknown: dict[Token, float] = field(default_factory=dict)
    """What the server says is held here and is not, and since when (monotonic, s). Of the lease keeper."""
    unanswered: str = ""
    """The request of a call to a node of a cluster whose reply never came: it may have leased jobs, which the
    same request gets."""
    trading: CampaignQueue | None = None
    """The campaign over the exchange's own link, once that has spoken of it."""
    is_trading: bool = False
    """A call is under way, which may bring leases."""
    is_withdrawn: bool = False
    """The campaign is not for this worker any more: what runs is finished, and nothing more is leased."""

    @property
    def slots(self) -> int:
        """How many attempts of it may run at once, if no other campaign's do."""
        return self.plan.slots - self.missing_slots

    def may_lease(self, now: float) -> bool:
        """Whether it has work, as far as is known, that this worker may ask for."""
        return self.may_have_work and not self.loads.is_paused(now)

    @property
    def is_forwarding(self) -> bool:
        return self.plan.setup.forward is not None

    def let_go(self, token: Token) -> None:
        """This attempt is in the runner's hands no more."""
        self.in_hand -= self.wide.pop(token, 1)
        self.proofs.pop(token, None)

    def strike_off(self, job: int, attempt: int) -> None:
        """This lease is held no more; the job may be held again by now, as another attempt."""
        if self.tokens.get(job) == attempt:
            del self.tokens[job]

    def remember(self, settlement: Settlement) -> None:
        """It is acknowledged. Kept for a while if it was not quickly made, and is not large."""
        if settlement.run_ms >= _WORTH_MS and len(settlement.body) + len(settlement.output) <= _LARGE_BYTES:
            self.lately.append(settlement)

    @property
    def lane(self) -> str:
        """What the runner knows it by: two campaigns that had one name after the other are not mixed up."""
        return self.queue.uid

    @property
    def name(self) -> str:
        return self.queue.campaign


def label_of(meta: dict[str, bytes]) -> str:
    """The label by which workers are chosen for a campaign."""
    return meta.get("queue", b"").decode(errors="replace") or DEFAULT_QUEUE


def make_plan(
    queue: CampaignQueue, meta: dict[str, bytes], options: WorkerOptions, access: Access
) -> Plan:
    """What to run for a campaign, by its meta.

    Raises FunctionError when it is not to be run here (a bad signature, malformed options), and
    MethodUnavailableError when it cannot.
    """
    # Whoever chooses a folder chooses what is in a module of any name: with a list, not the campaign.
    allow = options.allow
    try:
        name = meta["function"].decode()
        method = Method(meta["method"].decode())
        campaign_options = decode(meta["options"])
        path = tuple(str(folder) for folder in campaign_options["path"])
        kwargs = dict(campaign_options["kwargs"])
        time_limit_s = _time_limit(campaign_options["time_limit"])
        forward = _forward(campaign_options.get("forward"))
        revision = int(meta["revision"])
        values = str(campaign_options.get("values", "json"))
        payload = meta.get("payload") or None
        signature = meta.get("signature", b"").decode()
        code = _code(campaign_options.get("code"))
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise FunctionError(f"campaign {queue.campaign!r} is malformed: {error!r}") from error
    opening = signing.Opening(
        queue.campaign, queue.uid, revision, name, method.value, label_of(meta), meta["options"],
        payload or b"",
    )  # fmt: skip
    signing.verify(access.key, opening, signature)  # first: what is not signed may be anything
    if values not in ("json", "text"):
        raise FunctionError(f"values={values!r} is not known to this worker; upgrade its queue_eval")
    check_method(method)
    if allow is not None:
        is_script = code is not None and code["script"] is not None
        allow.check(name, method, is_by_value=payload is not None or is_script)
        if is_script and payload is None:
            raise FunctionError(
                f"{name} runs from a script, which this worker's list of modules does not bind, and cannot "
                "travel by value; move the function to a module"
            )
        path = (working_folder() or "/",)
        if code is not None:
            code = code | {"path": [], "pins": {}, "exact": False}
    if forward is not None:
        if code is not None:  # it runs in processes of others, with what they have
            code = code | {"exact": False, "script": None}
        forward = {
            **forward, "campaign": queue.campaign, "uid": queue.uid, "revision": revision,
            "time_limit_s": time_limit_s,
        }  # fmt: skip
        if method is Method.RQ and forward["url"] is None:
            forward |= {"url": access.url, "ca": access.ca}
    allowed = allow.modules if allow is not None else None
    setup = Setup(
        name, payload, path, kwargs, threads=1, forward=forward, allowed=allowed, values=values, code=code
    )
    return Plan(
        method, setup, options.slots, time_limit_s, options.python, revision, options.board,
        options.memory_limit, options.jobs_per_child, options.library_threads, queue.campaign,
    )  # fmt: skip


def _time_limit(said: Any) -> float | None:
    if said is None:
        return None
    limit_s = float(said)
    if not 0 < limit_s < math.inf:
        raise ValueError(f"time limit {limit_s}")
    return limit_s


def _forward(said: Any) -> dict[str, Any] | None:
    return None if said is None else dict(said)


def _code(said: Any) -> dict[str, Any] | None:
    """How the driver finds its code, and whether this is its machine; None of an earlier build's."""
    if said is None:
        return None
    script = said.get("script")
    return {
        "prefix": str(said["prefix"]),
        "python": str(said["python"]),
        "path": [str(entry) for entry in said["path"]],
        "pins": {str(name): str(file) for name, file in said["pins"].items()},
        "script": None if script is None else {
            "file": str(script["file"]), "digest": str(script["digest"]), "spec": str(script["spec"]),
            "argv": [str(word) for word in script["argv"]],
        },
        "exact": said["machine"] == machine_id(),
        "file": None if said.get("file") is None else str(said["file"]),
    }  # fmt: skip
