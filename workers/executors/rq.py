"""``rq``: forwards attempts to a fleet of RQ workers, as RQ jobs."""

from __future__ import annotations

import selectors
from pathlib import Path

from workers.executors.child_limit import ChildLimit
from workers.executors.forward import Forwarder
from workers.executors.protocol import Executor, Plan

_BACKEND = Path(__file__).with_name("rq_backend.py")


def rq_executor(plan: Plan, selector: selectors.BaseSelector, limit: ChildLimit) -> Executor:
    return Forwarder(plan, _BACKEND, selector, limit, tells_begun=True, outlives=True)
