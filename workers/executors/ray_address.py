"""Finds out which Ray cluster `ray.init` would join, and whether it answers.

Ray itself waits silently for a quarter of an hour for a cluster that has died, if an address file still names
it.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Any

import psutil

_CONNECT_S = 3.0


def why_unreachable(arguments: dict[str, Any]) -> str | None:
    """Why `ray.init` with these arguments would wait in vain now; None when it may succeed."""
    address, source = _address_of(arguments)
    if address is None or address in ("auto", "local") or "://" in address:
        return None  # Ray starts its own cluster, or its client gives up by itself
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        return None  # Ray reports what is wrong with the address
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()
    except (OSError, OverflowError) as error:
        why = f"no Ray cluster answers at {address}{source} ({getattr(error, 'strerror', None) or error})"
        return f"{why}; start it{' or remove that file' if source else ', or give its address'}"
    return None


def _address_of(arguments: dict[str, Any]) -> tuple[str | None, str]:
    """The address that Ray would use, by its documentation, and a clause that names its file."""
    address = arguments.get("address")
    if address in (None, "auto"):
        address = os.environ.get("RAY_ADDRESS") or address
    if address not in (None, "auto"):
        return str(address), ""
    file = _folder(arguments) / "ray_current_cluster"
    try:
        named = file.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None, ""
    if address == "auto" and _is_any_here():
        return None, ""  # Ray may join that cluster instead of the one in the file
    return named, f", which {file} names"


def _folder(arguments: dict[str, Any]) -> Path:
    if given := arguments.get("_temp_dir"):
        return Path(str(given))
    named = os.environ.get("RAY_TMPDIR")
    if named is None and sys.platform.startswith("linux"):
        named = os.environ.get("TMPDIR")
    return Path("/tmp" if named is None else named) / "ray"  # noqa: S108 - only read


def _is_any_here() -> bool:
    """Whether a Ray cluster runs on this machine."""
    return any(
        word.startswith("--gcs-address=")
        for process in psutil.process_iter(["cmdline"])
        for word in process.info["cmdline"] or ()
    )
