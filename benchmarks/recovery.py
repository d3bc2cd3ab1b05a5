"""How long until what a killed worker ran runs elsewhere: ``python -m benchmarks.recovery``. See README.md.

Two workers of two slots; one is killed (SIGKILL) while it runs two jobs and the other has nothing to do. The
time is from the kill to the moment at which both jobs have begun again, as the run function itself notes it.
`same host`: the other worker sees that the process is gone. `other host`: it cannot, and waits for the lease.
The kill comes at any moment between two heartbeats. Starts a server of its own in a temporary folder.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import secrets
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine
from benchmarks.stage import Stage, open_stage
from queue_eval import Evaluator
from queue_eval.campaign.keys import machine_key
from queue_eval.machine import machine_id

SAME_HOST_FLOOR_S = 2.0
_PATIENCE_S = 120.0


def measure(stage: Stage, method: str, lease_s: float, *, sees_the_death: bool) -> float:
    """Seconds from the kill of a worker to both of its jobs running elsewhere."""
    campaign = f"recovery-{secrets.token_hex(4)}"
    log = stage.home / f"{campaign}.log"
    options = {"campaign": campaign, "home": stage.home, "local_workers": False, "num_workers": 2}
    lease = ("--lease", f"{lease_s:g}")
    with Evaluator.create("benchmarks.functions:until_removed", method, options) as evaluator:
        log.touch()
        evaluator.submit([{"x": x, "log": str(log)} for x in range(2)])
        with stage.worker(campaign=campaign, more=lease) as victim:
            _wait(lambda: len(_begun(log)) == 2)
            with stage.worker(campaign=campaign, more=lease):
                time.sleep(random.uniform(0, 1 if sees_the_death else lease_s / 3))
                if not sees_the_death:
                    # Nobody knows that it is on this machine. Stopped, so that no heartbeat says so again.
                    victim.process.suspend()
                    stage.link.client.hdel(machine_key(machine_id()), victim.name)
                killed_at = time.time()
                victim.process.kill()
                _wait(lambda: len(_begun(log)) == 4)
                begun = _begun(log)
                log.unlink()
                evaluator.gather("ALL")
    return max(begun) - killed_at


def _begun(log: Path) -> list[float]:
    return [float(line) for line in log.read_text().splitlines()]


def _wait(condition: Any) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"nothing has happened for {_PATIENCE_S:g} s")
        time.sleep(0.005)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--method", choices=("thread", "process", "subprocess"), default="process")
    parser.add_argument("--repeat", type=int, default=9, help="kills on the same host")
    parser.add_argument(
        "--leases", type=float, nargs="*", default=[5.0, 30.0], help="seconds, on other hosts"
    )
    parser.add_argument("--repeat-lease", type=int, default=3, help="kills for each of those leases")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    for name in [name for name in os.environ if name.startswith("QUEUE_EVAL_")]:
        del os.environ[name]  # no server but our own
    with open_stage() as stage:
        found: dict[str, Any] = {"machine": describe_machine(stage), "method": chosen.method, "rows": []}
        plans = [(True, 30.0, chosen.repeat)]
        plans += [(False, lease_s, chosen.repeat_lease) for lease_s in chosen.leases]
        for sees, lease_s, repeat in plans:
            seconds = [measure(stage, chosen.method, lease_s, sees_the_death=sees) for _ in range(repeat)]
            floor = SAME_HOST_FLOOR_S if sees else lease_s
            found["rows"].append({
                "host": "same host" if sees else "other host", "lease_s": lease_s, "seconds": seconds,
                "median_s": statistics.median(seconds), "floor_s": floor,
            })  # fmt: skip
            if not chosen.json:
                print(_row(found["rows"][-1]), flush=True)
    if chosen.json:
        print(json.dumps(found, indent=2))
    if any(row["median_s"] > row["floor_s"] for row in found["rows"]):
        sys.exit(1)


def _row(row: dict[str, Any]) -> str:
    verdict = "met" if row["median_s"] <= row["floor_s"] else "NOT MET"
    return (
        f"{row['host']:<10}  lease {row['lease_s']:>4g} s  median {row['median_s']:5.2f} s, "
        f"worst {max(row['seconds']):5.2f} of {len(row['seconds'])}  at most {row['floor_s']:g} s: {verdict}"
    )


if __name__ == "__main__":
    main()
