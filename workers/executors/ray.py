"""``ray``: forwards attempts to a Ray cluster, or to a Ray of its own."""

from __future__ import annotations

import os
import selectors
from pathlib import Path

from workers.executors.child_limit import ChildLimit
from workers.executors.forward import Forwarder
from workers.executors.protocol import Executor, Plan

_BACKEND = Path(__file__).with_name("ray_backend.py")


def ray_executor(plan: Plan, selector: selectors.BaseSelector, limit: ChildLimit) -> Executor:
    return Forwarder(
        plan, _BACKEND, selector, limit, tells_begun=plan.time_limit_s is not None,
        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
    )  # fmt: skip
