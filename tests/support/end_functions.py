"""Run functions that rely on the end of their process: on exit handlers, on threads, on the last flush."""

from __future__ import annotations

import atexit
import os
import threading
import time
from pathlib import Path
from typing import Any

KEPT: list[Any] = []


def leave_work(config: dict[str, Any]) -> int:
    """Leaves a file open, a thread at work, and something for an exit handler."""
    folder = Path(config["folder"])
    KEPT.append((folder / "file").open("w"))
    KEPT[-1].write("written")
    atexit.register((folder / "atexit").write_text, "written")
    threading.Thread(target=upload, args=(folder / "thread",)).start()
    return config["id"]


def upload(file: Path) -> None:
    time.sleep(0.3)
    file.write_text("written")
    print("uploaded")


def hang_at_exit(config: dict[str, Any]) -> int:
    atexit.register(time.sleep, 1000)
    return config["id"]


def die_at_exit(config: dict[str, Any]) -> int:
    atexit.register(os.abort)
    return config["id"]


def close_all(config: dict[str, Any]) -> int:
    """As code does that is about to become a daemon."""
    if config.get("close"):
        os.closerange(3, 256)
        if config["close"] == "hang":
            time.sleep(1000)
    return config["id"]
