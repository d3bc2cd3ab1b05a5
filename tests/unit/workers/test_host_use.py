"""What a worker tells of how busy its host is: control groups, `nvidia-smi`, what hangs or fails."""

from __future__ import annotations

import json
import threading

import psutil
import pytest

from queue_eval.campaign.registry import GpuUse, WorkerCard
from tests.support.waiting import wait_until
from workers import host_use
from workers.host_use import HostUse, gpu_use, host_load, host_memory, parse_gpu_use

MIB = 2**20
SMI = """0, GPU-1f, 37, 1024, 143771
1, GPU-2a, [N/A], 5, 10
No devices were found
"""


def test_nvidia_smi_is_read_by_number_and_by_uuid():
    found = parse_gpu_use(SMI)
    assert found["0"] == found["GPU-1f"]
    assert found["0"] == GpuUse(util=37.0, memory_used=1024 * MIB, memory_total=143771 * MIB)
    assert found["GPU-2a"].util is None
    assert set(found) == {"0", "1", "GPU-1f", "GPU-2a"}


@pytest.fixture
def smi(tmp_path, monkeypatch):
    """Puts a program of this name on the path."""

    def put(script):
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    return put


def test_only_the_gpus_of_the_worker_are_told_of(smi):
    smi(f"cat <<'END'\n{SMI}END")
    assert [gpu.memory_used for gpu in gpu_use(["1", "GPU-1f"])] == [5 * MIB, 1024 * MIB]
    assert gpu_use(["2"]) is None


@pytest.mark.parametrize("script", ["exit 9", "exec sleep 60"])
def test_a_tool_that_fails_or_hangs_tells_nothing(smi, monkeypatch, script):
    monkeypatch.setattr(host_use, "_GPU_TOOL_S", 0.2)
    smi(script)
    assert gpu_use(["0"]) is None


def test_without_the_tool_nothing_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu_use(["0"]) is None


@pytest.mark.parametrize(
    ("line", "files"),
    [
        ("0::/a/b", {
            "a/memory.max": "1000", "a/memory.current": "700", "a/memory.stat": "inactive_file 100\n",
            "a/b/memory.max": "max",
        }),
        ("4:memory:/a/b\n0::/", {
            "memory/a/memory.limit_in_bytes": "1000", "memory/a/memory.usage_in_bytes": "700",
            "memory/a/memory.stat": "cache 5\ntotal_inactive_file 100\n",
            "memory/memory.limit_in_bytes": str(2**63 - 4096),
        }),
    ],
)  # fmt: skip
def test_the_lowest_limit_of_a_control_group_counts(tmp_path, monkeypatch, line, files):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    (tmp_path / "own").write_text(f"9:cpu:/\n{line}\n")
    monkeypatch.setattr(host_use, "_CGROUPS", tmp_path)
    monkeypatch.setattr(host_use, "_OWN_CGROUPS", tmp_path / "own")
    assert host_memory() == {"memory_used": 600, "memory_total": 1000}


def test_without_a_limit_the_host_counts(monkeypatch, tmp_path):
    monkeypatch.setattr(host_use, "_OWN_CGROUPS", tmp_path / "none")
    found = host_memory()
    assert found["memory_total"] == psutil.virtual_memory().total
    assert 0 < found["memory_used"] < found["memory_total"]
    assert host_load() >= 0


def test_the_heartbeat_waits_for_no_measurement(monkeypatch):
    go_on, began = threading.Event(), threading.Semaphore(0)

    def hang(gpus):
        began.release()
        assert go_on.wait(20)
        return (GpuUse(util=1.0, memory_used=2, memory_total=3),)

    monkeypatch.setattr(host_use, "gpu_use", hang)
    use = HostUse(["0"])
    assert use.newest() == {}
    assert began.acquire(timeout=20)
    assert use.newest() == {}
    assert not began.acquire(blocking=False)  # one at a time
    go_on.set()
    found = wait_until(use.newest)
    assert found["gpus"][0].memory_used == 2
    assert found.keys() == {"load", "memory_used", "memory_total", "gpus"}
    monkeypatch.setattr(host_use, "_STALE_S", 0.0)
    assert use.newest() == {}


def test_a_measurement_that_fails_is_left_out(monkeypatch):
    monkeypatch.setattr(host_use, "host_memory", lambda: 1 / 0)
    use = HostUse(())
    wait_until(lambda: use.newest() == {} and not use._thread.is_alive())
    assert use.newest() == {}


def test_the_card_carries_it_and_older_or_damaged_cards_lack_it():
    gpus = (GpuUse(util=5.0, memory_used=1, memory_total=None),)
    card = WorkerCard(name="w", load=0.5, memory_used=1, memory_total=2, gpus=gpus)
    read = WorkerCard.parse("w", card.encode().encode())
    assert read == card
    assert read.use_as_json() == {
        "load": 0.5, "memory_used": 1, "memory_total": 2,
        "gpus": [{"util": 5.0, "memory_used": 1, "memory_total": None}],
    }  # fmt: skip
    assert WorkerCard.parse("w", b"{}").use_as_json() == {}
    damaged = json.dumps({"load": "high", "memory_used": [], "gpus": [3, {"util": "x"}]}).encode()
    assert WorkerCard.parse("w", damaged).use_as_json() == {
        "gpus": [{"util": None, "memory_used": None, "memory_total": None}]
    }  # fmt: skip
