"""Several hosts on one machine, made of Linux namespaces.

::

    pytest ── pipe ──▶ the switch: a network namespace with a bridge
       │                  │ port0        │ port1        │ port2
       └──── pipe ──▶ host │ eth0     host │ eth0     host │ eth0   …

**A host** has a network, a host name, process ids, mounts and a boot id of its own, and a home folder. What
it shares with the others is the file system below: a shared folder, as clusters have. Its first process
waits for the end of a pipe that only the test holds, and the kernel ends all others with it; so whatever
becomes of the test, even `kill -9`, no process, interface or mount of it remains, and the machine's own
network is never touched.

Without root the whole is made in a user namespace, where that is allowed.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.support.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ("ip", "iptables", "unshare", "nsenter", "bash", "mount")
SUBNET = "10.77.0"

_WAIT = "echo ready; read -r _"
"""What a first process does: it ends with the test that holds its input."""


@contextmanager
def network() -> Iterator[Network]:
    """A switch without hosts."""
    # Not pytest's folder: the path of a unix socket is short, and other users must get in.
    folder = Path(tempfile.mkdtemp(prefix="qe-hosts-"))
    folder.chmod(0o755)
    made = Network(folder)
    try:
        made.open()
        yield made
    finally:
        made.close()
        shutil.rmtree(folder)
        made.remove_temporary()


def why_not() -> str | None:
    """Why hosts cannot be made here, or None."""
    if sys.platform != "linux":
        return "network namespaces are Linux's"
    path = _environment({})["PATH"]
    if missing := [tool for tool in TOOLS if shutil.which(tool, path=path) is None]:
        return f"not installed: {', '.join(missing)} (Debian: apt-get install iproute2 iptables util-linux)"
    try:
        with network() as net:
            host = net.host("trial")
            host.check("iptables", "-w", "-I", "INPUT", "-m", "statistic", "--mode", "random",
                       "--probability", "0.5", "-j", "DROP")  # fmt: skip
    except (AssertionError, OSError) as error:
        return f"namespaces are not allowed here: {' '.join(str(error).split())[:300]}"
    return None


@dataclass
class Process:
    """A process on a host. `pid` is its number as the test sees it."""

    outer: subprocess.Popen[str]
    pid: int
    log: Path

    def send(self, number: int) -> None:
        os.kill(self.pid, number)
        if number == signal.SIGCONT:
            self.outer.send_signal(number)  # nsenter stops with its child

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        self.send(signal.SIGKILL)
        self.outer.wait(20)

    def end(self, number: int = signal.SIGTERM, timeout_s: float = 30) -> int:
        self.send(number)
        return self.outer.wait(timeout_s)

    def wait(self, timeout_s: float = 60) -> int:
        return self.outer.wait(timeout_s)

    @property
    def is_running(self) -> bool:
        return self.outer.poll() is None

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")


@dataclass
class Host:
    """One host; see the module. Made by `Network.host`."""

    network: Network
    name: str
    address: str
    folder: Path
    """Its own: its processes' home and working directory."""
    port: str
    """Its interface on the switch."""
    first: subprocess.Popen[str]
    pid: int
    started: list[Process] = field(default_factory=list)

    def start(
        self, *command: str | Path, environment: dict[str, str] | None = None, prefix: Sequence[str] = ()
    ) -> Process:
        """A process that goes on. `prefix` is a command that runs it, such as one that changes the user."""
        log = self.network.folder / "logs" / f"{self.port}-{self.name}-{len(self.started)}.log"
        enter = [*self._enter, *prefix, *map(str, command)]
        with log.open("w") as file:
            outer = subprocess.Popen(
                enter, cwd=self.folder, env=self._environment(environment), text=True,
                stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
            )  # fmt: skip
        # nsenter forks: only a child is in the other namespace of process ids.
        found = wait_until(lambda: outer.poll() is not None or _children(outer.pid))
        process = Process(outer, found[0] if isinstance(found, list) else outer.pid, log)
        self.started.append(process)
        return process

    def run(
        self, *command: str | Path, environment: dict[str, str] | None = None, prefix: Sequence[str] = (),
        timeout_s: float = 60,
    ) -> subprocess.CompletedProcess[str]:  # fmt: skip
        """A process that is waited for."""
        return subprocess.run(
            [*self._enter, *prefix, *map(str, command)], cwd=self.folder, check=False, capture_output=True,
            env=self._environment(environment), stdin=subprocess.DEVNULL, text=True, timeout=timeout_s,
        )  # fmt: skip

    def check(self, *command: str | Path, environment: dict[str, str] | None = None) -> str:
        """The output of a process that must succeed."""
        done = self.run(*command, environment=environment)
        assert done.returncode == 0, f"{command} on {self.name}: {done.stdout}{done.stderr}"
        return done.stdout

    def cut(self) -> None:
        """Pull the cable."""
        self.network.switch("ip", "link", "set", self.port, "down")

    def mend(self) -> None:
        """Put the cable back in."""
        self.network.switch("ip", "link", "set", self.port, "up")

    def drop(self, share: float = 1.0) -> None:
        """Drop this share of its packets, both ways, with no sign to anybody; 0 for none any more."""
        self.check("iptables", "-w", "-F")
        which = ("-m", "statistic", "--mode", "random", "--probability", str(share)) if share < 1 else ()
        for chain in ("INPUT", "OUTPUT") if share else ():
            self.check("iptables", "-w", "-A", chain, "!", "-i" if chain == "INPUT" else "-o", "lo", *which,
                       "-j", "DROP")  # fmt: skip

    def dropped(self) -> int:
        """How many packets were dropped since `drop`."""
        counters = self.check("iptables", "-w", "-nvxL").splitlines()
        return sum(int(line.split()[0]) for line in counters if " DROP " in line)

    def power_off(self) -> None:
        """All its processes die at once, without a word to the network."""
        self.first.kill()
        os.kill(self.pid, signal.SIGKILL)
        self.close()

    def close(self) -> None:
        assert self.first.stdin is not None
        assert self.first.stdout is not None
        self.first.stdin.close()
        self.first.wait(20)
        self.first.stdout.close()
        for process in self.started:
            process.outer.kill()  # nsenter: what it ran is gone
            process.outer.wait(20)

    def _environment(self, more: dict[str, str] | None) -> dict[str, str]:
        return _environment({"HOME": str(self.folder)} | (more or {}))

    @property
    def _enter(self) -> list[str]:
        spaces = ("--net", "--uts", "--ipc", "--mount", "--pid")
        return [*_nsenter(self.pid), *spaces, f"--wd={self.folder}", "--"]


class Network:
    """A switch, and the hosts on it. `close` ends all that runs there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shared = folder / "shared"
        self._boots: list[str] = []
        """The boot id of every host that there ever was."""
        self.hosts: dict[str, Host] = {}
        self._first: subprocess.Popen[str] | None = None
        self._pid = 0
        self._count = 0

    def open(self) -> None:
        for folder in (self.shared, self.folder / "logs"):
            folder.mkdir()
        self.shared.chmod(0o777)
        self._write_names()
        user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
        self._first, self._pid = _first_process(["unshare", *user, "--net", "--mount", "bash", "-c", _WAIT])
        self.switch("ip", "link", "add", "bridge", "type", "bridge")
        self.switch("ip", "link", "set", "bridge", "up")

    def remove_temporary(self) -> None:
        """What processes have left in the temporary folder when their host died: see `runtime.temporary`."""
        for boot in self._boots:
            for left in Path(tempfile.gettempdir()).glob(f"qe-{boot[:8]}-*"):
                shutil.rmtree(left)

    def host(self, name: str) -> Host:
        """A new host, under a name that the others know."""
        self._count += 1
        number = self._count
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        identity = self.folder / f"{name}.id"
        self._boots.append(secrets.token_hex(16))
        identity.write_text(f"{self._boots[-1]}\n")
        # What would give it away as the same machine as the others is replaced, before anything runs there.
        setup = (
            f"set -e; hostname {name}; mount --bind {self._names} /etc/hosts;"
            f" mount --bind {identity} /proc/sys/kernel/random/boot_id;"
            f" if [ -e /etc/machine-id ]; then mount --bind {identity} /etc/machine-id; fi; {_WAIT}"
        )
        spaces = ("--net", "--uts", "--ipc", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
        command = ["unshare", *spaces, "bash", "-c", setup]
        first, pid = _first_process([*_nsenter(self._pid), "--net", "--mount", *command])
        host = Host(self, name, f"{SUBNET}.{number}", folder, f"port{number}", first, pid)
        self.hosts[name] = host
        self._write_names()
        self.switch("ip", "link", "add", host.port, "type", "veth", "peer", "name", "eth0", "netns", str(pid))
        self.switch("ip", "link", "set", host.port, "master", "bridge", "up")
        host.check("ip", "address", "add", f"{host.address}/24", "dev", "eth0")
        for interface in ("lo", "eth0"):
            host.check("ip", "link", "set", interface, "up")
        return host

    def remove(self, host: Host) -> None:
        """Take a host off the network, and whatever runs there with it."""
        del self.hosts[host.name]
        self._write_names()
        host.power_off()

    def switch(self, *command: str | Path, outside: bool = False, timeout_s: float = 20) -> None:
        """Run a command on the switch, whose mounts later hosts inherit; `outside`: in the real network."""
        net = [] if outside else ["--net"]
        done = subprocess.run(
            [*_nsenter(self._pid), *net, "--mount", "--wd=/", "--", *map(str, command)], env=_environment({}),
            capture_output=True, text=True, timeout=timeout_s, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"

    def said(self) -> str:
        """What all processes wrote."""
        logs = sorted((self.folder / "logs").iterdir())
        return "\n".join(f"--- {log.name}\n{log.read_text(errors='replace')[-5000:]}" for log in logs)

    def close(self) -> None:
        for host in self.hosts.values():
            host.close()
        if self._first is not None:
            self._first.communicate(timeout=20)

    def _write_names(self) -> None:
        # In place: every host has this very file mounted.
        lines = [f"{host.address} {host.name}\n" for host in self.hosts.values()]
        self._names.write_text("".join(["127.0.0.1 localhost\n", *lines]))

    @property
    def _names(self) -> Path:
        return self.folder / "etc-hosts"


def _first_process(command: list[str]) -> tuple[subprocess.Popen[str], int]:
    """Start what holds namespaces; itself, and the process inside them, once that is ready."""
    first = subprocess.Popen(
        command, env=_environment({}), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert first.stdout is not None
    said = ""
    for line in first.stdout:
        if line == "ready\n":
            pid = first.pid
            while below := _children(pid):
                (pid,) = below
            return first, pid
        said += line
    first.communicate(timeout=20)
    raise AssertionError(said)


def _nsenter(pid: int) -> list[str]:
    user = [] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]
    return ["nsenter", f"--target={pid}", *user]


def _children(pid: int) -> list[int]:
    try:
        return [child.pid for child in psutil.Process(pid).children()]
    except psutil.NoSuchProcess:
        return []


def _environment(more: dict[str, str]) -> dict[str, str]:
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin:/usr/bin:/bin"
    return os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)} | more
