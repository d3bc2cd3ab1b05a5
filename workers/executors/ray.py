"""``ray``: attempts are forwarded to a Ray cluster, or to a Ray of its own."""

from __future__ import annotations

import os
import selectors
from pathlib import Path

from workers.executors.forward import Forwarder
from workers.executors.protocol import Executor, Plan

_TOKEN = Path("~/.ray/auth_token").expanduser()
_BACKEND = Path(__file__).with_name("ray_backend.py")


def ray_executor(plan: Plan, selector: selectors.BaseSelector) -> Executor:
    return Forwarder(
        plan, _BACKEND, selector, tells_begun=plan.time_limit_s is not None, env=_environment()
    )


def _environment() -> dict[str, str]:
    """Ray shows its token to a cluster whose address is given only when told to; one that asks for none
    does not mind."""
    own = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
    has_token = "RAY_AUTH_TOKEN" in own or "RAY_AUTH_TOKEN_PATH" in own or _TOKEN.exists()
    if has_token:
        own.setdefault("RAY_AUTH_MODE", "token")
    return own
