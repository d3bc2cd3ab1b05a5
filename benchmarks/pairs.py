"""No-op throughput of this build to that of another: ``python -m benchmarks.pairs FOLDER``. See README.md.

Each pair is a server, a worker and a driver of either build, in processes of their own that are new. Both are
there at the same time, and run the same jobs in turn; who is first changes from round to round. Of each pair
counts the mean of its rounds, so that what differs between processes (the layout of their memory, the ids of
their threads) is in the interval.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.peers.outside import ROOT

METHODS = ("thread", "process")

_SERVE = """
import sys
from benchmarks.stage import BATCH, open_stage
with open_stage() as stage, stage.driver(sys.argv[1]) as driver:
    print("ready", flush=True)
    for line in sys.stdin:
        print(int(line) / driver.run(int(line), batch=BATCH), flush=True)
"""


@contextmanager
def build(checkout: Path, method: str) -> Iterator[subprocess.Popen[str]]:
    """A driver of this checkout, with a server and a worker; it is told how many jobs, and tells its rate."""
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVE, method], cwd=checkout, env=_environment(checkout), text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    with process:  # at the end its standard input is closed: it ends what it has started
        if _line(process) != "ready":
            raise RuntimeError(f"{checkout} does not run")
        yield process


def rate(process: subprocess.Popen[str], jobs: int) -> float:
    """Evaluations per second."""
    assert process.stdin is not None
    print(jobs, file=process.stdin, flush=True)
    return float(_line(process))


def ratio_of_pair(method: str, other: Path, *, jobs: int, rounds: int) -> float:
    """This build's rate to that of the other one, in new processes: the geometric mean of its rounds."""
    with ExitStack() as stack:
        ours, theirs = (stack.enter_context(build(checkout, method)) for checkout in (ROOT, other))
        logs = []
        for number in range(rounds):
            rates = {each: rate(each, jobs) for each in ((ours, theirs), (theirs, ours))[number % 2]}
            logs.append(math.log(rates[ours] / rates[theirs]))
    return math.exp(statistics.fmean(logs))


def interval(ratios: Sequence[float]) -> tuple[float, float, float]:
    """Mean ratio of the pairs, and its 95 % interval."""
    logs = [math.log(value) for value in ratios]
    mean, error = statistics.fmean(logs), statistics.stdev(logs) / math.sqrt(len(logs))
    half = _student(len(logs) - 1) * error
    return math.exp(mean), math.exp(mean - half), math.exp(mean + half)


def _student(freedom: int) -> float:
    """Student's t for 95 %, two-sided, by Cornish and Fisher; within 1 % from four degrees of freedom on."""
    z = statistics.NormalDist().inv_cdf(0.975)
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def _environment(checkout: Path) -> dict[str, str]:
    """Both builds in the same interpreter, with the same packages, compiled."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("QUEUE_EVAL_")}
    own.pop("PYTHONDONTWRITEBYTECODE", None)
    return own | {"PYTHONPATH": str(checkout)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("other", type=Path, metavar="FOLDER", help="a checkout of the build to compare with")
    parser.add_argument("--method", action="append", choices=METHODS, help="only this")
    parser.add_argument("--pairs", type=int, default=8, help="at least 5")
    parser.add_argument("--rounds", type=int, default=10, help="of each pair")
    parser.add_argument("--jobs", type=int, default=10_000, help="of each round")
    chosen = parser.parse_args()
    other = chosen.other.resolve()
    for checkout in (ROOT, other):
        subprocess.run(
            [sys.executable, "-m", "compileall", "-q", "queue_eval", "workers", "benchmarks"], cwd=checkout,
            env=_environment(checkout), check=True,
        )  # fmt: skip
    for method in chosen.method or METHODS:
        ratios = []
        for number in range(chosen.pairs):
            ratios.append(ratio_of_pair(method, other, jobs=chosen.jobs, rounds=chosen.rounds))
            print(f"{method}, pair {number + 1} of {chosen.pairs}: {ratios[-1]:.3f}", file=sys.stderr)
        mean, least, most = interval(ratios)
        print(
            f"{method}: {mean:.3f} of the other build's rate, 95 % interval {least:.3f} to {most:.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
