"""`docs/deploy.md`, followed to the letter: its scripts and commands, on the hosts that its blocks name."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from queue_eval.server.programs import server_binary
from tests.support.hosts import ROOT, Network, Process, network
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.hosts, pytest.mark.long, pytest.mark.timeout(300)]

PAGE = (ROOT / "docs/deploy.md").read_text()
MODEL = '''
import time
def run(config):
    time.sleep(0.05)
    return -((config["x"] - 3) ** 2)
'''
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)


def blocks(section: str) -> tuple[str, list[tuple[str, str]]]:
    """The script as the section has it, and its commands, each with the host that it names."""
    (text,) = re.findall(rf"^## {section}\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    found = BLOCK.findall(text)
    lines = [line for language, line in found if language == "python"]
    script = BLOCK.findall(PAGE)[0][1]
    for line in lines:
        script = re.sub(r"^METHOD, OPTIONS = .*\n", lambda _, line=line: line, script, flags=re.MULTILINE)
    commands = []
    for language, block in found:
        if language == "bash":
            host, _, rest = block.partition("\n")
            commands.append((host.removeprefix("# "), rest))
    return script, commands


class Place:
    """The hosts of one section. They share a home folder and the folder of the project."""

    def __init__(self, net: Network) -> None:
        self.network = net
        self.folder = net.shared
        (self.folder / "model.py").write_text(MODEL)
        self.environment = {
            "HOME": str(self.folder),
            "PATH": f"{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin",
            "PYTHONPATH": f"{ROOT}:{self.folder}",
        }

    def start(self, host: str, commands: str) -> Process:
        made = self.network.hosts.get(host) or self.network.host(host)
        script = f"cd {self.folder}\n{commands}"
        return made.start("bash", "-e", "-c", script, environment=self.environment)

    def run(self, host: str, commands: str) -> None:
        process = self.start(host, commands)
        assert process.wait(120) == 0, process.output

    def take(self, script: str) -> None:
        (self.folder / "search.py").write_text(script)

    def check_results(self) -> None:
        lines = (self.folder / "results.csv").read_text().splitlines()
        assert lines[0].startswith("x,id,objective")
        found = sorted((int(x), float(y)) for x, _, y, *_ in (line.split(",") for line in lines[1:]))
        assert found == [(x, -((x - 3) ** 2)) for x in range(40)]


@pytest.fixture
def place(_hosts_allowed: None) -> Iterator[Place]:
    with network() as net:
        yield Place(net)


def test_a_laptop(place):
    script, ((host, commands),) = blocks("A laptop")
    place.take(script)
    place.run(host, commands)
    place.check_results()


def test_one_big_machine(place):
    script, (begin, end) = blocks("One big machine")
    place.take(script)
    place.run(*begin)
    place.check_results()
    place.run(*end)
    log = place.folder / "worker.log"
    wait_until(lambda: "draining" in log.read_text() or "ended" in log.read_text())


def test_a_cluster_with_a_shared_folder(place):
    script, (server, worker, driver) = blocks("A cluster with a shared folder")
    place.take(script)
    place.run(*server)
    nodes = [place.start(name, worker[1]) for name in ("node1", "node2")]
    place.run(*driver)
    place.check_results()
    login = place.network.hosts["login"]
    command = ("queue-eval", "status", "parabola", "--json", "--home", place.folder / "search")
    status = json.loads(login.check(*command, environment=place.environment))
    assert {worker["host"] for worker in status["workers"]} == {"node1", "node2"}
    assert all(node.is_running for node in nodes)


def test_a_ray_that_is_there(place):
    pytest.importorskip("ray")
    script, ((host, commands),) = blocks("A Ray that is there")
    place.take(script)
    place.start(host, "ray start --head --num-cpus=2 --include-dashboard=false --disable-usage-stats --block")
    head = place.network.hosts[host]
    wait_until(lambda: head.run("ray", "status", environment=place.environment).returncode == 0, 60)
    place.run(host, commands)
    place.check_results()


def test_an_rq_fleet_that_is_there(place):
    pytest.importorskip("rq")
    script, (worker, driver) = blocks("An RQ fleet that is there")
    place.take(script)
    redis = place.start("rqredis", f"{server_binary()} --protected-mode no --save ''")
    wait_until(lambda: "Ready to accept" in redis.output)
    fleet = place.start(*worker)
    place.run(*driver)
    place.check_results()
    assert fleet.is_running
    assert (place.folder / "rq-worker.log").read_text().count("Job OK") == 40
