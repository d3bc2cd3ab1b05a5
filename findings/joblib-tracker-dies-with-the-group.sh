#!/usr/bin/env bash
# joblib (loky): what removes the memmapped arrays of a parallel call after a crash is a resource tracker, which stays in
# the process group of the program. A time limit, a supervisor or a batch system that kills the whole group kills it,
# too: each program that is killed so leaves its arrays for ever, by default in /dev/shm, where no process shows them.
# Killing the program alone does not help at once: its workers stay, and the tracker waits for the last of them. When
# all but the tracker are killed, it removes the arrays.
#
# Seen with joblib 1.6.0 and numpy 2.2.6: 32 MB and more of arrays are there 5 s after SIGKILL to the group, and 5 s after
# SIGKILL to the program alone, with its workers alive; none once all but the tracker were killed. Needs /proc.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'joblib==1.6.0' 'numpy==2.2.6'

cat > "$folder/program.py" <<'PYTHON'
import sys
import time
from pathlib import Path

import joblib
import numpy as np


def work(array, began):
    Path(began).touch()
    time.sleep(2)
    return float(array[0])


joblib.Parallel(n_jobs=2)(joblib.delayed(work)(np.ones(4 * 2**20), sys.argv[1]) for _ in range(20))
PYTHON

cat > "$folder/kill.py" <<'PYTHON'
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import joblib
import numpy

print("joblib", joblib.__version__, "numpy", numpy.__version__, "CPython", sys.version.split()[0])
here = Path(sys.argv[1])


def wait(condition, seconds):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.1)
    return condition()


def group_of(program):
    """Process -> whether it is a tracker."""
    found = {}
    for one in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(one.name)) == program.pid and "State:\tZ" not in (one / "status").read_text():
                found[int(one.name)] = b"resource_tracker" in (one / "cmdline").read_bytes()
        except OSError:
            pass
    return found


def kill(pids):
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


left, workers = {}, {}
for what in ("the group", "the program", "all but the trackers"):
    arrays, began = here / f"arrays of {what}", here / f"began {what}"
    arrays.mkdir()
    program = subprocess.Popen(
        [sys.executable, here / "program.py", began], start_new_session=True,
        stderr=subprocess.DEVNULL, env={**os.environ, "JOBLIB_TEMP_FOLDER": str(arrays)},
    )
    if not wait(began.exists, 60):
        sys.exit("the program did not begin")
    members = group_of(program)
    wanted = {
        "the group": members,
        "the program": [program.pid],
        "all but the trackers": [pid for pid, is_tracker in members.items() if not is_tracker],
    }
    kill(wanted[what])
    program.wait()
    wait(lambda: not list(arrays.rglob("*.pkl")), 5)
    left[what] = sum(file.stat().st_size for file in arrays.rglob("*.pkl"))
    rest = group_of(program)
    workers[what] = sum(not is_tracker for is_tracker in rest.values())
    print(f"SIGKILL to {what}: {left[what]:,} bytes of arrays and {workers[what]} workers are left")
    kill(rest)
sys.exit(
    not (
        min(left["the group"], left["the program"]) >= 32 * 2**20
        and left["all but the trackers"] == 0
        and workers == {"the group": 0, "the program": 2, "all but the trackers": 0}
    )
)
PYTHON

"$folder/venv/bin/python" "$folder/kill.py" "$folder" || { echo "this has changed"; exit 1; }
echo "as described"
