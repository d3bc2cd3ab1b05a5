"""What `docker/` says, done as it says: the image is built, its containers run, each on a host of its own.

No container engine is needed: see `tests.support.hosts_image` for what stands in for it.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support.hosts import ROOT, network
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.hosts, pytest.mark.long, pytest.mark.timeout(600)]

CLI = shutil.which("valkey-cli") or shutil.which("redis-cli")


def new_secrets() -> dict[str, str]:
    """The values of a new `.env`."""
    command = [sys.executable, ROOT / "docker/secrets"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return dict(line.split("=", 1) for line in shlex.split(printed))


@pytest.fixture(scope="module")
def compose(_hosts_allowed: None):
    if os.geteuid() != 0:
        pytest.skip("containers with users of their own need root")
    if CLI is None:
        pytest.skip("neither valkey-cli nor redis-cli is installed (Debian: apt-get install redis-tools)")
    pytest.importorskip("yaml")
    from tests.support.hosts_compose import Compose

    with network() as net:
        yield Compose(net, ROOT / "docker/compose.yaml", CLI, **new_secrets())


@pytest.fixture(scope="module")
def valkey(compose):
    container = compose.up("valkey")
    compose.wait_healthy("valkey", container)
    return container


@pytest.fixture(autouse=True)
def _hosts_end(compose, valkey) -> Iterator[None]:
    yield
    for host in [host for host in compose.network.hosts.values() if host is not valkey.host]:
        compose.network.remove(host)


def registered(container):
    from tests.support.hosts_compose import workers_of

    return {worker["host"] for worker in workers_of(container)}

SUBMIT = """
from model import run
from queue_eval import Evaluator
with Evaluator.create(run, "process", {"campaign": "%s"}) as evaluator:
    evaluator.submit([{"x": x} for x in range(8)])
"""


def test_the_image_holds_what_it_needs_and_runs_as_nobody(compose):
    container = compose.create("worker")
    assert container.run("id", "-u").stdout == "10001\n"
    assert container.run("pwd").stdout == "/work\n"
    assert container.run("grep", "NoNewPrivs\\|CapEff\\|CapBnd", "/proc/self/status").stdout.split() == [
        "CapEff:", "0000000000000000", "CapBnd:", "0000000000000000", "NoNewPrivs:", "1",
    ]  # fmt: skip
    writable = [
        folder
        for folder in ("/var/lib/queue_eval", "/tmp", "/opt/queue_eval", "/work", "/")
        if container.run("touch", f"{folder}/try").returncode == 0
    ]
    assert writable == ["/var/lib/queue_eval", "/tmp"]
    listed = container.run("sh", "-c", "ls -d /src /wheels; queue-eval --version; which queue-eval")
    assert "/opt/queue_eval/bin/queue-eval" in listed.stdout
    assert "/src" not in listed.stdout
    assert "/wheels" not in listed.stdout


RIGHTS = """
import os
import sys
import redis
client = redis.Redis.from_url(os.environ.get("QUEUE_EVAL_URL") or os.environ["RQ_REDIS_URL"])
for command in sys.argv[1:]:
    try:
        client.execute_command(*command.split())
        print("may", command)
    except redis.exceptions.NoPermissionError:
        pass
"""
COMMANDS = (
    "CONFIG GET requirepass", "ZADD qe:campaigns 1 a", "ZRANGE qe:campaigns 0 -1", "HGET qe:{a}:meta x",
    "SMEMBERS rq:queues", "ZREM qe:campaigns a",
)  # fmt: skip


@pytest.mark.parametrize(
    ("service", "may"),
    [
        ("driver", {"ZADD qe:campaigns", "ZRANGE qe:campaigns", "HGET qe:{a}:meta", "ZREM qe:campaigns"}),
        ("worker", {"ZRANGE qe:campaigns", "HGET qe:{a}:meta"}),
        ("rq-worker", {"SMEMBERS rq:queues"}),
        ("rq-forwarder", {"ZRANGE qe:campaigns", "HGET qe:{a}:meta", "SMEMBERS rq:queues"}),
    ],
)
def test_each_container_has_the_rights_of_its_work(compose, valkey, service, may):
    container = compose.create(service, f"{service}-asks")
    asked = container.run("python", "-c", RIGHTS, *COMMANDS)
    assert asked.returncode == 0, asked.stderr
    assert {" ".join(line.split()[1:3]) for line in asked.stdout.splitlines()} == may
    keys = {value for name, value in compose.values.items() if name == "DRIVER_KEY"}
    assert (set(container.environment.values()) & keys != set()) == (service == "driver")
    assert "VALKEY_PASSWORD" not in container.environment


def test_workers_and_the_example_driver(compose, valkey):
    workers = [compose.up("worker", f"worker{i}") for i in (1, 2, 3)]
    for worker in workers:
        compose.wait_healthy("worker", worker)
    wait_until(lambda: registered(workers[0]) >= {"worker1", "worker2", "worker3"})
    driver = compose.up("driver")
    assert driver.process.wait(60) == 0, driver.process.output
    assert "40 evaluations on 3 hosts, best x = 3" in driver.process.output
    assert driver.run("cat", "/results/results.csv").stdout.count("\n") == 41
    assert compose.content["services"]["driver"]["healthcheck"] == {"disable": True}
    for worker in workers:
        assert worker.stop() == 0, worker.process.output


def test_stopping_drains(compose, valkey):
    """What runs is finished, and costs nothing."""
    worker = compose.up("worker", "drained")
    compose.wait_healthy("worker", worker)
    driver = compose.create("driver", "asker")
    submitted = driver.run("python", "-c", SUBMIT % "drain")
    assert submitted.returncode == 0, submitted.stderr

    def counts():
        return json.loads(driver.run("queue-eval", "status", "drain", "--json").stdout)["counts"]

    wait_until(lambda: counts()["running"] == 1)
    assert worker.stop() == 0
    after = counts()
    assert after["running"] == 0
    assert after["succeeded"] >= 1
    assert after["failed"] == 0
    assert after["scheduled"] + after["pending"] + after["succeeded"] == 8


def test_the_health_check_tells_the_living_from_the_dead(compose, valkey):
    worker = compose.up("worker", "patient", command=["worker", "--lease", "1s"])
    compose.wait_healthy("worker", worker)
    # One that hangs is not alive, though its process is there.
    worker.process.send(signal.SIGSTOP)
    wait_until(lambda: compose.health("worker", worker) == 1)
    worker.process.send(signal.SIGCONT)
    compose.wait_healthy("worker", worker)
    # A server that is away is not the worker's fault.
    valkey.host.cut()
    assert compose.health("worker", worker) == 0
    valkey.host.mend()
    worker.process.kill()
    assert compose.health("worker", worker) == 1


def test_the_server_keeps_what_it_acknowledged(compose, valkey):
    """The volume and the settings of its log: killed, it comes back with everything."""
    driver = compose.create("driver", "recorder")
    done = driver.run("python", "-c", SUBMIT % "kept")
    assert done.returncode == 0, done.stderr
    doctor = driver.run("queue-eval", "doctor")
    assert doctor.returncode == 0, doctor.stdout + doctor.stderr
    valkey.process.kill()
    service = compose.service("valkey")
    valkey.start(service["command"])
    compose.wait_healthy("valkey", valkey)
    assert "kept" in driver.run("queue-eval", "campaigns").stdout


def test_an_example_cluster_of_ray(compose, valkey):
    pytest.importorskip("ray")
    head = compose.up("ray-head")
    compose.wait_healthy("ray-head", head)
    nodes = [compose.up("ray-node", f"ray-node{number}") for number in (1, 2)]
    for node in nodes:
        compose.wait_healthy("ray-node", node)
    forwarder = compose.up("ray-forwarder")
    compose.wait_healthy("ray-forwarder", forwarder)
    driver = compose.up("driver", environment={"METHOD": "ray"})
    assert driver.process.wait(120) == 0, driver.process.output
    assert "40 evaluations on 2 hosts, best x = 3" in driver.process.output
    assert forwarder.stop() == 0, forwarder.process.output


RAY_SEARCH = """
from model import run
from queue_eval import Evaluator
with Evaluator.create(run, "ray", {"campaign": "replaced", "num_workers": 8}) as evaluator:
    evaluator.submit([{"x": x} for x in range(150)])
    jobs = evaluator.gather("ALL")
print(len(jobs), *{job.state for job in jobs})
"""


def test_a_cluster_of_ray_that_is_replaced_by_another(compose, valkey):
    """Its head dies with all that it knew; the forwarder sits on another host, beside a node that lived."""
    pytest.importorskip("ray")

    def restarting(name):
        container, service = compose.create(name), compose.service(name)
        command = shlex.join([*service["entrypoint"], *service["command"]])
        container.start(["sh", "-c", f"while :; do {command}; sleep 1; done"])
        return container

    head = restarting("ray-head")
    compose.wait_healthy("ray-head", head)
    restarting("ray-node")
    forwarder = compose.up("ray-forwarder")
    compose.wait_healthy("ray-forwarder", forwarder)
    driver = compose.create("driver")
    driver.start(["python", "-c", RAY_SEARCH])

    def counts():
        told = driver.run("queue-eval", "status", "replaced", "--json").stdout
        return json.loads(told)["counts"] if told.strip() else {"succeeded": 0, "running": 0}

    wait_until(lambda: counts()["succeeded"] and counts()["running"], 90)
    for name in ("gcs_server", "raylet"):
        head.run("pkill", "-9", name)
    assert driver.process.wait(240) == 0, driver.process.output
    assert driver.process.output.strip().endswith("150 succeeded")


def test_an_example_fleet_of_rq(compose, valkey):
    pytest.importorskip("rq")
    workers = [compose.up("rq-worker", f"rq-worker{number}") for number in (1, 2)]
    wait_until(lambda: all("Listening on" in worker.process.output for worker in workers), 60)
    forwarder = compose.up("rq-forwarder")
    compose.wait_healthy("rq-forwarder", forwarder)
    driver = compose.up("driver", environment={"METHOD": "rq"})
    assert driver.process.wait(120) == 0, driver.process.output
    assert "40 evaluations on 2 hosts, best x = 3" in driver.process.output
    for container in (forwarder, *workers):
        assert container.stop() == 0, container.process.output
