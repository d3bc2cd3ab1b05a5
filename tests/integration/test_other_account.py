"""What another account on the machine can do with a running search: see its process lists, and no more."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from queue_eval.transport.access import ACCESS_FILE, WORKER_ACCESS_FILE
from tests.conftest import end_processes_of
from tests.support.accounts import start_as
from tests.support.foreign_listener import OTHER_UID, UID, needs_accounts

INTRUDE = """
import json, os, socket, sys
home, socket_path, uid, *pids = sys.argv[1:]
paths = json.load(sys.stdin)
os.setgroups([]); os.setgid(int(uid)); os.setuid(int(uid))

def tries(name, action):
    try:
        told = action()
    except OSError:
        return
    print(name, "" if told is None else told, flush=True)

def connect(path):
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(path)

for path in paths:
    tries(f"read {path}", lambda: open(path, "rb").close())
    tries(f"write {path}", lambda: os.close(os.open(path, os.O_WRONLY)))
    tries(f"remove {path}", lambda: os.unlink(path))
    tries(f"list {path}", lambda: os.listdir(path))
tries("list home", lambda: os.listdir(home))
tries("make in home", lambda: os.close(os.open(f"{home}/marker", os.O_CREAT | os.O_WRONLY)))
tries("connect", lambda: connect(socket_path))
for pid in pids:
    for name in ("environ", "mem", "maps"):
        tries(f"{name} {pid}", lambda: open(f"/proc/{pid}/{name}", "rb").read(1) and None)
    tries(f"descriptors {pid}", lambda: os.listdir(f"/proc/{pid}/fd"))
    tries(f"signal {pid}", lambda: os.kill(int(pid), 0))
    tries("cmdline", lambda: open(f"/proc/{pid}/cmdline").read().replace(chr(0), " "))
"""


OWN = """
import json, sys
from pathlib import Path
import psutil
from queue_eval import Evaluator
from queue_eval.server.lifecycle import server_state, start_server, stop_server
from queue_eval.server.home import ServerHome
from queue_eval.server.settings import Network

def wait_for(config):
    import time
    from pathlib import Path
    Path(config["gate"]).with_name("begun").touch()
    while not Path(config["gate"]).exists():
        time.sleep(0.02)
    return 1

if __name__ == "__main__":
    folder, campaign = Path(sys.argv[1]), sys.argv[2]
    home, gate = folder / "home", folder / "gate"
    start_server(home, network=Network(host="127.0.0.1", port=0), keep=True)
    try:
        with Evaluator.create(wait_for, "process", {"campaign": campaign, "home": home}) as driver:
            driver.submit([{"gate": str(gate)}])
            while not (folder / "begun").exists():
                assert driver.gather("ALL", timeout=0.1) == []
            record = ServerHome(home).read()
            pids = {psutil.Process().pid, server_state(home).pid}
            for one in psutil.process_iter(["cmdline"]):
                if campaign in (one.info["cmdline"] or ()):
                    pids |= {one.pid, *(child.pid for child in one.children(recursive=True))}
            secrets = [*record.passwords, ServerHome(home).driver_key(record).decode()]
            paths = [str(path) for path in home.rglob("*")]
            print(json.dumps([record.socket, sorted(pids), paths, secrets]), flush=True)
            sys.stdin.readline()
            gate.touch()
            print(json.dumps([job.result for job in driver.gather("ALL", timeout=60)]), flush=True)
    finally:
        stop_server(home)
"""


@pytest.mark.parametrize("owner", [0, OTHER_UID], ids=["of root", "of a user"])
def test_it_sees_process_lists_and_nothing_of_a_home(owner: int, campaign: str) -> None:
    """The marker: what it could read, write, list, connect to or signal, of what was there."""
    needs_accounts()
    # Others may enter the folder around the home: the home's own mode is to keep them out.
    around = Path(tempfile.mkdtemp(prefix="qe-"))
    folder = around / "folder"
    try:
        around.chmod(0o755)
        folder.mkdir()
        os.chown(folder, owner, owner)
        (folder / "own.py").write_text(OWN)
        own = start_as(owner, folder, sys.executable, str(folder / "own.py"), str(folder), campaign)
        try:
            told = own.stdout.readline()
            assert told, own.communicate(timeout=60)[1]
            socket, pids, paths, secrets = json.loads(told)
            assert {psutil.Process(pid).uids().effective for pid in pids} == {owner}
            home = folder / "home"
            for name in (ACCESS_FILE, WORKER_ACCESS_FILE, "server.json", "signing.key", "home.id"):
                assert str(home / name) in paths
            intruder = subprocess.run(
                [sys.executable, "-I", "-S", "-c", INTRUDE, home, socket, str(UID), *map(str, pids)],
                input=json.dumps(paths), capture_output=True, text=True, timeout=60, check=True,
            )  # fmt: skip
            output, errors = own.communicate("go on\n", timeout=60)
            assert json.loads(output) == [1], errors
        finally:
            own.kill()
            own.communicate()
    finally:
        end_processes_of(folder)
        shutil.rmtree(around)
    lines = intruder.stdout.splitlines()
    seen = [line for line in lines if line.startswith("cmdline")]
    assert [line for line in lines if line not in seen] == []
    assert any(campaign in line for line in seen)
    for secret in secrets:
        assert secret not in intruder.stdout
