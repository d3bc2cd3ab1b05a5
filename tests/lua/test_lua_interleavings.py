"""Random moves of drivers, workers and a user; some calls are repeated, some arrive much too late."""

from __future__ import annotations

import random
from typing import Any

import pytest

from queue_eval.campaign.commands import CampaignCommands
from queue_eval.model.moves import Release, Settlement
from queue_eval.model.states import Outcome, State
from tests.support.lua_campaign import Columns, LuaCampaign, Token, settlement, submission
from tests.support.marks import long, soak

WORKERS = ("w1", "w2", "w3")
STEPS = 150


class LossyQueue(CampaignCommands):
    """Now and then a call is sent again at once, and an old one of anybody's arrives once more."""

    def __init__(self, base: CampaignCommands, rng: random.Random) -> None:
        super().__init__(base.link, base.campaign, base.uid)
        self._rng = rng
        self._sent: list[tuple[Any, ...]] = []

    def _run(self, script: str, *arguments: Any) -> Any:
        reply = super()._run(script, *arguments)
        if self._rng.random() < 0.2 and script not in ("cancel", "retry", "reclaim"):
            reply = super()._run(script, *arguments)  # the first reply was lost
        self._sent.append((script, *arguments))
        if self._rng.random() < 0.1:
            super()._run(*self._rng.choice(self._sent))
        return reply


class World:
    """What drivers and workers believe, and the moves they make."""

    def __init__(self, campaign: LuaCampaign, seed: int) -> None:
        self.rng = random.Random(seed)
        self.campaign = campaign
        campaign.queue = LossyQueue(campaign.queue, self.rng)
        self.queue = campaign.queue
        self.known: dict[str, set[Token]] = {worker: set() for worker in WORKERS}
        self.submitted = 0
        self.seen: dict[int, int] = {}
        """How often each config was submitted with reuse."""

    def step(self) -> None:
        moves = [self.enqueue, self.reuse, *[self.trade] * 6, self.release, self.die, self.cancel, self.retry]
        moves += [self.extend, self.campaign.make_due]
        self.rng.choice(moves)()

    def enqueue(self) -> None:
        count = self.rng.randint(1, 4)
        delay_ms = self.rng.choice([0, 0, 60_000])
        slots = self.rng.choice([1, 1, 2, 3])
        self.campaign.add(count, priority=self.rng.randint(-1, 1), delay_ms=delay_ms, slots=slots)
        self.submitted += count

    def reuse(self) -> None:
        config = self.rng.randint(1, 3)
        self.seen[config] = self.seen.get(config, 0) + 1
        self.campaign.send([submission(-config, self.seen[config])], reuse=True, driver="e")
        self.submitted += 1

    def trade(self) -> None:
        worker = self.rng.choice(WORKERS)
        reports = [self.report(token) for token in self.some(worker)]
        settled = self.campaign.settle(
            worker, *reports, room=(room := self.rng.randint(0, 3)), prefetch=self.rng.randint(0, 2), slots=3
        )
        started = [lease.slots for lease in settled.leases if lease.started]
        assert sum(started) <= room, "no more begins than there is room for"
        prefetched = [lease.slots for lease in settled.leases if not lease.started]
        assert all(slots == 1 for slots in prefetched), "wide ones wait nowhere"
        self.known[worker] |= {(lease.id, lease.attempt) for lease in settled.leases}

    def report(self, token: Token) -> Settlement:
        outcome = self.rng.choice([Outcome.OK, Outcome.OK, Outcome.ERROR, Outcome.TIMEOUT, Outcome.LOST])
        return settlement(token, outcome)

    def release(self) -> None:
        worker = self.rng.choice(WORKERS)
        releases = [Release(*token, self.rng.choice(["", "drain"])) for token in self.some(worker)]
        self.queue.release(worker, releases, leave=self.rng.random() < 0.3)

    def die(self) -> None:
        """Or be cut off: what it knew may still be reported."""
        self.campaign.die(self.rng.choice(WORKERS))

    def extend(self) -> None:
        worker = self.rng.choice(WORKERS)
        self.queue.extend(worker, 60_000, self.some(worker))

    def cancel(self) -> None:
        self.queue.cancel(self.any_ids(2))

    def retry(self) -> None:
        self.queue.retry(self.any_ids(5))

    def any_ids(self, count: int) -> list[int]:
        return [self.rng.randint(0, self.submitted + 1) for _ in range(count)]

    def some(self, worker: str) -> list[Token]:
        """Tokens the worker has been given, valid or not."""
        known = sorted(self.known[worker])
        return self.rng.sample(known, min(len(known), self.rng.randint(0, 3)))

    def check(self) -> None:
        columns = Columns.read(self.campaign.client, self.queue)
        columns.check()
        assert int(columns.meta[b"last_id"]) == self.submitted, "nothing was added twice"
        most = int(columns.meta.get(b"most_running") or self.submitted)
        assert sum(map(len, columns.held.values())) <= most, "no more is held than the campaign allows"
        for worker, held in columns.held.items():
            held_tokens = {(int(job), int(value.split()[0])) for job, value in held.items()}
            assert held_tokens <= self.known[worker.decode()], "a worker knows of all it holds"

    def finish(self) -> None:
        """Everything that is open can still be done."""
        for worker in WORKERS:
            self.campaign.die(worker)
        while self.queue.snapshot().outstanding:
            self.campaign.make_due()
            for token in self.campaign.lease("last", room=100, slots=100):
                self.campaign.ok("last", token)


def play(campaign: LuaCampaign, seed: int, steps: int) -> None:
    world = World(campaign, seed)
    for _ in range(steps):
        world.step()
        world.check()
    world.finish()
    assert all(entry.attempts >= (entry.state == State.SUCCEEDED) for entry in campaign.results())


@pytest.mark.parametrize("seed", range(12))
def test_the_laws_hold_under_any_interleaving(make_campaign, seed):
    limit = {"most_running": 4} if seed % 3 == 0 else {}
    play(make_campaign(max_attempts=2, max_losses=2, retry_first_ms=60_000, **limit), seed, STEPS)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", [*long(*range(100, 110)), *soak(*range(110, 130))])
def test_the_laws_hold_under_many_long_interleavings(make_campaign, seed):
    play(make_campaign(max_attempts=2, max_losses=2, retry_first_ms=60_000), seed, 5 * STEPS)
