"""The one suite over all executors: each test runs with each method."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from queue_eval.states import Method
from tests.support.executor_harness import Harness


@pytest.fixture(params=["thread", "process", "subprocess"])
def method(request: pytest.FixtureRequest) -> Method:
    return Method(request.param)


@pytest.fixture
def make(method: Method) -> Iterator[Callable[..., Harness]]:
    """Makes executors: ``make(function="do", **plan)``."""
    made: list[Harness] = []

    def start(function: str = "do", **keywords: object) -> Harness:
        made.append(Harness(method, function, **keywords))
        return made[-1]

    yield start
    for harness in made:
        harness.close()
