"""A server that becomes a replica, is emptied, or moves a slot: what the driver is told."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from queue_eval import CampaignNotFoundError, Evaluator
from queue_eval.campaign.keys import Keys
from queue_eval.errors import UsageError
from queue_eval.transport.access import Access
from queue_eval.transport.link import Link
from tests.support.networks import DURABLE, Node, cluster, free_ports
from tests.support.waiting import wait_until


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUEUE_EVAL_KEY", "k" * 32)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Node, Node]]:
    """Two servers that know nothing of each other."""
    nodes = [Node(tmp_path / f"n{port}", port, *DURABLE) for port in free_ports(2)]
    wait_until(lambda: all(node.answers() for node in nodes))
    yield nodes[0], nodes[1]
    for node in nodes:
        node.kill()


def options(node: Node, home: Path, **more: object) -> dict[str, object]:
    url = f"redis://{node.address}"
    return {"url": url, "home": home, "campaign": "c", "local_workers": False} | more


def make_replica(replica: Node, primary: Node) -> None:
    replica.client().replicaof("127.0.0.1", primary.port)
    wait_until(replica.is_in_step, 30)


@pytest.mark.long
def test_a_server_that_was_made_a_replica_by_mistake_is_named(pair, tmp_path):
    ours, other = pair
    with Evaluator.create("math:sqrt", "process", options(ours, tmp_path)) as evaluator:
        evaluator.submit([{"x": 1}])
        make_replica(ours, other)
        with pytest.raises(CampaignNotFoundError) as caught:
            evaluator.gather("ALL", timeout=60)
        is_replica = f"the server at redis://{ours.address} is a replica of {other.address} now"
        assert is_replica in str(caught.value)
        assert "purged" not in str(caught.value)
        ours.client().replicaof("NO", "ONE")
        with pytest.raises(CampaignNotFoundError, match=r"was emptied .* REPLICAOF by mistake"):
            evaluator.submit([{"x": 2}])


def test_an_emptied_server_is_named_and_a_purge_is_a_purge(pair, tmp_path):
    node = pair[0]
    with Evaluator.create("math:sqrt", "process", options(node, tmp_path)) as evaluator:
        evaluator.submit([{"x": 1}])
        evaluator._session.queue.purge()
        with pytest.raises(CampaignNotFoundError, match="campaign 'c' was purged"):
            evaluator.gather("ALL", timeout=60)
        node.client().flushall()
        with pytest.raises(CampaignNotFoundError, match="was emptied"):
            evaluator.submit([{"x": 2}])


@pytest.mark.long
def test_a_slot_that_is_being_moved_is_waited_for_by_name(caplog):
    """Keys of one script lie on two nodes: each sends it to the other, until redis-py has enough."""
    with cluster() as nodes:
        url = "redis+cluster://" + ",".join(node.address for node in nodes)
        link = Link(Access(url, None, None), name="test")
        first, second = Keys("c").meta, Keys("c").column("failures")
        link.call(lambda client: (client.set(first, 1), client.set(second, 1)))
        slot = nodes[0].client().execute_command("CLUSTER KEYSLOT", first)
        source = next(node for node in nodes if node.client().execute_command(
            "CLUSTER COUNTKEYSINSLOT", slot))  # fmt: skip
        target = next(node for node in nodes if node is not source)
        names = {node: node.client().execute_command("CLUSTER MYID") for node in nodes}
        target.client().execute_command("CLUSTER SETSLOT", slot, "IMPORTING", names[source])
        source.client().execute_command("CLUSTER SETSLOT", slot, "MIGRATING", names[target])
        source.client().execute_command("MIGRATE", "127.0.0.1", target.port, first, 0, 5000)
        replies: list[object] = []
        words = "return redis.call('GET', KEYS[1]) .. redis.call('GET', KEYS[2])"
        thread = threading.Thread(
            target=lambda: replies.append(link.call(lambda client: client.eval(words, 2, first, second)))
        )
        with caplog.at_level(logging.WARNING):
            thread.start()
            wait_until(lambda: "doing nothing for now" in caplog.text, 30)
        assert "TRYAGAIN: a slot of the cluster is being moved to another node; it is served" in caplog.text
        assert "TTL" not in caplog.text
        assert replies == []
        source.client().execute_command("MIGRATE", "127.0.0.1", target.port, second, 0, 5000)
        for node in (target, source):
            node.client().execute_command("CLUSTER SETSLOT", slot, "NODE", names[target])
        thread.join(30)
        assert replies == [b"11"]
        link.close()


@pytest.mark.long
def test_close_waits_for_a_replica(pair, tmp_path, monkeypatch):
    """Also for jobs that came by other connections: what close has waited for survives a failover."""
    monkeypatch.setattr("queue_eval.campaign.replicas.PATIENCE_S", 60.0)
    primary, replica = pair
    make_replica(replica, primary)
    wait_until(lambda: wait_for_one(primary), 30)
    evaluator = Evaluator.create("math:sqrt", "process", options(primary, tmp_path, wait_replicas=1))
    replica.process.send_signal(signal.SIGSTOP)  # it is behind until it goes on
    evaluator.submit([{"x": x} for x in range(50)])
    thread = threading.Thread(target=evaluator.close)
    thread.start()
    wait_until(lambda: waits(primary), 20)
    assert thread.is_alive()
    replica.process.send_signal(signal.SIGCONT)
    thread.join(30)
    assert not thread.is_alive()
    primary.kill()
    replica.client().replicaof("NO", "ONE")
    assert replica.client().hlen(Keys("c").configs) == 50
    assert replica.client().exists(Keys("c").closing) == 0


def waits(primary: Node) -> bool:
    """Whether a client is blocked in WAIT."""
    clients = primary.client().client_list()
    return any(client["cmd"] == "wait" and "b" in client["flags"] for client in clients)


def wait_for_one(primary: Node) -> bool:
    client = primary.client()
    client.set("x", 1)
    return bool(client.wait(1, 100) >= 1)


def test_close_says_how_many_replicas_have_confirmed(pair, tmp_path, monkeypatch):
    monkeypatch.setattr("queue_eval.campaign.replicas.PATIENCE_S", 0.2)
    evaluator = Evaluator.create("math:sqrt", "process", options(pair[0], tmp_path, wait_replicas=2))
    with pytest.warns(UserWarning, match=r"only 0 of 2 replicas have confirmed campaign 'c' within 0\.2 s"):
        evaluator.close()
    evaluator = Evaluator.create("math:sqrt", "process", options(pair[0], tmp_path, wait_replicas=1))
    pair[0].kill()
    with pytest.warns(UserWarning, match="no replica has confirmed campaign 'c': redis://.* says Error 111"):
        evaluator.close()


def test_close_waits_on_the_node_of_the_campaign(tmp_path, monkeypatch):
    monkeypatch.setattr("queue_eval.campaign.replicas.PATIENCE_S", 0.2)
    with cluster() as nodes:
        more = {"url": "redis+cluster://" + ",".join(node.address for node in nodes), "wait_replicas": 1}
        evaluator = Evaluator.create("math:sqrt", "process", options(nodes[0], tmp_path) | more)
        with pytest.warns(UserWarning, match="only 0 of 1 replicas have confirmed"):
            evaluator.close()


@pytest.mark.parametrize("value", [-1, True, "1", 1.5])
def test_a_number_of_replicas_that_is_none(value, tmp_path):
    with pytest.raises(UsageError, match=r"wait_replicas is .*; give a whole number of at least 0"):
        Evaluator.create("math:sqrt", "process", {"home": tmp_path, "wait_replicas": value})
