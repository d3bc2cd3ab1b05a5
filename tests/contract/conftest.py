"""The one suite over all executors: each test runs with each method."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from queue_eval.states import Method
from tests.support.executor_harness import Harness
from tests.support.ray_cluster import RayCluster


LOCAL = [Method.THREAD, Method.PROCESS, Method.SUBPROCESS]
FORWARDING = [Method.RAY]


@pytest.fixture(params=[*LOCAL, *(pytest.param(method, marks=pytest.mark.long) for method in FORWARDING)])
def method(request: pytest.FixtureRequest) -> Method:
    return Method(request.param)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[RayCluster]:
    cluster = RayCluster()
    yield cluster
    cluster.close()


@pytest.fixture
def forward(method: Method, request: pytest.FixtureRequest) -> dict[str, Any] | None:
    """Where attempts of this method are forwarded to."""
    if method is Method.RAY:
        return request.getfixturevalue("ray_cluster").forward()
    return None


@pytest.fixture
def make(method: Method, forward: dict[str, Any] | None) -> Iterator[Callable[..., Harness]]:
    """Makes executors: ``make(function="do", **plan)``."""
    made: list[Harness] = []

    def start(function: str = "do", **keywords: object) -> Harness:
        made.append(Harness(method, function, forward=forward, **keywords))
        return made[-1]

    yield start
    for harness in made:
        harness.close()
