"""A process that outlives its worker for a moment, to end the programs that the worker's jobs have started.

::

    worker ──▶ sh ──▶ guard (an orphan at once, in a session of its own)
       └─pipe, nothing is ever written──▶ its end: the worker has ended, however

The kernel kills the process groups of a dead worker's children (see
`queue_eval.runtime.lifeline`). The guard finds processes that have left these groups by the mark in their
environment. It ignores stop signals: a batch system sends them to all processes, and the worker goes on for
as long as it drains.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

from queue_eval.foreign_text import plain
from queue_eval.marks import unmarked
from queue_eval.runtime.leftovers import CAN_BE_FOUND, Termination, dies_with_first_process
from queue_eval.runtime.stop_signals import blocked

log = plain(logging.getLogger(__name__))

_PROGRAM = "from workers.guard import main; main()"


class Guard:
    """Watches over one worker. `mark`: the prefix of the marks of all its children; `secrets`: variables that
    the guard must not get; `folder`: the worker's temporary folder, which goes at the end."""

    def __init__(self, mark: str, secrets: Collection[str], folder: Path | None = None) -> None:
        self._folder = folder
        self._mark = mark
        self._secrets = secrets
        self._pipe: int | None = None

    def start(self) -> None:
        """Start the guard, unless it runs or has nothing to do. May be called twice."""
        if self._pipe is not None or not CAN_BE_FOUND or dies_with_first_process():
            return
        theirs, self._pipe = os.pipe()
        # The guard outlives the job in which this worker may run: it gets no mark of that job.
        env = {name: value for name, value in unmarked().items() if name not in self._secrets}
        command = [sys.executable, "-P", "-c", _PROGRAM, str(theirs), self._mark, str(self._folder or "")]
        try:
            with blocked():  # the guard inherits this for as long as it lives
                subprocess.run(
                    ["/bin/sh", "-c", '"$@" &', "sh", *command], check=True, pass_fds=(theirs,),
                    stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                    start_new_session=True, env=env,
                )  # fmt: skip
        except (OSError, subprocess.SubprocessError) as error:
            log.warning("what jobs have started may outlive this worker: cannot start its guard: %s", error)
            self.close()
        finally:
            os.close(theirs)

    def close(self) -> None:
        """Let the guard end. May be called twice."""
        if self._pipe is not None:
            os.close(self._pipe)
            self._pipe = None


def main() -> None:
    pipe, mark, folder = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    os.chdir("/")  # a folder that is to be removed must not be in use
    with contextlib.suppress(OSError):
        os.read(pipe, 1)
    Termination(mark).run()
    if folder:
        shutil.rmtree(folder, ignore_errors=True)
