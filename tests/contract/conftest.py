"""The one suite over all executors: each test runs with each method."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from queue_eval.model.states import Method
from tests.support.executor_harness import Harness
from tests.support.marks import long, soak
from tests.support.ray_cluster import RayCluster
from tests.support.rq_fleet import RqFleet, RqRedis

LOCAL = [Method.THREAD, Method.PROCESS, Method.SUBPROCESS]
FLEETS = {"rq": "rq.Worker", "rq-simple": "rq.SimpleWorker"}


@pytest.fixture(
    params=[*LOCAL, *long("ray", "rq"), *soak("rq-simple")],
)
def execution(request: pytest.FixtureRequest) -> str:
    """A method, and for RQ also the kind of its workers."""
    return str(request.param)


@pytest.fixture
def method(execution: str) -> Method:
    return Method(execution.removesuffix("-simple"))


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[RayCluster]:
    cluster = RayCluster()
    yield cluster
    cluster.close()


@pytest.fixture(scope="session")
def rq_fleets() -> Iterator[dict[str, RqFleet]]:
    """By kind of RQ worker."""
    server = RqRedis()
    fleets = {name: RqFleet(server.url, worker_class=kind) for name, kind in FLEETS.items()}
    yield fleets
    for fleet in fleets.values():
        fleet.close()
    server.close()


@pytest.fixture
def others(execution: str, request: pytest.FixtureRequest) -> dict[str, Any]:
    """What a harness must know of those that attempts of this method are forwarded to."""
    if execution in FLEETS:
        fleet: RqFleet = request.getfixturevalue("rq_fleets")[execution]
        return {"forward": fleet.forward(), "find_children": fleet.children}
    if execution == Method.RAY:
        cluster: RayCluster = request.getfixturevalue("ray_cluster")
        return {"forward": cluster.forward(), "find_children": cluster.children}
    return {}


@pytest.fixture
def make(method: Method, others: dict[str, Any]) -> Iterator[Callable[..., Harness]]:
    """Makes executors: ``make(function="do", **plan)``."""
    made: list[Harness] = []

    def start(function: str = "do", **keywords: object) -> Harness:
        made.append(Harness(method, function, **others, **keywords))
        return made[-1]

    yield start
    for harness in reversed(made):
        harness.close()
