"""Processes in namespaces of their own: other process ids, another name of the host."""

from __future__ import annotations

import functools
import os
import subprocess
import sys

import pytest

from tests.support.fault_fleet import ROOT

OTHER_PIDS = ("--pid", "--fork", "--mount-proc", "--kill-child")
OTHER_NAME = ("--uts",)


@functools.cache
def _can_be_made() -> bool:
    command = ["unshare", *OTHER_PIDS, *OTHER_NAME, "true"]
    try:
        return subprocess.run(command, capture_output=True, check=False, timeout=10).returncode == 0
    except FileNotFoundError:
        return False


def start_inside(flags: tuple[str, ...], *command: str, **environment: str) -> subprocess.Popen[str]:
    """What is started there ends with it, where process ids are its own."""
    if not _can_be_made():
        pytest.skip("namespaces cannot be made here; that takes root, on Linux")
    return subprocess.Popen(
        ["unshare", *flags, "--", *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
    )  # fmt: skip


def run_inside(flags: tuple[str, ...], *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    with start_inside(flags, *command, **environment) as process:
        try:
            output, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


def python(code: str, *arguments: object) -> tuple[str, ...]:
    return (sys.executable, "-P", "-c", code, *map(str, arguments))


def queue_eval(*arguments: object) -> tuple[str, ...]:
    return (sys.executable, "-P", "-m", "queue_eval", *map(str, arguments))
