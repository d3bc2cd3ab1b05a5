"""One node of a cluster is away: campaigns on the others go on. Real nodes, on loopback."""

from __future__ import annotations

import itertools
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from queue_eval import Evaluator
from queue_eval.campaign.keys import CAMPAIGNS, WORKERS, Keys
from tests.support.cli import start_cli
from tests.support.marks import long, soak
from tests.support.networks import Node, cluster, place_of
from tests.support.waiting import wait_until
from workers.cluster_listener import MOST_BLOCKED
from workers.listener import _BLOCK_S

LEASE_S = 2
AWAY_S = 3 * LEASE_S
PATIENCE_S = 60
"""Other tests may keep the machine busy."""

StartWorker = Callable[..., subprocess.Popen[str]]


@pytest.fixture(scope="module")
def nodes() -> Iterator[list[Node]]:
    # Without full coverage, as those set it who want nodes not to depend on each other.
    with cluster("--cluster-require-full-coverage", "no", "--cluster-node-timeout", "2000") as started:
        yield started


@pytest.fixture
def url(nodes: list[Node]) -> str:
    return "redis+cluster://" + ",".join(node.address for node in nodes)


@pytest.fixture(autouse=True)
def _whole(nodes: list[Node], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("QUEUE_EVAL_KEY", "k" * 32)
    yield
    for node in nodes:
        if node.process.poll() is not None:
            node.start()
        node.thaw()
    wait_until(lambda: all(node.is_in_cluster() for node in nodes), PATIENCE_S)
    for node in nodes:
        node.client().flushall()


@pytest.fixture
def worker(tmp_path: Path, url: str) -> Iterator[StartWorker]:
    """Starts workers as processes."""
    started: list[subprocess.Popen[str]] = []

    def start(*words: object) -> subprocess.Popen[str]:
        words = ("worker", "--url", url, "-n", 2, "--lease", f"{LEASE_S}s", *words)
        started.append(start_cli(*words, home=tmp_path / "home", cwd=tmp_path))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


_numbers = itertools.count()


def name_on(place: int) -> str:
    """A name, never given before, of a campaign on this node."""
    return next(
        name for number in _numbers if place_of(Keys(name := f"c{number}").meta) == place
    )  # fmt: skip


def note(config):
    """Sleeps as long as it is told, and notes each execution."""
    with Path(config["notes"]).open("a") as notes:
        notes.write(f"{config['x']}\n")
    time.sleep(config["s"])
    return config["x"]


class Search:
    """A campaign on one node, with a note of each execution."""

    def __init__(self, url: str, place: int, folder: Path) -> None:
        self.name = name_on(place)
        self._notes = folder / f"{self.name}.notes"
        self._numbers = itertools.count()
        self.evaluator = Evaluator.create(
            note, method="thread", method_kwargs={"url": url, "home": folder, "campaign": self.name}
        )
        self.submitted = 0

    def is_attended(self) -> bool:
        return bool(self.evaluator._session.queue.snapshot().workers)

    def submit(self, count: int, sleep_s: float) -> None:
        notes = str(self._notes)
        self.evaluator.submit(
            [{"x": next(self._numbers), "s": sleep_s, "notes": notes} for _ in range(count)]
        )
        self.submitted += count

    def executions(self) -> list[int]:
        return sorted(map(int, self._notes.read_text().split())) if self._notes.exists() else []

    def check_whole(self) -> None:
        """Every job was executed once, and gathered once."""
        self.evaluator.gather("ALL", timeout=PATIENCE_S)
        done = self.evaluator.jobs_done
        assert sorted(job.result for job in done) == list(range(self.submitted))
        assert self.executions() == list(range(self.submitted))
        charged = {job.id: (job.attempts, job.worker) for job in done if job.attempts != 1}
        assert not charged, (self.name, place_of(Keys(self.name).meta), charged)


def take_away(node: Node, how: str) -> Callable[[], None]:
    """Returns what brings it back."""
    if how == "freeze":
        node.freeze()
        return node.thaw
    node.kill()
    return node.start


def check_one_by_one(search: Search, until: float) -> None:
    """Its jobs are executed, and their results arrive, whatever waits elsewhere."""
    while time.monotonic() < until:
        search.submit(1, 0.01)
        assert search.evaluator.gather("BATCH", 1, timeout=PATIENCE_S)


@pytest.mark.parametrize(
    ("how", "place"),
    [
        pytest.param("freeze", place_of(CAMPAIGNS), marks=pytest.mark.long),
        pytest.param("kill", place_of(WORKERS), marks=pytest.mark.long),
        *(
            pytest.param(how, place, marks=pytest.mark.soak)
            for how in ("freeze", "kill") for place in range(3)
        ),
    ],
)  # fmt: skip
def test_the_campaign_on_another_node_goes_on(nodes, url, worker, tmp_path, how, place):
    held, healthy = Search(url, place, tmp_path), Search(url, (place + 1) % 3, tmp_path)
    worker()
    with held.evaluator, healthy.evaluator:
        healthy.submit(1, AWAY_S + LEASE_S)  # a lease that must outlive the absence
        held.submit(12, 0.3)
        wait_until(lambda: len(held.executions()) > 1 and healthy.executions(), PATIENCE_S)
        bring_back = take_away(nodes[place], how)
        check_one_by_one(healthy, time.monotonic() + AWAY_S)
        bring_back()
        healthy.check_whole()
        held.check_whole()


@pytest.mark.parametrize(
    "place", [*long(place_of(WORKERS)), *soak(*range(3))]
)
def test_a_worker_starts_and_drains_while_a_node_is_away(nodes, url, worker, tmp_path, place):
    held, healthy = Search(url, place, tmp_path), Search(url, (place + 1) % 3, tmp_path)
    with held.evaluator, healthy.evaluator:
        held.submit(3, 0.05)
        first = worker()
        held.check_whole()
        held.submit(2, 1.0)
        wait_until(lambda: len(held.executions()) == 5, PATIENCE_S)
        bring_back = take_away(nodes[place], "freeze")
        first.terminate()  # what it runs ends, and goes to disk
        assert first.wait(timeout=PATIENCE_S) == 0
        worker("--campaign", healthy.name, "--campaign", held.name)
        healthy.submit(1, 0.01)
        assert healthy.evaluator.gather("BATCH", 1, timeout=PATIENCE_S)
        bring_back()
        held.check_whole()
        healthy.check_whole()


@pytest.mark.parametrize("how", [*long("kill"), *soak("freeze")])
def test_all_nodes_are_away_and_come_back(nodes, url, worker, tmp_path, how):
    searches = [Search(url, place, tmp_path) for place in range(3)]
    # Here every campaign waits, so nothing tells how busy the machine is: a lease that forgives some seconds.
    lease_s = 2 * LEASE_S
    worker("--lease", f"{lease_s}s")
    with searches[0].evaluator, searches[1].evaluator, searches[2].evaluator:
        for search in searches:
            search.submit(6, 0.3)
        wait_until(lambda: all(search.executions() for search in searches), PATIENCE_S)
        ways_back = [take_away(node, how) for node in nodes]
        time.sleep(2.5 * lease_s)  # longer than two leases
        for bring_back in ways_back:
            bring_back()
        for search in searches:
            search.check_whole()


@pytest.mark.long
def test_many_campaigns_cost_no_threads(nodes, url, worker, tmp_path):
    few = measure(url, worker, tmp_path, [Search(url, place, tmp_path) for place in range(3)])
    many = measure(url, worker, tmp_path, [Search(url, number % 3, tmp_path) for number in range(60)])
    assert many[0] <= few[0] + 2, (few, many)
    assert many[1] <= few[1] + MOST_BLOCKED + 6, (few, many)
    assert many[2] <= few[2] + 20, (few, many)
    print(few, many)


def measure(url: str, worker: StartWorker, tmp_path: Path, searches: list[Search]) -> tuple[int, int, float]:
    """Threads, descriptors and MB of a worker that serves these and is idle; and each hears of its jobs."""
    process = worker("-n", 1, *(word for one in searches for word in ("--campaign", one.name)))
    try:
        for search in searches:
            wait_until(lambda search=search: search.is_attended(), PATIENCE_S)
        took_s = []
        for search in searches[:2] + searches[-1:]:
            for _ in range(5):
                began_at = time.monotonic()
                search.submit(1, 0.0)
                search.evaluator.gather("ALL", timeout=PATIENCE_S)
                took_s.append(time.monotonic() - began_at)
            search.check_whole()
        # One by one they are heard of at once: none waits until the worker asks anyway.
        assert sorted(took_s)[len(took_s) // 2] < _BLOCK_S / 4
        parent = psutil.Process(process.pid)
        return parent.num_threads(), parent.num_fds(), parent.memory_info().rss / 2**20
    finally:
        for search in searches:
            search.evaluator.close()
        process.terminate()
        process.wait(timeout=PATIENCE_S)
