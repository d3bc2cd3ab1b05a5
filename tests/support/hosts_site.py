"""A site as users have one: a server, a driver and three worker hosts, and what can be seen of them."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from queue_eval.campaign.commands import CampaignCommands
from queue_eval.errors import CampaignNotFoundError, ServerError
from queue_eval.model.states import State
from queue_eval.server.home import ServerHome
from queue_eval.server.programs import server_binary
from queue_eval.transport.access import Access
from queue_eval.transport.link import Link
from tests.support.hosts import Host, Network, Process
from tests.support.waiting import wait_until

COMMAND = (sys.executable, "-P", "-m", "queue_eval")
LEASE_S = 2.0
PATIENCE_S = 60.0
"""How long a condition may take to come true: connections that broke without a sign time out after 10 s."""


class Site:
    """Its hosts are `server`, `driver`, and `workers`. The last two have copies of the access files, each its
    own kind, and come over TLS, where a server can do it, unless `tls` says else."""

    def __init__(self, network: Network, *, tls: bool | None = None) -> None:
        self.network = network
        self._tls = "--tls" if tls or (tls is None and can_tls()) else "--no-tls"
        self.home = network.shared / "home"
        self.log = network.shared / "side.log"
        self.log.touch()
        self.log.chmod(0o666)
        self.server = network.host("server")
        self.driver = network.host("driver")
        self.workers = [network.host(f"node{number}") for number in (1, 2, 3)]
        self._links: list[Link] = []

    def start_server(self, host: Host | None = None, *options: str) -> None:
        host = host or self.server
        host.check(*COMMAND, "server", "start", "--home", self.home, "--host", host.name, self._tls, *options)

    def stop_server(self, host: Host | None = None) -> None:
        (host or self.server).check(*COMMAND, "server", "stop", "--home", self.home)

    @property
    def server_pid(self) -> int:
        """As the test sees it."""
        config = str(ServerHome(self.home).config)
        found = [
            int(entry.name)
            for entry in Path("/proc").iterdir()
            if entry.name.isdigit() and config in _command_line(entry)
        ]
        (pid,) = found
        return pid

    def give_access(self, host: Host) -> Path:
        """A copy of the access file on `host`; of the workers' one, but for the driver."""
        kind = "access.json" if host is self.driver else "worker-access.json"
        copy = host.folder / "given.json"
        # Replaced whole: whoever reads it has the old one or the new one.
        Path(shutil.copy(self.home / kind, f"{copy}.new")).replace(copy)
        return copy

    def start_worker(
        self, host: Host, *options: str, home: Path | None = None, slots: int = 1, lease_s: float = LEASE_S
    ) -> Process:
        return host.start(
            *COMMAND, "worker", "-n", str(slots), "--lease", f"{lease_s}s",
            *(("--home", home) if home else ("--access", self.give_access(host))), *options,
        )  # fmt: skip

    def start_driver(
        self, campaign: str, configs: list[dict[str, Any]], *options: str, home: Path | None = None
    ) -> Process:
        file = self.driver.folder / f"{campaign}.configs"
        file.write_text(json.dumps(configs))
        return self.driver.start(
            sys.executable, "-m", "tests.support.hosts_driver", campaign, file, self._results(campaign),
            self._option("home", home) if home else self._option("access", self.give_access(self.driver)),
            *options,
        )  # fmt: skip

    def results(self, campaign: str, driver: Process) -> list[list[Any]]:
        """What the driver gathered: x, state, result and host of each job."""
        assert driver.wait(PATIENCE_S) == 0, driver.output
        found: list[list[Any]] = json.loads(self._results(campaign).read_text())
        return found

    def configs(self, count: int, **more: Any) -> list[dict[str, Any]]:
        return [{"x": x, "log": str(self.log)} | more for x in range(count)]

    def gated(self, count: int) -> list[dict[str, Any]]:
        """Jobs that run until the gate of the host they run on is open."""
        return self.configs(count, gate=str(self.network.shared / "gate"))

    def open_gate(self, *hosts: Host) -> None:
        for host in hosts:
            (self.network.shared / f"gate-{host.name}").touch()

    def executions(self, what: str = "start") -> dict[int, list[str]]:
        """The hosts on which each job began (or came to its end), in order."""
        found = defaultdict(list)
        for line in self.log.read_text().splitlines():
            event, job, host = line.split()
            if event == what:
                found[int(job)].append(host)
        return found

    def wait_begun(self, host: Host, count: int = 1) -> list[int]:
        """Until that many jobs have begun there; which."""

        def begun() -> list[int]:
            found = [job for job, hosts in self.executions().items() if host.name in hosts]
            return found if len(found) >= count else []

        found: list[int] = wait_until(begun, PATIENCE_S)
        return found

    def hosts_alive(self) -> set[str]:
        """Hosts whose workers the server counts as living, asked on the server."""
        listed = json.loads(self.server.check(*COMMAND, "workers", "--json", "--home", self.home))
        return {worker["host"] for worker in listed}

    def wait_alive(self, *hosts: Host) -> None:
        wait_until(lambda: {host.name for host in hosts} == self.hosts_alive(), PATIENCE_S)

    def queue(self, campaign: str) -> CampaignCommands:
        """The campaign, once it is there, by the server's unix socket, which no broken network concerns."""
        record = ServerHome(self.home).read()
        assert record is not None
        url = f"unix://:{record.password}@{record.socket}"
        self._links.append(Link(Access(url, record.key.encode(), None), name="test"))
        found: CampaignCommands = wait_until(lambda: _attached(self._links[-1], campaign), PATIENCE_S)
        return found

    def wait_succeeded(self, campaign: str, at_least: int) -> None:
        queue = self.queue(campaign)
        wait_until(lambda: queue.snapshot().counts[State.SUCCEEDED] >= at_least, PATIENCE_S)

    def check_recorded(self, campaign: str, count: int, driver: Process) -> None:
        """All invariants: each submitted job succeeded, stands in the result stream once and in no other
        place, was executed to its end at least once, and its driver gathered it once with its own result."""
        gathered = self.results(campaign, driver)
        assert [found[:3] for found in gathered] == [[x, "succeeded", 2 * x] for x in range(count)]
        queue = self.queue(campaign)
        snapshot = queue.snapshot()
        assert snapshot.conserved
        assert snapshot.last_id == count
        assert {state: n for state, n in snapshot.counts.items() if n} == {State.SUCCEEDED: count}
        entries, after = [], "0-0"
        while page := queue.read_after(after):
            entries += page
            after = page[-1].entry
        assert Counter(entry.id for entry in entries) == Counter(range(1, count + 1))
        assert set(range(1, count + 1)) <= self.executions("end").keys()

    def close(self) -> None:
        for link in self._links:
            link.close()

    def _option(self, name: str, path: Path) -> str:
        return f"{name}={json.dumps(str(path))}"

    def _results(self, campaign: str) -> Path:
        return self.driver.folder / f"{campaign}.results"


def can_tls() -> bool:
    """Whether there is a server program that can encrypt."""
    try:
        return bool(server_binary(with_tls=True))
    except ServerError:
        return False


def _attached(link: Link, campaign: str) -> CampaignCommands | None:
    try:
        return CampaignCommands.attach(link, campaign)[0]
    except CampaignNotFoundError:
        return None


def _command_line(process: Path) -> list[str]:
    try:
        return os.fsdecode((process / "cmdline").read_bytes()).split("\0")
    except OSError:
        return []
