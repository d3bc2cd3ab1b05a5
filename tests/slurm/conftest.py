"""A cluster of Slurm for each test, or a reason why there can be none."""

from __future__ import annotations

import faulthandler
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from queue_eval.server.lifecycle import start_server
from tests.slurm.cluster import Cluster, why_not
from tests.support.slurm_search import Allocations, Search
from tests.support.slurm_training import Training


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    begin = getattr(item, "funcargs", {}).get("begin")
    if report.failed and begin is not None:
        report.sections += [("what the workers said", each.output()) for each in begin.searches]
    return report


class Begin:
    """Submits the 200 evaluations of a test, ``begin()``, or one training, ``begin.training()``."""

    def __init__(self, cluster: Cluster, home: Path) -> None:
        self.searches: list[Allocations] = []
        self._cluster = cluster
        self._home = home

    def __call__(self, *, short_s: float = 1.0) -> Search:
        search = Search(self._cluster, self._home, short_s=short_s)
        self.searches.append(search)
        return search

    def training(self, *, step_s: float) -> Training:
        training = Training(self._cluster, self._home, step_s=step_s)
        self.searches.append(training)
        return training


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    if reason := why_not():
        pytest.skip(reason)
    # These tests last longer than after what time pytest shows where it hangs.
    faulthandler.cancel_dump_traceback_later()
    folder = Path(tempfile.mkdtemp(prefix="qe-slurm-"))
    made = Cluster(folder)
    try:
        made.up()
        yield made
    finally:
        made.down()
        shutil.rmtree(folder)


@pytest.fixture
def begin(cluster: Cluster, own_home: Path) -> Iterator[Begin]:
    start_server(own_home, keep=True)
    made = Begin(cluster, own_home)
    yield made
    for search in made.searches:
        search.close()
    # Before its server: a worker whose server has gone would wait for it.
    cluster.down()
