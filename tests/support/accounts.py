"""Processes of other accounts on this machine, with this interpreter, which may lie where they cannot go."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.fault_fleet import ROOT
from tests.support.foreign_listener import needs_accounts

_ENTER = """
set -eu
stage=$1 uid=$2 hidden=$3
shift 3
# First all that is needed, then an empty folder over each that is closed, then what is needed in its place.
mount -t tmpfs -o mode=755 stage "$stage"
number=0
for tree in $NEEDED; do
  mkdir "$stage/$number"
  mount --rbind "$tree" "$stage/$number"
  number=$((number + 1))
done
for folder in $hidden; do mount -t tmpfs -o mode=755 closed "$folder"; done
number=0
for tree in $NEEDED; do
  mkdir -p "$tree"
  mount --rbind "$stage/$number" "$tree"
  number=$((number + 1))
done
exec setpriv --reuid "$uid" --regid "$uid" --clear-groups "$@"
"""


def start_as(uid: int, folder: Path, *command: str) -> subprocess.Popen[str]:
    """Start a process as another account, whose own folder `folder` is: its HOME and working folder.

    In a mount namespace of its own, where everybody can reach this interpreter and this project. Skips
    the test where that cannot be had.
    """
    needs_accounts()
    if not all(map(shutil.which, ("unshare", "setpriv"))):
        import pytest

        pytest.skip("a second account with this interpreter takes unshare and setpriv (util-linux)")
    needed = list(dict.fromkeys(map(os.path.realpath, (sys.base_prefix, sys.prefix, ROOT))))
    hidden = sorted({str(closed) for tree in needed if (closed := _closed_above(Path(tree)))})
    stage = folder.parent / "stage"
    stage.mkdir(exist_ok=True)
    environment = {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "HOME": str(folder), "PYTHONPATH": str(ROOT),
        "NEEDED": " ".join(needed), "PYTHONDONTWRITEBYTECODE": "1", "LANG": "C.UTF-8",
    }  # fmt: skip
    return subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", _ENTER, "sh", str(stage), str(uid), " ".join(hidden), *command],
        cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip


def _closed_above(tree: Path) -> Path | None:
    """The highest folder on the way that others cannot enter."""
    way = (tree, *tree.parents)
    return next((folder for folder in reversed(way) if not folder.stat().st_mode & 0o001), None)
