"""What a server may do to those who use it: die, run full, say no, be replaced, forget its last second."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import redis

from queue_eval.errors import ServerError
from queue_eval.server.lifecycle import server_state, start_server, stop_server
from queue_eval.transport.access import find_access, write_access
from tests.conftest import end_processes_of
from tests.support.fault_fleet import Fleet, check_all_recorded, kill_server
from tests.support.load import Load
from tests.support.marks import long
from tests.support.networks import Node, free_ports
from tests.support.waiting import wait_until

LEASE = "10s"
"""Longer than any outage here: what waits for the server must not look dead."""


@pytest.fixture
def admin(fleet: Fleet) -> Iterator[redis.Redis]:
    """A connection of its own to the server, for what no client of ours would say."""
    with connected(fleet.home) as client:
        yield client


@contextlib.contextmanager
def connected(home: Path) -> Iterator[redis.Redis]:
    access = find_access(None, home)
    assert access is not None
    with redis.Redis.from_url(access.url, protocol=2, decode_responses=True) as client:
        yield client


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def check_sane(words: str, *, most: int = 12) -> None:
    """A worker's log: no traceback, no flood. The lines of single jobs are bounded elsewhere."""
    assert "Traceback" not in words
    others = [line for line in words.splitlines() if not re.search(r" INFO (begins )?job \d+", line)]
    assert len(others) <= most, words


# Killed, cut off, flushed -----------------------------------------------------------------------------


@pytest.mark.parametrize("fsync", ["always", *long("everysec")])
def test_the_server_is_killed_under_load(fleet, campaign, admin, fsync):
    """Also with everysec the death of the process alone loses nothing: the system has what was written."""
    admin.config_set("appendfsync", fsync)
    with fleet.driver(campaign) as driver:
        workers = [fleet.worker(slots=2, lease=LEASE) for _ in range(2)]
        load = Load(fleet, driver, 300)
        for part in (0.2, 0.5, 0.8):
            load.wait_done(part)
            kill_server(fleet)
            start_server(fleet.home, keep=True)
        load.check()
    for worker in workers:
        check_sane(fleet.output_of(worker))


@pytest.mark.long
def test_scripts_are_flushed_all_the_time(fleet, campaign, admin):
    with fleet.driver(campaign) as driver:
        worker = fleet.worker(slots=2, lease=LEASE)
        load = Load(fleet, driver, 200)
        flushed = 0
        while not load.is_over:
            flushed += admin.script_flush()
        load.check()
    assert flushed > 20
    check_sane(fleet.output_of(worker))


@pytest.mark.long
def test_connections_are_cut_all_the_time(fleet, campaign, admin, caplog):
    with fleet.driver(campaign) as driver:
        workers = [fleet.worker(slots=2, lease=LEASE) for _ in range(2)]
        load = Load(fleet, driver, 600)
        load.wait_done(0.05)
        killed, end = 0, time.monotonic() + 3
        while not load.is_over and time.monotonic() < end:
            killed += admin.client_kill_filter(_type="normal", skipme=True)
            time.sleep(0.02)
        load.check()
    assert killed > 50
    assert len(warnings_of(caplog)) < 6
    for worker in workers:
        check_sane(fleet.output_of(worker))


# There, and does nothing ------------------------------------------------------------------------------


@contextlib.contextmanager
def no_memory(admin: redis.Redis) -> Iterator[None]:
    admin.config_set("maxmemory", "1mb")
    try:
        yield
    finally:
        admin.config_set("maxmemory", "0")


@contextlib.contextmanager
def no_snapshot(admin: redis.Redis) -> Iterator[None]:
    """Its disk takes no snapshots: a folder is in the way."""
    blocked = Path(admin.config_get("dir")["dir"]) / "dump.rdb"
    admin.config_set("save", "3600 1")
    blocked.mkdir()
    admin.bgsave()
    try:
        wait_until(lambda: admin.info("persistence")["rdb_last_bgsave_status"] == "err")
        yield
    finally:
        blocked.rmdir()  # a server that cannot save does not stop
    # Not at once after one that failed; and one that was begun by the server itself will do.
    wait_until(lambda: admin.info("persistence")["rdb_bgsave_in_progress"] == 0)
    admin.bgsave()


@contextlib.contextmanager
def replica(admin: redis.Redis) -> Iterator[None]:
    admin.replicaof("127.0.0.1", "1")
    try:
        yield
    finally:
        admin.replicaof("NO", "ONE")


@contextlib.contextmanager
def busy(admin: redis.Redis) -> Iterator[None]:
    """Somebody else's script runs for three seconds."""
    admin.config_set("busy-reply-threshold", "50")
    clock = "local function now() local t = redis.call('TIME') return t[1] + t[2] / 1e6 end "
    script = clock + "local till = now() + 3 while now() < till do end"
    thread = threading.Thread(target=admin.eval, args=(script, 0))
    thread.start()
    try:
        yield
    finally:
        thread.join()


@pytest.mark.parametrize(
    ("hindrance", "words"),
    [
        (no_memory, "OOM: it has reached its maxmemory"),
        pytest.param(no_snapshot, "MISCONF: it cannot write to its disk", marks=pytest.mark.long),
        pytest.param(replica, "READONLY: it is a replica", marks=pytest.mark.long),
        pytest.param(busy, "BUSY: a script that is not ours", marks=pytest.mark.long),
    ],
)
def test_a_server_that_does_nothing_for_now(fleet, campaign, admin, caplog, hindrance, words):
    """All wait, say once why and what to do, and go on; nothing runs twice."""
    with fleet.driver(campaign) as driver:
        workers = [fleet.worker(slots=2, lease=LEASE) for _ in range(2)]
        load = Load(fleet, driver, 500, sleep_s=0.01)
        load.wait_done(0.1)
        with hindrance(admin):
            wait_until(lambda: all(words in fleet.output_of(worker) for worker in workers))
            if hindrance is no_memory:
                before = len(load.gathered)
                time.sleep(1.5)
                assert len(load.gathered) - before <= 20  # a gather that was under way
        load.check()
    said = warnings_of(caplog)
    assert len(said) < 5, said
    assert all(words in warning for warning in said[::2])
    for worker in workers:
        check_sane(fleet.output_of(worker))


@pytest.mark.long
def test_a_server_that_reads_its_data_for_long(tmp_path, campaign, caplog):
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    (port,) = free_ports(1)
    settings = ("--appendonly", "yes", "--appendfsync", "always", "--save", "")
    node = Node(tmp_path / "node", port, *settings)
    fleet = Fleet(home, tmp_path)
    try:
        wait_until(node.answers)
        node.client().mset({f"k{i}": "v" for i in range(1000)})
        node.client().execute_command("BGREWRITEAOF")
        wait_until(lambda: node.client().info("persistence")["aof_rewrite_in_progress"] == 0)
        write_access(home, f"redis://127.0.0.1:{port}", b"k" * 32)
        with fleet.driver(campaign) as driver:
            worker = fleet.worker(slots=2, lease=LEASE)
            load = Load(fleet, driver, 300)
            load.wait_done(0.2)
            node.kill()
            node.start("--key-load-delay", "3000", "--loading-process-events-interval-bytes", "1024")
            wait_until(lambda: "LOADING: it is loading its data" in fleet.output_of(worker))
            load.check()
        check_sane(fleet.output_of(worker))
    finally:
        fleet.close()
        if node.process.poll() is None:
            node.kill()


# Its log is damaged -----------------------------------------------------------------------------------


def log_of(home: Path) -> Path:
    """The file to which the server appends."""
    return max(home.glob("data/appendonlydir/*.incr.aof"), key=lambda path: int(path.name.split(".")[2]))


def test_a_torn_log_is_healed_and_a_damaged_one_is_not_touched(fleet, campaign, caplog):
    with fleet.driver(campaign) as driver:
        driver.submit([fleet.config(x) for x in range(50)])
        kill_server(fleet)
        whole = log_of(fleet.home).read_bytes()
        # A command's beginning is damaged: the server sees no damage to what a command carries.
        begin = whole.index(b"\r\n*", len(whole) // 2)
        for damaged in (whole + b"\0" * 100, whole[:begin] + b"\0" * 90 + whole[begin + 90 :]):
            log_of(fleet.home).write_bytes(damaged)
            with pytest.raises(ServerError) as caught:
                start_server(fleet.home, keep=True)
            error = str(caught.value)
            assert f"its log {log_of(fleet.home)} is damaged" in error
            assert "\n" not in error
            assert log_of(fleet.home).read_bytes() == damaged
        command = error.partition("with: ")[2].partition("; see")[0]
        assert "check-aof" in command
        log_of(fleet.home).write_bytes(whole + b"*1\r\n$7\r\nFLUSH")
        start_server(fleet.home, keep=True)
        assert "ended in the middle of a write" in caplog.text
        fleet.worker(slots=2)
        assert len(driver.gather("ALL", timeout=30)) == 50
    check_all_recorded(fleet.queue(campaign), 50)


@pytest.mark.parametrize("has_tool", [True, False])
def test_the_repair_that_is_advised_works(own_home, has_tool, monkeypatch):
    start_server(own_home, keep=True)
    with connected(own_home) as client:
        client.set("k", "v")
    os.kill(server_state(own_home).pid, 9)
    wait_until(lambda: server_state(own_home).state == "crashed")
    with log_of(own_home).open("ab") as file:
        file.write(b"garbage\r\n")
    if not has_tool:
        monkeypatch.setattr("queue_eval.server.process.shutil.which", lambda name: None)
    with pytest.raises(ServerError) as caught:
        start_server(own_home)
    command = str(caught.value).partition("with: ")[2].partition("; see")[0]
    subprocess.run(["bash", "-c", command], input="y\n", text=True, check=True, capture_output=True)
    start_server(own_home)
    with connected(own_home) as client:
        assert client.get("k") == "v"


# Disks that are full ----------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "none", folder], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("only root may mount a small disk")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def fill(folder: Path, *, leave: int) -> Path:
    """Take all space there but so many bytes."""
    file = folder / "filler"
    file.write_bytes(b"x" * (psutil.disk_usage(str(folder)).free - leave))
    return file


@pytest.mark.long
@pytest.mark.parametrize("fsync", ["always", "everysec"])
def test_the_servers_disk_is_full(small_disk, tmp_path, campaign, fsync, caplog):
    """With always the server ends itself, and comes back when there is space; else it takes no writes."""
    home = small_disk / "home"
    start_server(home, keep=True, fsync=fsync)
    fleet = Fleet(home, tmp_path)
    try:
        with fleet.driver(campaign) as driver:
            worker = fleet.worker(slots=2, lease="30s")
            load = Load(fleet, driver, 300)
            load.wait_done(0.2)
            filler = fill(small_disk, leave=20_000)
            words = "is full" if fsync == "always" else "MISCONF"
            wait_until(lambda: any(words in warning for warning in warnings_of(caplog)), 30)
            time.sleep(6)  # so long that all would be said again
            assert not load.is_over
            filler.unlink()
            load.check()
        assert len(warnings_of(caplog)) < 6, warnings_of(caplog)
        check_sane(fleet.output_of(worker))
    finally:
        fleet.close()
        stop_server(home)
        end_processes_of(home)


@pytest.mark.long
def test_the_spool_cannot_be_written(fleet, campaign):
    """What ended stays in the worker's memory, which says so once."""
    with fleet.driver(campaign) as driver:
        driver.submit([fleet.gated("x" * 100_000 + str(x)) for x in range(2)])
        worker = fleet.worker(slots=2, lease=LEASE)
        fleet.wait_begun(1, 2)
        psutil.Process(worker.pid).rlimit(psutil.RLIMIT_FSIZE, (50_000, 50_000))
        kill_server(fleet)
        fleet.open_gate()
        wait_until(lambda: "cannot write the spool" in fleet.output_of(worker))
        wait_until(lambda: fleet.finished() == {1: 1, 2: 1})
        time.sleep(1)
        start_server(fleet.home, keep=True)
        assert len(driver.gather("ALL", timeout=30)) == 2
    assert fleet.output_of(worker).count("cannot write the spool") == 1
    assert set(fleet.begun().values()) == {1}
    check_all_recorded(fleet.queue(campaign), 2)
