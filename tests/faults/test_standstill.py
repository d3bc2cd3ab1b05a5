"""A worker that stood still (SIGSTOP, a suspended machine) has not read what ended meanwhile."""

from __future__ import annotations

import signal
import time

from queue_eval.model.states import State
from tests.support.fault_fleet import Fleet, check_all_recorded, wait_state
from tests.support.waiting import wait_until

_LIMIT_S = 0.6


def test_a_job_that_ended_while_its_worker_stood_still_is_not_late(fleet: Fleet, campaign: str) -> None:
    with fleet.driver(campaign, time_limit=_LIMIT_S) as evaluator:
        worker = fleet.worker(lease="20s")
        evaluator.submit([fleet.gated()])
        fleet.wait_begun(1)
        late_at = time.monotonic() + _LIMIT_S
        worker.send_signal(signal.SIGSTOP)
        fleet.open_gate()
        wait_until(lambda: fleet.finished()[1])
        wait_until(lambda: time.monotonic() > late_at)
        worker.send_signal(signal.SIGCONT)
        queue = fleet.queue(campaign)
        wait_state(queue, State.SUCCEEDED, 1)
        check_all_recorded(queue, 1)
        assert not queue.failures(1)
        assert fleet.begun()[1] == 1


def test_the_dead_are_struck_off_the_register(fleet: Fleet, campaign: str) -> None:
    with fleet.driver(campaign):
        dead = fleet.worker("--name", "dead", lease="300ms")
        queue = fleet.queue(campaign)

        def registered() -> set[bytes]:
            return set(queue.link.call(lambda client: client.zrange("qe:workers", 0, -1)))

        wait_until(lambda: b"dead" in registered())
        dead.kill()
        # One of another machine, which nobody saw die.
        queue.link.call(lambda client: client.zadd("qe:workers", {"elsewhere": 1}))
        fleet.worker("--name", "alive", lease="300ms")
        wait_until(lambda: registered() == {b"alive"})
