"""A run function that tells what it sees of the GPUs."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import pathlib
import time
import uuid
from typing import Any


def see(config: dict[str, Any]) -> dict[str, Any]:
    if "started" in config:
        pathlib.Path(config["started"]).touch()
    seen = {
        "pid": os.getpid(), "visible": os.environ.get("CUDA_VISIBLE_DEVICES"), "cuda": _cuda(),
        "torch": _torch(),
    }  # fmt: skip
    while "gate" in config and not pathlib.Path(config["gate"]).exists():
        time.sleep(0.01)
    return seen


def _cuda() -> list[str] | None:
    """UUIDs of the devices that the driver's own library counts; None without it."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    count = ctypes.c_int()
    assert cuda.cuInit(0) == 0
    assert cuda.cuDeviceGetCount(ctypes.byref(count)) == 0
    found = []
    for number in range(count.value):
        raw = (ctypes.c_ubyte * 16)()
        assert cuda.cuDeviceGetUuid(ctypes.byref(raw), number) == 0
        found.append(f"GPU-{uuid.UUID(bytes=bytes(raw))}")
    return found


def _torch() -> int | None:
    """How many a framework counts, after it has used one."""
    if importlib.util.find_spec("torch") is None:
        return None
    import torch

    count = torch.cuda.device_count()
    if count:
        assert float((torch.ones(8, 8, device="cuda:0") @ torch.ones(8, 8, device="cuda:0")).sum()) == 512.0
    return int(count)
