"""``process``: one warm child process per slot, replaced when it dies or runs out of time."""

from __future__ import annotations

import selectors

from workers.executors.child_limit import ChildLimit
from workers.executors.dispatcher import Shape
from workers.executors.pool import ChildPool
from workers.executors.protocol import Executor, Plan


def process_executor(plan: Plan, selector: selectors.BaseSelector, limit: ChildLimit) -> Executor:
    shape = Shape(children=plan.slots, threads=1, one_attempt_each=False)
    return ChildPool(plan, shape, selector, limit)
