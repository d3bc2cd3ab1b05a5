"""What durability costs on this machine: ``python -m benchmarks``. See README.md beside it.

Every scenario starts servers, workers and peers of its own and ends them, also when it fails or is
interrupted. No other server is touched.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any

from benchmarks.extent import FULL, QUICK, Extent
from benchmarks.findings import Found
from benchmarks.machine import describe_machine
from benchmarks.peers import PEERS
from benchmarks.picture import can_draw, draw
from benchmarks.report import as_text
from benchmarks.stage import open_stage

SCENARIOS = (
    "throughput", "round-trip", "gap", "slots", "growth", "reopen", "memory", "idle", "others",
    "driver", "big", "start", "inside", "peers",
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    asked = _parse(arguments)
    extent = QUICK if asked.quick else FULL
    if asked.jobs:
        extent = dataclasses.replace(extent, size=asked.jobs)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    for name in [name for name in os.environ if name.startswith("QUEUE_EVAL_")]:
        del os.environ[name]  # no server but our own
    try:
        document = _read(asked.show) if asked.show else _measure(extent, asked)
    except KeyboardInterrupt:
        print("benchmarks: interrupted", file=sys.stderr)
        return 130
    finally:
        _progress("")
    print(json.dumps(document, indent=2) if asked.json else as_text(document))
    if asked.picture:
        try:
            draw(document, asked.picture)
        except (ValueError, OSError) as error:
            print(f"benchmarks: no picture: {error}", file=sys.stderr)
            return 1
    return 1 if document["failed"] else 0


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    # Only once: a second one would keep from ending what was started.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _measure(extent: Extent, asked: argparse.Namespace) -> dict[str, Any]:
    with open_stage() as stage:
        document: dict[str, Any] = {"machine": describe_machine(stage)}
    document |= {"extent": dataclasses.asdict(extent), "scenarios": {}, "failed": []}
    for name in SCENARIOS:
        if asked.only and name not in asked.only:
            continue
        module = import_module(f"benchmarks.scenarios.{name.replace('-', '_')}")
        more = (asked.peer or list(PEERS), asked.python or []) if name == "peers" else ()
        try:
            found: Found = module.measure(extent, _progress, *more)
        except Exception as error:  # the other scenarios are worth having all the same
            traceback.print_exc()
            document["failed"].append(name)
            why = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            found = Found(missing=[f"FAILED: {why}"])
        document["scenarios"][name] = found.as_json(name, module.TITLE)
    return document


def _read(file: Path) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads(file.read_text())
        as_text(document)
    except (ValueError, KeyError, TypeError):
        sys.exit(f"benchmarks: {file} does not hold what --json gives")
    return document


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="What durability costs here.")
    parser.add_argument("--only", action="append", choices=SCENARIOS, help="this scenario (repeatable)")
    parser.add_argument("--quick", action="store_true", help="a few minutes, less exact")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.add_argument("--jobs", type=_positive, help=f"jobs of the big campaign ({FULL.size:,})")
    parser.add_argument("--peer", action="append", choices=PEERS, help="of the peers only this (repeatable)")
    parser.add_argument("--python", action="append", type=_program,
                        help="an interpreter that has peers which this one lacks (repeatable)")  # fmt: skip
    parser.add_argument("--picture", type=Path, metavar="FILE.png",
                        help="throughput by system, and cost per job by size of the campaign")  # fmt: skip
    parser.add_argument("--show", type=_file, metavar="FILE.json",
                        help="measure nothing: print, or draw, what --json has given")  # fmt: skip
    asked = parser.parse_args(arguments)
    if asked.picture and not can_draw():
        parser.error("--picture needs matplotlib; pip install '.[bench]'")
    return asked


def _file(text: str) -> Path:
    path = Path(text)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"{text} is not a file")
    return path


def _program(text: str) -> str:
    if shutil.which(text) is None:
        raise argparse.ArgumentTypeError(f"{text} is not a program")
    return text


def _positive(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return number


def _progress(what: str) -> None:
    """One line on stderr; on a terminal it is written over, and "" removes it."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{what}", end="", file=sys.stderr, flush=True)
    elif what:
        print(what, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
