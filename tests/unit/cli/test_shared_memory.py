"""What the dead have left in shared memory, and whose it is."""

from __future__ import annotations

import mmap
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from queue_eval.chaos.processes import hidden
from queue_eval.cli import checks, shared_memory
from queue_eval.cli.shared_memory import remains, remove

pytestmark = pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="no /proc here")


@pytest.fixture
def dead() -> int:
    """The number of a process that has ended."""
    with subprocess.Popen(["true"]) as process:
        return process.pid


@pytest.fixture
def leave(tmp_path):
    """Make an old entry of this name, with some bytes."""

    def make(name: str, *, age_s: float = 3600.0) -> Path:
        path = tmp_path / name
        file = path
        if "folder" in name:
            path.mkdir()
            file = path / "array.pkl"
        file.write_bytes(b"x" * 8192)
        os.utime(path, (time.time() - age_s,) * 2)
        return path

    return make


def test_what_is_of_a_dead_process(leave, dead, tmp_path):
    names = [f"sem.loky-{dead}-abc", f"joblib_memmapping_folder_{dead}_1_2", f"loky-{dead}-x"]
    paths = [leave(name) for name in names]
    found = remains(tmp_path)
    assert sorted(found.paths) == sorted(paths)
    assert found.size >= 3 * 8192
    remove(found.paths)
    assert list(tmp_path.iterdir()) == []


def test_what_may_be_of_the_living_stays(leave, dead, tmp_path):
    leave(f"sem.loky-{os.getpid()}-abc")
    leave("sem.mp-abcdefgh")  # nothing tells who made it
    leave(f"psm_{dead}")
    leave(f"sem.loky-{dead}-young", age_s=1.0)
    file = leave(f"sem.loky-{dead}-mapped")
    folder = leave(f"joblib_memmapping_folder_{dead}_1_2")
    with file.open("r+b") as opened:
        mapped = mmap.mmap(opened.fileno(), 0)
    with mapped, (folder / "array.pkl").open():
        assert remains(tmp_path) == ([], 0)
    assert len(remains(tmp_path).paths) == 2


def test_what_a_process_of_another_namespace_has_made_stays(leave, tmp_path):
    if not hidden() or not shutil.which("sleep"):
        pytest.skip("namespaces of process ids are not allowed here")
    command = [*hidden(), "sh", "-c", "echo $$; exec sleep 100"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            inner = int(process.stdout.readline())
            assert inner in shared_memory._living()
        finally:
            process.kill()


def test_doctor_counts_and_removes(leave, dead, tmp_path, monkeypatch):
    monkeypatch.setattr(checks, "remains", lambda: remains(tmp_path))
    assert checks._shared_memory(clean=True).status == "ok"
    leave(f"sem.loky-{dead}-abc")
    monkeypatch.setattr(checks, "sees_all", lambda: False)
    finding = checks._shared_memory(clean=True)
    assert finding.status == "warn"
    assert finding.detail.endswith("remove them from outside of this one")
    monkeypatch.setattr(checks, "sees_all", lambda: True)
    finding = checks._shared_memory(clean=False)
    assert finding.status == "warn"
    assert finding.detail.startswith("1 entry of dead processes")
    assert finding.detail.endswith("remove them with: queue-eval doctor --clean")
    finding = checks._shared_memory(clean=True)
    assert (finding.status, finding.detail.endswith("removed")) == ("ok", True)
    assert list(tmp_path.iterdir()) == []
