"""What a driver starts a local worker with: interpreters, working folder and environment, and their digest.

A worker runs user code with what it was started with, however often the driver is run again. By the digest
on its card a driver knows whether that is what it has itself.

Guarantees: no variable and no part of one can be read or guessed from a digest: it is an HMAC, and its key is
that of the access file, or one that never leaves the home.
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
"""The file in a home whose driver has no key of an access file."""

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
"""Variables that change from one terminal or login to the next, and not what a job does: see
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
    """The working folder; None when it was removed."""
    environment: Mapping[str, str]

    @classmethod
    def now(cls, python: str) -> Launch:
        """What this process has at this moment."""
        return cls(f"{sys.executable} {sys.version}", python, working_folder(), unmarked())

    def digest(self, key: bytes) -> str:
        """Equal exactly for equal interpreters, folders and variables, `NOISE` apart."""
        parts = [self.program, self.python, self.folder or ""]
        parts += sorted(f"{name}={value}" for name, value in self.environment.items() if not is_noise(name))
        # No part holds a zero byte: the system allows it in none of them.
        message = b"\0".join(os.fsencode(part) for part in ("queue_eval launch 1", *parts))
        return hmac.new(key, message, hashlib.sha256).hexdigest()

    def start(self, command: Sequence[str], output: IO[bytes], access: Access) -> subprocess.Popen[bytes]:
        """Start a worker for the server of `access`, detached. Raises WorkerError when that fails at once."""
        # Inherited where it is the same: a folder that was removed can be inherited, but not be entered.
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
            # Not on the command line, which every user of the machine can read.
            environment["QUEUE_EVAL_URL"] = access.url
            environment.pop("QUEUE_EVAL_ACCESS", None)
            if access.key is not None:
                environment["QUEUE_EVAL_KEY"] = access.key.decode()
        if "QUEUE_EVAL_KEY" in environment:
            key = environment["QUEUE_EVAL_KEY"].strip().encode()
            environment["QUEUE_EVAL_KEY"] = verifying_half(key).decode()
        if IMPORT_ROOT not in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib")):
            # Not installed: the worker is to use the same sources as this process.
            path = filter(None, (IMPORT_ROOT, environment.get("PYTHONPATH")))
            environment["PYTHONPATH"] = os.pathsep.join(path)
        return environment


def is_noise(variable: str) -> bool:
    return variable in NOISE or variable.startswith(NOISE_PREFIXES)


def for_workers(access: Access, home: Path) -> Access:
    """What a driver gives to its local workers: no key that signs, for user code runs as their account.

    Of a driver whose access file was named by itself they get a file of their own in `home` (mode 0600). It
    follows the server as often as its driver writes it.
    """
    key = None if access.key is None else verifying_half(access.key)
    if key == access.key:
        return access
    given = replace(access, key=key, verifies_only=True)
    if access.file is None or access.home is not None:
        return given  # by the environment, and by the file for workers that the home has
    name = LOCAL_ACCESS.format(hashlib.sha256(os.fsencode(access.file)).hexdigest()[:8])
    make_home(home)
    write_access(home, access.url, key, name=name, role="worker", **({"ca": access.ca} if access.ca else {}))
    return replace(given, file=home / name)


def launch_key(access: Access, home: Path) -> bytes:
    """The key of digests: that of the access file, else one of the home's own, which is made if need be."""
    if access.key is not None:
        return access.key
    path = home / LAUNCH_KEY
    if not path.exists():
        make_home(home)
        _make_key(path)
    return read_private(path)


def _make_key(path: Path) -> None:
    """Write a key, unless another driver is faster: its key stays."""
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_hex(32))
        with suppress(FileExistsError):
            os.link(temporary, path)
    except OSError:  # a file system without hard links
        write_private(path, secrets.token_hex(32))
    finally:
        Path(temporary).unlink()
