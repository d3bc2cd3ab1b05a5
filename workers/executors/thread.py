"""``thread``: one child process with a thread per slot.

A thread cannot be killed. At its time limit, or when its job is cancelled, it is abandoned, and its child is
replaced once nothing else runs there. Until then the slot is missing. When the child dies, the attempts of
all its threads are lost. The child owns what all slots own: threads of one process share its cores and GPUs.
"""

from __future__ import annotations

import dataclasses
import selectors

from workers.executors.child_limit import ChildLimit
from workers.executors.dispatcher import Shape
from workers.executors.pool import ChildPool
from workers.executors.protocol import Executor, Plan


def thread_executor(plan: Plan, selector: selectors.BaseSelector, limit: ChildLimit) -> Executor:
    setup = plan.setup.replace(threads=plan.slots)
    shape = Shape(children=1, threads=plan.slots, one_attempt_each=False, by_slot=False)
    return ChildPool(dataclasses.replace(plan, setup=setup), shape, selector, limit)
