"""What another account on the machine can do with a running search: see its process lists, and no more."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil

from queue_eval import Evaluator
from queue_eval.access import ACCESS_FILE, WORKER_ACCESS_FILE
from queue_eval.server import server_state, start_server
from queue_eval.server_home import ServerHome
from queue_eval.server_settings import Network
from tests.support.foreign_listener import UID, needs_accounts
from tests.support.waiting import wait_until

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


def wait_for(config):
    import time

    Path(config["gate"]).with_name("begun").touch()
    while not Path(config["gate"]).exists():
        time.sleep(0.02)
    return 1


def test_it_sees_process_lists_and_nothing_of_a_home(own_home: Path, campaign: str, tmp_path: Path) -> None:
    needs_accounts()
    # The home's own mode is to keep them out, not that of the folder around it.
    own_home.parent.chmod(0o755)
    start_server(own_home, network=Network(host="127.0.0.1", port=0), keep=True)
    record = ServerHome(own_home).read()
    gate = tmp_path / "gate"
    with Evaluator.create(wait_for, "process", {"campaign": campaign, "home": own_home}) as driver:
        driver.submit([{"gate": str(gate)}])
        wait_until((tmp_path / "begun").exists)
        server = psutil.Process(server_state(own_home).pid)
        pids = {os.getpid(), server.pid}
        for one in psutil.process_iter(["cmdline"]):
            if campaign in (one.info["cmdline"] or ()):
                pids |= {one.pid, *(child.pid for child in one.children(recursive=True))}
        paths = [str(path) for path in own_home.rglob("*")]
        assert {str(own_home / name) for name in (ACCESS_FILE, WORKER_ACCESS_FILE, "server.json")} <= {*paths}
        intruder = subprocess.run(
            [sys.executable, "-I", "-S", "-c", INTRUDE, own_home, record.socket, str(UID), *map(str, pids)],
            input=json.dumps(paths), capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        gate.touch()
        assert [job.result for job in driver.gather("ALL", timeout=60)] == [1]
    lines = intruder.stdout.splitlines()
    seen = [line for line in lines if line.startswith("cmdline")]
    assert [line for line in lines if line not in seen] == []
    assert any(campaign in line for line in seen)
    for secret in (*record.passwords, ServerHome(own_home).driver_key(record).decode()):
        assert secret not in intruder.stdout
