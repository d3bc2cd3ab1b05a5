"""``subprocess``: a new interpreter for each attempt, so that no attempt affects the next one."""

from __future__ import annotations

import selectors

from workers.executors.child_limit import ChildLimit
from workers.executors.dispatcher import Shape
from workers.executors.pool import ChildPool
from workers.executors.protocol import Executor, Plan


def subprocess_executor(plan: Plan, selector: selectors.BaseSelector, limit: ChildLimit) -> Executor:
    shape = Shape(children=plan.slots, threads=1, one_attempt_each=True)
    return ChildPool(plan, shape, selector, limit)
