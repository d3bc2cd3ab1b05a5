"""Unnamed campaigns expire: from the driver's close to the command line, and in passing. No other does."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from queue_eval import CampaignNotFoundError, Evaluator, UsageError
from queue_eval.campaign.expiry import closed_ms_of, prune_in_passing
from queue_eval.campaign.keys import CAMPAIGNS, PRUNED, Keys
from queue_eval.server.lifecycle import start_server, stop_server
from queue_eval.transport.access import find_access
from queue_eval.transport.link import Link
from tests.support.cli import ROOT, cli, cli_here, complaint, document
from tests.support.fake_worker import FakeWorker
from tests.support.processes import Started
from tests.support.waiting import wait_until

NAME = "tests.support.functions:run"
DAY_MS = 86_400_000


class Bench:
    """A server of its own, whose campaigns may be made to look old."""

    def __init__(self, home: Path) -> None:
        self.home = home
        start_server(home, fsync="everysec", keep=True)
        self.link = Link(find_access(None, home), name="test")
        self.client: redis.Redis = self.link.client
        self._workers: list[FakeWorker] = []

    def create(self, **keywords: Any) -> Evaluator:
        return Evaluator.create(NAME, "thread", {"home": self.home, "local_workers": False} | keywords)

    def serve(self, campaign: str, function: Callable[[dict[str, Any]], Any] = lambda c: c["x"]) -> None:
        self._workers.append(FakeWorker(self.home, campaign, function))

    def finished(self, jobs: int = 2, **keywords: Any) -> str:
        """A campaign whose driver has gathered all and closed."""
        with self.create(**keywords) as evaluator:
            evaluator.submit([{"x": x} for x in range(jobs)])
            self.serve(evaluator.campaign)
            assert len(evaluator.gather("ALL")) == jobs
        return evaluator.campaign

    def age(self, campaign: str, days: float) -> None:
        """As if it had been created, and closed if it was, so long ago."""
        self.end_workers()
        meta = Keys(campaign).meta
        if closed := self.client.hget(meta, "closed"):
            ms, *rest = closed.decode().split()
            self.client.hset(meta, "closed", " ".join([str(int(ms) - round(days * DAY_MS)), *rest]))
        self.client.zincrby(CAMPAIGNS, -days * DAY_MS, campaign)

    def prune(self, *words: object) -> set[str]:
        self.end_workers()
        said = document(cli_here("campaigns", "--prune", "--json", *words, home=self.home))
        return {one["campaign"] for one in said["pruned"]}

    def all(self) -> set[str]:
        return {name.decode() for name in self.client.zrange(CAMPAIGNS, 0, -1)}

    def keys(self, campaign: str) -> list[bytes]:
        return list(self.client.scan_iter(f"qe:\\{{{campaign}}}:*"))

    def closed_ms(self, campaign: str) -> int | None:
        meta = self.client.hgetall(Keys(campaign).meta)
        return closed_ms_of({field.decode(): value for field, value in meta.items()})

    def end_workers(self) -> None:
        """They fail where their campaign is purged."""
        while self._workers:
            self._workers.pop().close()

    def close(self) -> None:
        self.end_workers()
        self.link.close()
        stop_server(self.home)


@pytest.fixture
def bench(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    # A tenth of a second may pass here between any two steps.
    monkeypatch.setattr("queue_eval.campaign.expiry._MAX_PRUNING_S", 60.0)
    bench = Bench(own_home)
    yield bench
    bench.close()


def driver_that_is_killed(bench: Bench) -> str:
    """It has gathered every result, and comes to no close."""
    program = (
        "import os, signal\nfrom queue_eval import Evaluator\n"
        f"options = {{'home': {str(bench.home)!r}, 'local_workers': False}}\n"
        f"one = Evaluator.create({NAME!r}, 'thread', options)\n"
        "one.submit([{'x': 1}])\nprint(one.campaign, flush=True)\none.gather('ALL')\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    process = Started([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    with process:
        name = process.stdout.readline().strip()
        bench.serve(name)
        assert process.wait(30) == -signal.SIGKILL
    return name


def with_an_ungathered_result(bench: Bench) -> str:
    with bench.create() as evaluator:
        evaluator.submit([{"x": 1}, {"x": 2}])
        bench.serve(evaluator.campaign)
        wait_until(lambda: bench.client.hlen(Keys(evaluator.campaign).index) == 2)
        next(evaluator.as_completed())
    return evaluator.campaign


def with_an_open_job(bench: Bench) -> str:
    with bench.create() as evaluator:
        evaluator.submit([{"x": 1}])
    return evaluator.campaign


def cancelled_at_its_close(bench: Bench) -> str:
    evaluator = bench.create()
    evaluator.submit([{"x": 1}])
    evaluator.close(cancel=True)
    return evaluator.campaign


def attached_since(bench: Bench) -> str:
    name = bench.finished()
    with Evaluator.attach(name, home=bench.home) as again:
        assert len(again.history()) == 2
    return name


def opened_since(bench: Bench) -> str:
    name = bench.finished()
    bench.finished(3, campaign=name)
    return name


def retried_since(bench: Bench) -> str:
    def fail(config):
        raise ValueError

    with bench.create() as evaluator:
        evaluator.submit([{"x": 1}])
        bench.serve(evaluator.campaign, fail)
        evaluator.gather("ALL")
    assert bench.closed_ms(evaluator.campaign)
    assert cli_here("retry", evaluator.campaign, home=bench.home).returncode == 0
    wait_until(lambda: bench.client.hlen(Keys(evaluator.campaign).index) == 1)
    return evaluator.campaign


def of_the_build_before(bench: Bench) -> str:
    name = bench.finished()
    bench.client.hdel(Keys(name).meta, "expires", "closed")
    return name


STAY = [
    driver_that_is_killed, with_an_ungathered_result, with_an_open_job, cancelled_at_its_close,
    attached_since, opened_since, retried_since, of_the_build_before,
]  # fmt: skip


def test_what_was_gathered_and_closed_goes_with_all_its_keys_and_nothing_else_does(bench):
    stay = {make(bench) for make in STAY} | {bench.finished(keep=True), bench.finished(campaign="named")}
    young = bench.finished()
    old = {bench.finished(), bench.finished(0)}
    for name in stay | old:
        bench.age(name, 15)
    bench.age(young, 13)
    assert bench.prune("--dry-run") == old
    assert bench.all() == stay | {young} | old
    shown = cli("campaigns", "--prune", home=bench.home)
    assert shown.stdout.splitlines()[-1] == "deleted 2 campaigns"
    assert bench.all() == stay | {young}
    assert [bench.keys(name) for name in old] == [[], []]
    assert bench.prune("--older-than", "14d") == set()
    assert bench.prune("--older-than", "12d") == {young}
    assert bench.prune("--older-than", 0) == set()
    assert cli_here("campaigns", "--prune", home=bench.home).stdout == "deleted 0 campaigns\n"
    assert bench.all() == stay
    assert document(cli_here("doctor", "--json", home=bench.home), 0)["ok"]


def test_who_comes_back_to_one_that_has_gone_is_told(bench):
    name = bench.finished()
    assert bench.prune("--older-than", 0) == {name}
    with pytest.raises(CampaignNotFoundError, match="no campaign"):
        Evaluator.attach(name, home=bench.home)


def test_a_driver_that_is_attached_keeps_it_as_long_as_it_likes(bench):
    name = bench.finished()
    with Evaluator.attach(name, home=bench.home) as again:
        bench.age(name, 1000)
        assert bench.prune() == set()
        assert len(again.history()) == 2


def test_a_server_that_is_away_does_not_keep_a_driver_from_closing(bench):
    evaluator = bench.create(url=find_access(None, bench.home).url)
    stop_server(bench.home)
    evaluator.close()


def test_the_next_unnamed_driver_prunes_in_passing_once_an_hour(bench):
    first, second = bench.finished(), bench.finished()
    bench.age(first, 15)
    bench.client.delete(PRUNED)
    with bench.create(campaign="named"):
        assert first in bench.all()
    with bench.create() as third:
        assert bench.all() == {second, third.campaign, "named"}
    assert 3500 < bench.client.ttl(PRUNED) <= 3600
    bench.age(second, 15)
    with bench.create() as fourth:
        assert bench.all() == {second, third.campaign, fourth.campaign, "named"}


def test_what_goes_wrong_in_passing_does_not_keep_a_driver_from_opening(bench):
    old = [bench.finished(0) for _ in range(2)]
    for name in old:
        bench.age(name, 15)
    workers = Keys(old[0]).column("workers")
    bench.client.delete(workers)
    bench.client.lpush(workers, "x")
    bench.client.delete(PRUNED)
    with bench.create() as evaluator:
        assert bench.all() == {old[0], evaluator.campaign}, "one that is damaged keeps no other"
    bench.client.delete(PRUNED, CAMPAIGNS)
    bench.client.lpush(CAMPAIGNS, "x")
    prune_in_passing(bench.link)
    bench.client.delete(CAMPAIGNS)


@pytest.mark.long
def test_at_most_some_are_pruned_in_passing(bench, monkeypatch):
    old = {bench.finished(0) for _ in range(25)}
    for name in old:
        bench.age(name, 15)
    bench.client.delete(PRUNED)
    prune_in_passing(bench.link)
    assert len(bench.all() & old) == 5
    monkeypatch.setattr("queue_eval.campaign.expiry._MAX_PRUNING_S", 0.0)
    bench.client.delete(PRUNED)
    prune_in_passing(bench.link)
    assert len(bench.all() & old) == 4, "one at least, and no more when the time is over"


def test_campaigns_show_when_they_expire(bench):
    named = bench.finished(campaign="named")
    assert "EXPIRES" not in cli_here("campaigns", home=bench.home).stdout
    name = bench.finished()
    rows = {row["campaign"]: row for row in document(cli_here("campaigns", "--json", home=bench.home))}
    assert rows[named]["expires_at"] is None
    assert rows[name]["expires_at"] > rows[name]["created_at"]
    head, *lines = cli_here("campaigns", home=bench.home).stdout.splitlines()
    assert head.split()[-1] == "EXPIRES"
    assert {line.split()[0]: line.split()[-1] == "-" for line in lines} == {named: True, name: False}


def test_doctor_counts_and_says_what_to_do(bench, monkeypatch):
    def findings():
        checks = document(cli_here("doctor", "--json", home=bench.home))["checks"]
        return [(c["status"], c["detail"]) for c in checks if c["name"] == "campaigns"]

    bench.finished()
    with_an_ungathered_result(bench)
    ((status, detail),) = findings()
    assert status == "ok"
    assert detail.startswith("2 on the server, 2 of them finished, 1 of these to expire; every job")
    monkeypatch.setattr("queue_eval.cli.checks._MAX_UNNAMED", 1)
    bench.finished(campaign="named")
    (_, (status, detail)) = findings()
    assert status == "warn"
    assert detail.startswith("2 finished ones that were given no name take room: 1 expire 14 days after")
    assert "queue-eval campaigns --prune --older-than 1d" in detail


def test_wrong_usage(bench):
    for words in (["--older-than", "3d"], ["--dry-run"]):
        assert "go with --prune" in complaint(cli_here("campaigns", *words, home=bench.home), 2)
    assert "is not a duration" in complaint(
        cli_here("campaigns", "--prune", "--older-than", "soon", home=bench.home), 2
    )
    with pytest.raises(UsageError, match="keep is 'yes'; give True or False"):
        bench.create(keep="yes")
