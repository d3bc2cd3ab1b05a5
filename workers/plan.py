"""What a worker is to run for a campaign, read from the campaign's meta and checked."""

from __future__ import annotations

import math
from typing import Any

from queue_eval.campaign.commands import CampaignCommands
from queue_eval.campaign.keys import DEFAULT_QUEUE
from queue_eval.errors import FunctionError
from queue_eval.function import signing
from queue_eval.machine import machine_id
from queue_eval.model.codec import decode
from queue_eval.model.states import Method
from queue_eval.runtime.environment import working_folder
from queue_eval.runtime.pipe import Setup
from queue_eval.transport.access import Access
from workers.executors import check_method
from workers.executors.protocol import Plan
from workers.job_folders import inside
from workers.options import WorkerOptions


def label_of(meta: dict[str, bytes]) -> str:
    """The label by which workers are chosen for a campaign."""
    return meta.get("queue", b"").decode(errors="replace") or DEFAULT_QUEUE


def make_plan(
    queue: CampaignCommands, meta: dict[str, bytes], options: WorkerOptions, access: Access
) -> Plan:
    """What to run for a campaign, by its meta.

    Raises FunctionError when the campaign must not run here (a bad signature, malformed options), and
    MethodUnavailableError when it cannot run here.
    """
    # A campaign that chooses a folder chooses the code of every module name. With a list of allowed modules,
    # it may not choose.
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
        told_inside = inside(
            campaign_options, campaign=queue.campaign, uid=queue.uid, worker=options.name, home=options.home,
            mailroom=options.mailroom, time_limit_s=time_limit_s, ends_at=options.ends_at,
        )  # fmt: skip
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise FunctionError(f"campaign {queue.campaign!r} is malformed: {error!r}") from error
    opening = signing.Opening(
        queue.campaign, queue.uid, revision, name, method.value, label_of(meta), meta["options"],
        payload or b"",
    )  # fmt: skip
    signing.verify(access.key, opening, signature)  # verify first: what is not signed may be anything
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
        if code is not None:  # it runs in processes of a backend, with the code that is there
            code = code | {"exact": False, "script": None}
        forward = {
            **forward, "campaign": queue.campaign, "uid": queue.uid, "revision": revision,
            "time_limit_s": time_limit_s,
        }  # fmt: skip
        if method is Method.RQ and forward["url"] is None:
            forward |= {"url": access.url, "ca": access.ca}
    allowed = allow.modules if allow is not None else None
    setup = Setup(
        name, payload, path, kwargs, threads=1, forward=forward, allowed=allowed, values=values, code=code,
        inside=told_inside,
    )  # fmt: skip
    return Plan(
        method, setup, options.slots, time_limit_s, options.python, revision, options.board,
        options.memory_limit, options.jobs_per_child, options.library_threads, queue.campaign,
    )  # fmt: skip


def _time_limit(value: Any) -> float | None:
    if value is None:
        return None
    limit_s = float(value)
    if not 0 < limit_s < math.inf:
        raise ValueError(f"time limit {limit_s}")
    return limit_s


def _forward(value: Any) -> dict[str, Any] | None:
    return None if value is None else dict(value)


def _code(value: Any) -> dict[str, Any] | None:
    """How the driver finds its code, and whether this is its machine. None: an earlier build opened it."""
    if value is None:
        return None
    script = value.get("script")
    return {
        "prefix": str(value["prefix"]),
        "python": str(value["python"]),
        "path": [str(entry) for entry in value["path"]],
        "pins": {str(name): str(file) for name, file in value["pins"].items()},
        "script": None if script is None else {
            "file": str(script["file"]), "digest": str(script["digest"]), "spec": str(script["spec"]),
            "argv": [str(word) for word in script["argv"]],
        },
        "exact": value["machine"] == machine_id(),
        "file": None if value.get("file") is None else str(value["file"]),
    }  # fmt: skip
