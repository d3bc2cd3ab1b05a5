"""A program named squeue on a PATH, for tests."""

from __future__ import annotations

import os
from pathlib import Path


def fake_squeue(folder: Path, script: str) -> dict[str, str]:
    """The environment in which `squeue` is this shell script; it lies in ``folder/bin``."""
    (folder / "bin").mkdir()
    program = folder / "bin" / "squeue"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return {"PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"}
