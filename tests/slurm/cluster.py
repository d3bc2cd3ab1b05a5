"""A Slurm of three nodes on one machine, for tests. From the project's folder, as root on Debian or Ubuntu:

    python -m tests.slurm.cluster install       once: slurm-wlm, slurm-client and munge from the distribution
    python -m tests.slurm.cluster up FOLDER     then: export SLURM_CONF=FOLDER/slurm.conf; sinfo
    python -m tests.slurm.cluster down FOLDER   ends the daemons, the jobs, and whatever these have started

::

    munged ──▶ a socket and a key in FOLDER
    slurmctld, slurmd -N n1, slurmd -N n2, slurmd -N n3 ──▶ ports of 127.0.0.1 that were free
        partition main     n1 to n3, the default; its jobs can be preempted: grace, SIGTERM, requeued
        partition urgent   the same nodes; its jobs preempt

Each daemon is a process in the foreground: no systemd, no system account, nothing outside FOLDER. A node
claims 8 cores, whatever the machine has. KillWait is 30 s, as Slurm has it. Two times are shorter than
Slurm's, so that tests wait less: a node counts as down after 10 s (not 300), and a requeued job starts again
after 10 s (not 120).

`down` knows what `up` started by a variable in the environment of the daemons. All that they start inherits
it, and so do jobs that this module submits.
"""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from tests.support.processes import command_line, environment_of

NODES = ("n1", "n2", "n3")
PACKAGES = ("slurm-wlm", "slurm-client", "munge")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scancel", "scontrol", "squeue", "sinfo")
KILL_WAIT_S = 30
GRACE_S = 25
MARK = "QUEUE_EVAL_TEST_SLURM"

CONFIGURATION = """\
ClusterName=queueeval
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=10
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
MailProg=/bin/true
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=5,bf_interval=5
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmdParameters=config_overrides
ReturnToService=2
JobRequeue=1
KillWait={kill_wait}
SlurmctldTimeout=10
SlurmdTimeout=10
InactiveLimit=0
MinJobAge=300
{nodes}
PartitionName=main Nodes=n[1-3] Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime={grace}
PartitionName=urgent Nodes=n[1-3] PriorityTier=10 PreemptMode=OFF
"""


def why_not() -> str | None:
    """Why there can be no Slurm here, or None."""
    if sys.platform != "linux":
        return "the test cluster is made of Linux programs"
    if os.geteuid() != 0:
        return "Slurm's daemons want to be root"
    missing = [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]
    if missing:
        return f"not installed: {', '.join(missing)}; run: python -m tests.slurm.cluster install"
    return None


def install() -> None:
    """Install Debian's packages, without starting their services."""
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    for words in (["update"], ["install", "--yes", "--no-install-recommends", *PACKAGES]):
        subprocess.run(["apt-get", *words], env=environment, check=True)


class Cluster:
    """The daemons and files of one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self._daemons: list[subprocess.Popen[bytes]] = []
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("SLURM")},
            "PATH": _path(), "SLURM_CONF": str(self.folder / "slurm.conf"), MARK: str(self.folder),
        }  # fmt: skip

    def up(self) -> None:
        """Start all daemons; return when each node is idle."""
        self.folder.mkdir(parents=True, exist_ok=True)
        # Users of the cluster reach the socket of munged through this folder.
        self.folder.chmod(0o755)
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        (self.folder / "state").mkdir()
        ports = _free_ports(1 + len(NODES))
        host = socket.gethostname().partition(".")[0]
        nodes = "\n".join(
            f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=8 State=UNKNOWN"
            for name, port in zip(NODES, ports[1:], strict=True)
        )
        (self.folder / "slurm.conf").write_text(
            CONFIGURATION.format(
                host=host, folder=self.folder, controller=ports[0], nodes=nodes, kill_wait=KILL_WAIT_S,
                grace=GRACE_S,
            )
        )  # fmt: skip
        self.start("munged", "--foreground", "--force", f"--socket={self.folder}/munge.socket",
                   f"--key-file={key}", f"--pid-file={self.folder}/munged.pid",
                   f"--log-file={self.folder}/munged.log",
                   f"--seed-file={self.folder}/munged.seed")  # fmt: skip
        _wait(lambda: (self.folder / "munge.socket").exists(), "munged listens")
        self.start_controller()
        for name in NODES:
            self.start_node(name)
        _wait(lambda: self.node_states() == dict.fromkeys(NODES, "idle"), "all nodes are idle", 60)

    def start_controller(self) -> None:
        self.start("slurmctld", "-D")

    def start_node(self, name: str) -> None:
        self.start("slurmd", "-D", "-N", name)

    def kill_controller(self) -> None:
        self._kill("slurmctld")

    def kill_node(self, name: str) -> None:
        """End the daemon of a node as `kill -9` does; what runs on the node lives on."""
        self._kill("slurmd", "-N", name)

    def start(self, *command: str) -> None:
        """A daemon, in a session of its own: a Ctrl-C at the tests is not for it."""
        log = (self.folder / f"{command[0]}.out").open("ab")
        with log:
            daemon = subprocess.Popen(
                command, env=self.environment, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, start_new_session=True,
            )  # fmt: skip
        self._daemons.append(daemon)

    def run(self, *command: str, timeout_s: float = 60) -> str:
        """What a command of Slurm prints."""
        done = subprocess.run(
            command, env=self.environment, cwd=self.folder, stdin=subprocess.DEVNULL, capture_output=True,
            text=True, timeout=timeout_s, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr or done.stdout}"
        return done.stdout

    def node_states(self) -> dict[str, str]:
        """Each node's state as sinfo calls it: idle, mixed, allocated, down* ..."""
        try:
            lines = self.run("sinfo", "-h", "-N", "-p", "main", "-o", "%N %T").splitlines()
        except AssertionError:
            return {}
        return dict(line.split() for line in lines)

    def down(self) -> None:
        """Kill all that `up` has started, and all that this has started; the folder stays."""
        deadline = time.monotonic() + 30
        while processes := list(self.processes()):
            assert time.monotonic() < deadline, f"they do not end: {processes}"
            for process in processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(processes, timeout=1)
        for daemon in self._daemons:
            daemon.wait()

    def processes(self) -> Iterator[psutil.Process]:
        """The daemons, the jobs, and what these have started: all but the dead ones."""
        for process in psutil.process_iter():
            if environment_of(process).get(MARK) == str(self.folder):
                yield process

    def _kill(self, *command: str) -> None:
        for process in self.processes():
            words = command_line(process)
            if words and Path(words[0]).name == command[0] and set(command) <= {command[0], *words}:
                process.kill()
                psutil.wait_procs([process], timeout=10)
                return
        raise AssertionError(f"{' '.join(command)} does not run")


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin:/usr/bin:/bin"


def _free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1, none of those that the kernel gives to connections meanwhile."""
    found: list[int] = []
    with contextlib.ExitStack() as stack:
        while len(found) < count:
            port = random.randint(20_000, 30_000)
            trial = stack.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                trial.bind(("127.0.0.1", port))
                found.append(port)
    return found


def _wait(condition, what: str, timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.1)


def main(words: list[str]) -> int:
    match words:
        case ["install"]:
            install()
        case ["up", folder]:
            if reason := why_not():
                print(reason, file=sys.stderr)
                return 1
            cluster = Cluster(Path(folder))
            try:
                cluster.up()
            except BaseException:
                cluster.down()
                raise
            print(f"export SLURM_CONF={cluster.folder}/slurm.conf")
        case ["down", folder]:
            Cluster(Path(folder)).down()
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main(sys.argv[1:]))
