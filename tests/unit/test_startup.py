"""Ctrl-C before a command has begun: one quiet end, whatever is being imported."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import os, signal, sys
from queue_eval.__main__ import main

class Interrupting:
    @staticmethod
    def find_spec(name, *_):
        if name == at:
            print("reached", flush=True)
            os.kill(os.getpid(), signal.SIGINT)

at, handler, *sys.argv[1:] = sys.argv[1:]
sys.meta_path.insert(0, Interrupting)
signal.signal(signal.SIGINT, getattr(signal, handler))
main()
"""


def interrupt(at: str, handler: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM, at, handler, *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("at", ["click", "queue_eval.cli.failures", "queue_eval.cli.status"])
def test_ctrl_c_while_modules_are_imported(at):
    done = interrupt(at, "default_int_handler", "status", "--help")
    assert (done.returncode, done.stdout, done.stderr) == (130, "reached\n", "")


def test_a_program_in_the_background_is_not_interrupted():
    """Where the shell has it ignore Ctrl-C."""
    done = interrupt("click", "SIG_IGN", "status", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("reached\nUsage:")
