"""Run functions that tell what their slot gives them."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import time
from typing import Any

Config = dict[str, Any]

_TELL = "import os, json; print(json.dumps(sorted(os.sched_getaffinity(0))))"


def tell(config: Config) -> Any:
    """GPUs, cores, thread limit and process of this attempt; it goes on until the `gate` exists."""
    begun = time.monotonic()
    pathlib.Path(config.get("started", os.devnull)).touch()
    while "gate" in config and not pathlib.Path(config["gate"]).exists():
        time.sleep(0.005)
    time.sleep(config.get("sleep", 0.0))
    return {
        "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "cores": sorted(os.sched_getaffinity(0)),
        "pid": os.getpid(),
        "begun": begun,
        "ended": time.monotonic(),
    }


def tell_of_a_process(_: Config) -> Any:
    """The cores of a process that user code starts."""
    shown = subprocess.run([sys.executable, "-c", _TELL], capture_output=True, check=True)
    return json.loads(shown.stdout)


def die(_: Config) -> Any:
    os._exit(1)
