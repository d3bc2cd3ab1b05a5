"""What durability costs on this machine: ``python benchmarks/throughput.py``. See README.md beside it.

Starts an embedded server of its own in a temporary folder, measures, and removes everything, also when it
is interrupted. Touches no other server.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import footprint
from growth import growth_and_memory
from report import as_text, describe_machine
from speed import round_trips, throughput
from stage import open_stage

METHODS = ("thread", "process", "subprocess")
SCENARIOS = ("throughput", "round-trip", "growth", "worker", "import")


@dataclass(frozen=True)
class Extent:
    """How much is measured."""

    jobs: int
    rounds: int
    trips: int
    size: int
    """Jobs of the big campaign in `growth`."""
    block: int
    starts: int
    idle_s: float
    imports: int


FULL = Extent(
    jobs=10_000, rounds=5, trips=1000, size=200_000, block=10_000, starts=5, idle_s=10.0, imports=11
)
QUICK = Extent(jobs=5000, rounds=3, trips=300, size=40_000, block=5000, starts=3, idle_s=5.0, imports=5)


def main() -> None:
    arguments = _arguments()
    extent = QUICK if arguments.quick else FULL
    methods = tuple(arguments.method or METHODS)
    # Ended from outside, it cleans up as after Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    for name in [name for name in os.environ if name.startswith("QUEUE_EVAL_")]:
        del os.environ[name]  # no server but our own
    try:
        document = _measure(extent, arguments.jobs or extent.jobs, methods, arguments.only or SCENARIOS)
    except KeyboardInterrupt:
        sys.exit("benchmark: interrupted")
    finally:
        _progress("")
    print(json.dumps(document, indent=2) if arguments.json else as_text(document))


def _measure(
    extent: Extent, jobs: int, methods: Sequence[str], scenarios: Sequence[str]
) -> dict[str, Any]:  # fmt: skip
    with open_stage() as stage:
        found: dict[str, Any] = {"machine": describe_machine(stage)}
        if "throughput" in scenarios:
            found["throughput"] = throughput(stage, methods, jobs, extent.rounds, _progress)
        if "round-trip" in scenarios:
            found["round_trip"] = round_trips(stage, methods, extent.trips, extent.rounds, _progress)
        if "worker" in scenarios:
            found["worker"] = footprint.worker(stage, extent.starts, extent.idle_s, _progress)
        if "import" in scenarios:
            found["import"] = footprint.imports(extent.imports, _progress)
        # Last: it leaves a big server behind.
        if "growth" in scenarios:
            found |= growth_and_memory(stage, extent.size, extent.block, 3, _progress)
    return found


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What durability costs on this machine.")
    parser.add_argument("--quick", action="store_true", help="about a minute, less exact")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.add_argument("--method", action="append", choices=METHODS,
                        help="throughput and round trips of this one only (repeatable)")  # fmt: skip
    parser.add_argument("--jobs", type=_positive, help="jobs per round of the throughput scenario")
    parser.add_argument("--only", action="append", choices=SCENARIOS, help="this scenario (repeatable)")
    return parser.parse_args()


def _positive(text: str) -> int:
    number = int(text)
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
    main()
