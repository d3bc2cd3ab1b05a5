"""No-ops through other systems with two workers, and through ours just before each of them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks.extent import Extent, Progress
from benchmarks.findings import Found, Row
from benchmarks.peers import PEERS
from benchmarks.peers.outside import Outside, OutsideError, interpreter_of
from benchmarks.stage import BATCH, open_stage

TITLE = "no-op evaluations per second, ours (process, two slots, appendfsync always) and others"

WARM = 100
TRIPS = 30


def measure(extent: Extent, progress: Progress, names: Sequence[str], pythons: Sequence[str]) -> Found:
    found = Found()
    ours: list[float] = []
    settings: dict[str, str] = {}
    rounds: dict[str, Any] = {"ours": ours, "settings": settings}
    with open_stage() as stage:
        for name in names:
            progress(f"peers: {name}")
            with stage.driver("process") as driver:
                mine = [extent.jobs / driver.run(extent.jobs, batch=BATCH) for _ in range(extent.rounds)]
            ours += mine
            try:
                with Outside(name, interpreter_of(name, pythons)) as peer:
                    rates, trip_s = _theirs(peer, extent)
            except OutsideError as error:
                found.missing.append(f"{PEERS[name].what}: {error}")
                continue
            rounds[name] = rates
            rate = statistics.median(rates)
            settings[name] = peer.settings
            note = f"{1000 * trip_s:.1f} ms a trip; {peer.version}"
            found.rows += [
                Row(name, PEERS[name].what, rate, "/s", note),
                Row(f"to {name}", "  ours to it", statistics.median(mine) / rate, "", _kind(name)),
            ]
    found.rounds = rounds
    found.rows.insert(0, Row("ours", "queue_eval, process", statistics.median(ours), "/s"))
    return found


def _kind(name: str) -> str:
    return "durable" if PEERS[name].durable else "not durable"


def _theirs(peer: Outside, extent: Extent) -> tuple[list[float], float]:
    """Evaluations per second of each round, which takes about `seconds`; and the time of a single one."""
    peer.run(WARM)
    jobs = min(extent.jobs, max(WARM, int(extent.seconds * WARM / peer.run(WARM))))
    rates = [jobs / peer.run(jobs) for _ in range(extent.rounds)]
    return rates, statistics.median(peer.trips(TRIPS))
