"""A site of several hosts for each test, or a reason why there can be none."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.hosts import network, why_not
from tests.support.hosts_site import Site, can_tls


@pytest.fixture(scope="session")
def _hosts_allowed() -> None:
    if reason := why_not():
        pytest.skip(reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    used = getattr(item, "funcargs", {})
    for one in filter(None, map(used.get, ("site", "place", "compose"))):
        if report.failed:
            report.sections.append(("what the processes on the hosts said", one.network.said()))
    return report


@pytest.fixture
def site(_hosts_allowed: None, request: pytest.FixtureRequest) -> Iterator[Site]:
    tls = getattr(request, "param", None)
    if tls and not can_tls():
        pytest.skip("no server program here can do TLS (Debian: apt-get install redis-server)")
    with network() as net:
        site = Site(net, tls=tls)
        try:
            yield site
        finally:
            site.close()
