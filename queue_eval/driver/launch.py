"""What a driver starts a local worker with: interpreters, working folder and environment, and their digest.

A worker runs user code with what it was started with, however often the driver is run again. A driver sees by
the digest on the worker's card whether that is the same as what it has itself.

Guarantees: no variable, and no part of one, can be read or guessed from a digest. It is an HMAC, and its key
is that of the access file, or one that never leaves the home.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from queue_eval.errors import WorkerError
from queue_eval.marks import INSIDE_JOB, unmarked
from queue_eval.model.signing_key import verifying_half
from queue_eval.own_files import IMPORT_ROOT
from queue_eval.runtime.environment import working_folder
from queue_eval.transport.access import Access, write_access, write_private
from queue_eval.transport.private_files import read_private
from queue_eval.transport.private_home import make_home

LOCAL_ACCESS = "local-access-{}.json"
"""The file in a home for local workers of a driver whose own access file lies elsewhere."""

LAUNCH_KEY = "launch.key"
"""The file in a home that holds the key of digests, where the driver has no key of an access file."""

NOISE = frozenset(
    {
        # Where and how the shell stands; the working folder itself is part of the digest.
        "_", "OLDPWD", "PWD", "SHLVL",
        # The terminal.
        "COLORTERM", "COLUMNS", "GPG_TTY", "LINES", "PS1", "STY", "TERM", "TERMCAP", "TERM_PROGRAM",
        "TERM_PROGRAM_VERSION", "TERM_SESSION_ID", "TMUX", "TMUX_PANE", "VTE_VERSION", "WINDOW", "WINDOWID",
        # The login, the service or the notebook that the driver runs in.
        "INVOCATION_ID", "JOURNAL_STREAM", "JPY_PARENT_PID", "JPY_SESSION_NAME", "SSH_CLIENT",
        "SSH_CONNECTION", "SSH_TTY", "SYSTEMD_EXEC_PID", "XDG_SEAT", "XDG_VTNR",
        # The test that the driver runs in.
        "PYTEST_CURRENT_TEST",
        # Local workers are started without it.
        INSIDE_JOB,
    }
)  # fmt: skip
"""Variables that differ between terminals and logins, and do not change what a job does: see
docs/evaluator.md."""

NOISE_PREFIXES = (
    "ALACRITTY_", "DBUS_", "GNOME_TERMINAL_", "ITERM_", "KITTY_", "KONSOLE_", "VSCODE_", "WEZTERM_",
    "XDG_SESSION_",
)  # fmt: skip


@dataclass(frozen=True, repr=False)
class Launch:
    """What the workers of one driver are started with. Its environment may hold passwords: it has no repr."""

    program: str
    """The interpreter of the worker itself, and its version."""
    python: str
    """The interpreter that runs user code."""
    folder: str | None
    """The working folder, or None when it was removed."""
    environment: Mapping[str, str]

    @classmethod
    def now(cls, python: str) -> Launch:
        """What this process has at this moment."""
        return cls(f"{sys.executable} {sys.version}", python, working_folder(), unmarked())

    def digest(self, key: bytes) -> str:
        """A digest, equal exactly for equal interpreters, folders and variables without `NOISE`."""
        parts = [self.program, self.python, self.folder or ""]
        parts += sorted(f"{name}={value}" for name, value in self.environment.items() if not is_noise(name))
        # A zero byte separates the parts, since the system allows it in none of them.
        message = b"\0".join(os.fsencode(part) for part in ("queue_eval launch 1", *parts))
        return hmac.new(key, message, hashlib.sha256).hexdigest()

    def start(self, command: Sequence[str], output: IO[bytes], access: Access) -> subprocess.Popen[bytes]:
        """Start a worker for the server of `access`, detached. Raises WorkerError when that fails at once."""
        # The same folder is inherited: one that was removed can be inherited, but not entered.
        folder = None if self.folder == working_folder() else self.folder
        try:
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=folder,
                env=self._environment_for(access), start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise WorkerError(f"no worker can be started on this machine: {error}; mend that") from error

    def _environment_for(self, access: Access) -> dict[str, str]:
        environment = {**self.environment, "QUEUE_EVAL_PYTHON": self.python}
        environment.pop(INSIDE_JOB, None)
        if access.file is not None and access.home is None:
            environment["QUEUE_EVAL_ACCESS"] = str(access.file)
        elif access.home is None:
            # Not given on the command line, which every user of the machine can read.
            environment["QUEUE_EVAL_URL"] = access.url
            environment.pop("QUEUE_EVAL_ACCESS", None)
            if access.key is not None:
                environment["QUEUE_EVAL_KEY"] = access.key.decode()
        if "QUEUE_EVAL_KEY" in environment:
            key = environment["QUEUE_EVAL_KEY"].strip().encode()
            environment["QUEUE_EVAL_KEY"] = verifying_half(key).decode()
        if IMPORT_ROOT not in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib")):
            # The package is not installed: the worker is to use the same sources as this process.
            path = filter(None, (IMPORT_ROOT, environment.get("PYTHONPATH")))
            environment["PYTHONPATH"] = os.pathsep.join(path)
        return environment


def is_noise(variable: str) -> bool:
    return variable in NOISE or variable.startswith(NOISE_PREFIXES)


def for_workers(access: Access, home: Path) -> Access:
    """The access that a driver gives to its local workers. Its key cannot sign, since user code may read it.

    Where the driver was given an access file that lies outside `home`, the workers get a file of their own in
    `home` (mode 0600). When the server moves, the driver writes it again.
    """
    key = None if access.key is None else verifying_half(access.key)
    if key == access.key:
        return access
    given = replace(access, key=key, verifies_only=True)
    if access.file is None or access.home is not None:
        return given  # The workers get it by the environment, or by the home's own file for workers.
    name = LOCAL_ACCESS.format(hashlib.sha256(os.fsencode(access.file)).hexdigest()[:8])
    make_home(home)
    write_access(home, access.url, key, name=name, role="worker", **({"ca": access.ca} if access.ca else {}))
    return replace(given, file=home / name)


def launch_key(access: Access, home: Path) -> bytes:
    """The key of digests: that of the access file, else one of the home's own, created if missing."""
    if access.key is not None:
        return access.key
    path = home / LAUNCH_KEY
    if not path.exists():
        make_home(home)
        _make_key(path)
    return read_private(path)


def _make_key(path: Path) -> None:
    """Write a key. If another driver was faster, its key stays."""
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_hex(32))
        with suppress(FileExistsError):
            os.link(temporary, path)
    except OSError:  # The file system has no hard links.
        write_private(path, secrets.token_hex(32))
    finally:
        Path(temporary).unlink()
