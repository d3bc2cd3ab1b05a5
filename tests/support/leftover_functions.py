"""Run functions that leave programs running, each in its own way."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from queue_eval.marks import unmarked

# It writes its number so that whoever sees the file can read it.
PROGRAM = 'echo $$ >"$0.half"; mv "$0.half" "$0"; exec sleep 300'
STUBBORN = f"trap '' TERM; {PROGRAM}"
TIDY = PROGRAM.replace("exec sleep 300", "trap 'echo >\"$0.term\"; exit' TERM; while :; do sleep 0.05; done")
"""Does something when it is asked to end."""

GROWING = """
import os, signal, sys, time
held = []
signal.signal(signal.SIGTERM, lambda *_: held.append(b"x" * (400 << 20)))
with open(sys.argv[1] + ".half", "w") as file:
    file.write(str(os.getpid()))
os.rename(sys.argv[1] + ".half", sys.argv[1])
while True:
    time.sleep(0.05)
"""
"""Takes memory when it is asked to end."""


def start(config: dict[str, Any]) -> subprocess.Popen[bytes]:
    program = ["sh", "-c", config.get("program", PROGRAM), config["file"]]
    own: dict[str, Any] = {}
    kind = config["kind"]
    if kind == "timeout":
        program = ["timeout", "300", *program]
    elif kind == "monitor":
        program = ["bash", "-c", 'set -m; "$@" & wait', "bash", *program]
    elif kind == "group":
        own["process_group"] = 0
    elif kind == "session":
        own["start_new_session"] = True
    elif kind == "unmarked":
        own |= {"start_new_session": True, "env": unmarked()}
    elif kind == "daemon":
        program = ["setsid", "--fork", *program]
    elif kind == "growing":
        program = [sys.executable, "-c", GROWING, config["file"]]
        own["process_group"] = 0
    elif kind == "bare":  # nothing of its environment is left
        program = ["env", "-i", *program]
        own["process_group"] = 0
    return subprocess.Popen(program, stdin=subprocess.DEVNULL, **own)


def leave(config: dict[str, Any]) -> int:
    """Starts it, and ends when it runs."""
    if "kind" in config:
        start(config)
        wait_for(config["file"])
    return config["id"]


def hang(config: dict[str, Any]) -> int:
    """The same, but never ends."""
    leave(config)
    while "kind" in config:
        time.sleep(0.01)
    return config["id"]


def wait_for(file: str) -> None:
    while not Path(file).exists():
        time.sleep(0.005)
