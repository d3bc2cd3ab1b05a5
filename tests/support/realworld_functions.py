"""Run functions that let real libraries and programs start processes."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

FOR_EVER_S = 300.0


def work(config: dict[str, Any]) -> str:
    """Runs `config["kind"]`, for ever if it is to be late."""
    (Path(config["folder"]) / str(os.getpid())).touch()  # so that what it leaves in shared memory is known
    duration_s = FOR_EVER_S if config["late"] else 0.0
    if config["kind"] == "joblib":
        return compute(duration_s)
    command = ["timeout", "300"]
    if config["kind"] == "mpirun" and shutil.which("mpirun"):
        command = ["mpirun", "--allow-run-as-root", "--oversubscribe", "-n", "2"]
    subprocess.run([*command, "sleep", str(duration_s)], check=True)
    return "done"


def compute(duration_s: float) -> str:
    """In processes that share one large array."""
    import joblib
    import numpy

    data = numpy.ones(4_000_000)
    sums = joblib.Parallel(n_jobs=2)(joblib.delayed(total)(data, duration_s) for _ in range(2))
    assert sums == [4e6, 4e6]
    return "done"


def total(data: Any, duration_s: float) -> float:
    time.sleep(duration_s)
    return float(data.sum())
