"""Drivers, workers, a user and the server's clock in any interleaving: the scripts and the model must agree.

    pytest tests/model                                      a few seconds, the same runs each time
    pytest tests/model -m soak                              a minute
    QUEUE_EVAL_TEST_HUNT=3000 pytest tests/model -m soak    so many runs, other ones each time

What fails is shrunk to a few calls, and printed as a script.
"""

from __future__ import annotations

import itertools
import os
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from queue_eval.model.moves import Extended, Lease, Reclaimed, Release, Settled, Settlement, Submission
from queue_eval.model.states import Outcome, State
from tests.model.model import Model, Options, Token, state_of
from tests.model.real import Real, check_same
from tests.model.still_server import StillLink
from tests.support.lua_campaign import batch, is_gone, settlement, submission

HUNT = int(os.environ.get("QUEUE_EVAL_TEST_HUNT", "0"))
START_MS = 1_800_000_000_000
WORKERS = ("w1", "w2", "w3")
WORKER_SLOTS = 3
LEASE_MS = 30_000
DRIVERS = ("d1", "d2")

_numbers = itertools.count(1)

lengths_ms = st.sampled_from([1, 400, 1999, 2000, 2001, 5_000, 14_000, 16_000, 29_999, 30_001, 3_600_000])
workers = st.sampled_from(WORKERS)
indices = st.integers(0, 40)
"""Chooses from what there is, counted from the newest."""
options = st.builds(
    Options,
    max_attempts=st.integers(1, 3), max_losses=st.integers(1, 3),
    retry_first_ms=st.sampled_from([0, 10, 1000]), retry_max_ms=st.sampled_from([0, 1500, 60_000]),
    most_running=st.sampled_from([None, None, 1, 4]),
)  # fmt: skip
outcomes = st.sampled_from(
    [Outcome.OK, Outcome.OK, Outcome.STOPPED, Outcome.ERROR, Outcome.TIMEOUT, Outcome.LOST]
)
again = st.sampled_from([False, False, True])
"""Whether the reply is lost, and the call repeated."""


class Campaign(RuleBasedStateMachine):
    """What drivers, workers and users do, with what they may believe: tokens long gone, ids of no job."""

    link: StillLink

    @initialize(options=options)
    def begin(self, options: Options) -> None:
        self.link.set_clock(START_MS)
        self.model = Model(options, START_MS)
        self.real = Real(self.link, f"m{next(_numbers)}", options)
        self.leases: dict[str, list[Lease]] = {worker: [] for worker in WORKERS}
        """All that each worker was ever given, the newest last."""
        self.lives = dict.fromkeys(WORKERS, "a")
        self.numbers = itertools.count(1)
        self.agree = True
        self.sent: list[tuple[str, dict[str, Any]]] = []
        self.save()

    def teardown(self) -> None:
        if not hasattr(self, "real"):
            return
        try:
            if self.agree:
                self.finish()
        finally:
            self.real.close()
        assert is_gone(lambda: self.real.extend("w1", LEASE_MS, []))

    def finish(self) -> None:
        """Everything that is open can still be done."""
        self.call("open", False, options=replace(self.model.options, most_running=None))
        self.call("pause", False, paused=False)
        while any(job.entry is None for job in self.model.jobs.values()):
            self.wait(3_600_000)
            for _ in range(len(WORKERS) + 2):
                self.call("reclaim", False, grace_ms=0, worker="")
            settled = self.settle("last", [], room=100, slots=100)
            self.settle("last", [report(lease, Outcome.OK) for lease in settled.leases])

    # Drivers and users

    @rule(
        driver=st.sampled_from(DRIVERS), configs=st.lists(st.integers(1, 3), min_size=1, max_size=4),
        priority=st.sampled_from([0, 0, -1, 1]), delay_ms=st.sampled_from([0, 0, 0, 1, 60_000]),
        slots=st.sampled_from([1, 1, 1, 2, 3, 5]), again=again,
    )  # fmt: skip
    def enqueue(
        self, driver: str, configs: list[int], priority: int, delay_ms: int, slots: int, again: bool
    ) -> None:
        self.call(
            "enqueue", again, driver=driver, sequence=next(self.numbers),
            submissions=[submission(config) for config in configs], reuse=False, priority=priority,
            delay_ms=delay_ms, slots=slots,
        )  # fmt: skip

    @rule(
        configs=st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=3),
        priority=st.sampled_from([0, 1]), again=again,
    )  # fmt: skip
    def reuse(self, configs: list[tuple[int, int]], priority: int, again: bool) -> None:
        self.call(
            "enqueue", again, driver="d1", sequence=next(self.numbers),
            submissions=self.counted(configs), reuse=True, priority=priority, delay_ms=0, slots=1,
        )  # fmt: skip

    @rule(picked=st.lists(indices, min_size=1, max_size=3), again=again)
    def cancel(self, picked: list[int], again: bool) -> None:
        self.call("cancel", again, ids=self.some_ids(picked))

    @rule(picked=st.lists(indices, min_size=1, max_size=6), again=again)
    def retry(self, picked: list[int], again: bool) -> None:
        self.call("retry", again, ids=self.some_ids(picked))

    @rule(again=again)
    def retry_all_failed(self, again: bool) -> None:
        self.call("retry", again, ids=[job.id for job in self.model.jobs.values() if job.state == "failed"])

    @rule(paused=st.booleans(), again=again)
    def pause(self, paused: bool, again: bool) -> None:
        self.call("pause", again, paused=paused)

    @rule(options=options, again=again)
    def open(self, options: Options, again: bool) -> None:
        self.call("open", again, options=options)

    # Workers

    @rule(
        worker=workers, reports=st.lists(st.tuples(indices, outcomes), max_size=4), room=st.integers(0, 3),
        prefetch=st.sampled_from([0, 0, 1, 2]), has_marker=st.booleans(), again=again,
    )  # fmt: skip
    def trade(
        self, worker: str, reports: list[tuple[int, Outcome]], room: int, prefetch: int, has_marker: bool,
        again: bool,
    ) -> None:  # fmt: skip
        if has_marker:
            for wide in (False, True):
                self.real.take_marker(wide=wide)
        self.settle(worker, self.reports(worker, reports), room, prefetch, again=again)

    @rule(worker=workers, reports=st.lists(st.tuples(indices, outcomes), min_size=1, max_size=4), again=again)
    def deliver(self, worker: str, reports: list[tuple[int, Outcome]], again: bool) -> None:
        """A spool, or the last call of a worker."""
        self.settle(worker, self.reports(worker, reports), lease_ms=0, again=again)

    @rule(worker=workers, picked=st.lists(indices, max_size=4), again=again)
    def extend(self, worker: str, picked: list[int], again: bool) -> None:
        self.call("extend", again, worker=worker, lease_ms=LEASE_MS, tokens=self.some_tokens(worker, picked))

    @rule(
        worker=workers, picked=st.lists(indices, max_size=4), reason=st.sampled_from(["", "drain"]),
        delayed=st.booleans(), leave=st.booleans(), again=again,
    )  # fmt: skip
    def release(
        self, worker: str, picked: list[int], reason: str, delayed: bool, leave: bool, again: bool
    ) -> None:
        releases = [Release(*token, reason, delayed) for token in self.some_tokens(worker, picked)]
        self.call("release", again, worker=worker, releases=releases, leave=leave)

    @rule(
        worker=workers, picked=st.lists(indices, min_size=1, max_size=3),
        numbers=st.lists(st.integers(1, 300), max_size=3, unique=True).map(sorted),
        save=st.sampled_from([0, 0, 1, 2]), looks=st.booleans(), proves=st.booleans(), again=again,
    )  # fmt: skip
    def tell(
        self, worker: str, picked: list[int], numbers: list[int], save: int, looks: bool, proves: bool,
        again: bool,
    ) -> None:  # fmt: skip
        known = self.leases[worker]
        leases = [known[-1 - i] for i in picked if i < len(known)]
        batches = [
            batch(
                lease if proves else (lease.id, lease.attempt), [(n, 0) for n in numbers], looks=looks,
                checkpoint=f"{save} here" if save else "",
            )
            for lease in leases
        ]  # fmt: skip
        self.call("report", again, worker=worker, batches=batches)

    @rule(picked=st.lists(indices, min_size=1, max_size=4), again=again)
    def stop(self, picked: list[int], again: bool) -> None:
        self.call("stop", again, ids=self.some_ids(picked))

    @rule(worker=workers)
    def live_again(self, worker: str) -> None:
        """Another process under the same name, which knows nothing."""
        self.lives[worker] += "a"

    # Those who take back

    @rule(grace_ms=st.sampled_from([0, 1000, 30_000]), again=again)
    def reclaim(self, grace_ms: int, again: bool) -> None:
        self.call("reclaim", again, grace_ms=grace_ms, worker="")

    @rule(worker=workers, again=again)
    def reclaim_dead(self, worker: str, again: bool) -> None:
        self.call("reclaim", again, grace_ms=30_000, worker=worker)

    # The world

    @rule(length_ms=lengths_ms)
    def wait(self, length_ms: int) -> None:
        self.model.now_ms += length_ms
        self.link.set_clock(self.model.now_ms)

    @rule(early_ms=st.sampled_from([0, 1]))
    def wait_until_something_is_due(self, early_ms: int) -> None:
        for moment in self.model.next_ms()[:1]:
            self.wait(moment - self.model.now_ms - early_ms)

    @rule()
    def restart_server(self) -> None:
        self.model.was_restarted = True
        self.real.restart()

    @rule()
    def save(self) -> None:
        self.saved = deepcopy(self.model), self.real.save()

    @rule()
    def go_back(self) -> None:
        """A power cut, or a failover to a replica that was behind: ids and tokens will be given again."""
        model, data = self.saved
        self.model, now_ms = deepcopy(model), self.model.now_ms
        self.real.go_back(data)
        self.model.now_ms = now_ms
        self.restart_server()
        # A driver counts anew.
        self.sent = [(name, arguments) for name, arguments in self.sent if not arguments.get("reuse")]

    @rule(
        undone=st.lists(st.integers(1, 3), min_size=1, max_size=3),
        made=st.lists(st.integers(1, 3), min_size=1, max_size=3),
        worker=workers, other=workers, outcome=outcomes, again=again,
    )  # fmt: skip
    def run_what_is_undone(
        self, undone: list[int], made: list[int], worker: str, other: str, outcome: Outcome, again: bool
    ) -> None:
        """And settle it when its ids and tokens are those of others."""
        common = {"priority": 2, "delay_ms": 0, "slots": 1, "again": False}
        self.save()
        self.enqueue(driver="d1", configs=undone, **common)
        leases = self.settle(worker, [], room=3).leases
        self.go_back()
        self.enqueue(driver="d2", configs=made, **common)
        self.settle(other, [], room=3)
        self.settle(worker, [report(lease, outcome) for lease in leases], again=again)

    @rule(picked=indices, again=again)
    def arrive_late(self, picked: int, again: bool) -> None:
        """A call that was given up, sent again and overtaken."""
        if self.sent:
            name, arguments = self.sent[-1 - picked % len(self.sent)]
            self.call(name, again, **arguments)

    # What they have at hand

    def counted(self, configs: list[tuple[int, int]]) -> list[Submission]:
        """A driver counts from 1, so that each occurrence is at most one more than there are jobs."""
        there = {config: len(self.model.copies.get(str(config), ())) for config, _ in configs}
        submissions = []
        for config, occurrence in configs:
            submissions.append(submission(config, min(occurrence, there[config] + 1)))
            there[config] = max(there[config], submissions[-1].occurrence)
        return submissions

    def some_ids(self, picked: list[int]) -> list[int]:
        """Some of them twice, some of no job."""
        return [len(self.model.jobs) + 1 - i for i in picked if i <= len(self.model.jobs) + 1]

    def some_tokens(self, worker: str, picked: list[int]) -> list[Token]:
        known = self.leases[worker]
        chosen = (known[-1 - i] for i in picked if i < len(known))
        return list(dict.fromkeys((lease.id, lease.attempt) for lease in chosen))

    def reports(self, worker: str, reports: list[tuple[int, Outcome]]) -> list[Settlement]:
        known = self.leases[worker]
        chosen = {len(known) - 1 - i: outcome for i, outcome in reports if i < len(known)}
        return [report(known[place], outcome) for place, outcome in chosen.items()]

    def settle(
        self, worker: str, settlements: list[Settlement], room: int = 0, prefetch: int = 0, *,
        lease_ms: int = LEASE_MS, slots: int = WORKER_SLOTS, again: bool = False,
    ) -> Settled:  # fmt: skip
        request = f"{self.lives.get(worker, 'a')}-{next(self.numbers)}"
        reply: Settled = self.call(
            "settle", again, worker=worker, settlements=settlements, lease_ms=lease_ms, request=request,
            room=room, prefetch=prefetch, slots=slots,
        )  # fmt: skip
        self.leases.setdefault(worker, []).extend(reply.leases)
        return reply

    # Both sides

    def call(self, name: str, again: bool, **arguments: Any) -> Any:
        """The reply of the server, which is that of the model; and nothing more when the call is repeated."""
        if (name, arguments) not in self.sent:
            self.sent.append((name, arguments))
        reply = self.call_once(name, arguments)
        if again:
            before = state_of(self.model)
            self.call_once(name, arguments)
            assert name == "reclaim" or state_of(self.model) == before, f"{name} repeated does more than once"
        return reply

    def call_once(self, name: str, arguments: dict[str, Any]) -> Any:
        self.agree = False
        reply = getattr(self.real, name)(**arguments)
        more = {"order": reply.ids} if isinstance(reply, Reclaimed) else {}
        is_repeat = name == "settle" and self.model.requests.get(arguments["worker"]) == arguments["request"]
        expected = getattr(self.model, name)(**arguments, **more)
        assert _in_order(reply, is_repeat) == _in_order(expected, is_repeat), name
        check_same(self.model, self.real)
        for entry in self.model.results:
            config = self.model.jobs[entry.job].config
            assert entry.state != State.SUCCEEDED or entry.body.endswith(b" of " + config.encode()), (
                "a result counts for a job of its own config only"
            )
        self.agree = True
        return reply


def report(lease: Lease, outcome: Outcome) -> Settlement:
    """Its body tells what was run."""
    body = b"%d.%d of %s" % (lease.id, lease.attempt, lease.config)
    return settlement(lease, outcome, body, output=b"printed" if lease.attempt % 2 else b"")


def _in_order(reply: Any, is_repeat: bool) -> Any:
    """What is one set, whatever its order."""
    if isinstance(reply, Extended):
        return replace(reply, unknown=sorted(reply.unknown))
    if isinstance(reply, Settled) and is_repeat:
        return replace(reply, leases=sorted(reply.leases, key=lambda lease: lease.id))
    return reply


def play(link: StillLink, examples: int, steps: int) -> None:
    Campaign.link = link
    chosen = settings(
        max_examples=examples, stateful_step_count=steps, deadline=None, database=None,
        derandomize=not HUNT, print_blob=False, phases=(Phase.generate, Phase.shrink),
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
    )  # fmt: skip
    run_state_machine_as_test(Campaign, settings=chosen)


def test_the_scripts_do_what_the_protocol_says(still_link):
    play(still_link, 40, 40)


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_the_scripts_do_what_the_protocol_says_for_a_minute(still_link):
    play(still_link, HUNT or 120, 80)
