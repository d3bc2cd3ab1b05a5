"""What queue_eval promises on a quiet machine of two cores, by scenario and row."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Goal:
    least: float | None = None
    most: float | None = None

    def is_met(self, value: float) -> bool:
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)

    def __str__(self) -> str:
        if self.least is not None:
            return f"at least {self.least:,g}"
        return f"at most {self.most:,g}"


DURABLE_PEERS = ("rq-simple", "rq", "celery", "dramatiq", "arq")
OTHER_PEERS = ("dask", "ray", "deephyper-thread", "deephyper-process", "pool")

GOALS: dict[tuple[str, str], Goal] = {
    ("throughput", "thread"): Goal(least=15_000),
    ("throughput", "thread of bare"): Goal(least=0.5),
    ("throughput", "process"): Goal(least=10_000),
    ("throughput", "process of pool"): Goal(least=1.0),
    ("throughput", "subprocess of interpreters"): Goal(least=0.9),
    **{("peers", f"to {peer}"): Goal(least=10.0) for peer in DURABLE_PEERS},
    **{("peers", f"to {peer}"): Goal(least=1.0) for peer in OTHER_PEERS},
    **{
        ("round-trip", f"{fsync} {method} {what}"): Goal(most=most)
        for method in ("thread", "process")
        for fsync, what, most in (
            ("always", "median", 2.0),
            ("always", "p99", 6.0),
            ("everysec", "median", 1.0),
            ("everysec", "p99", 6.0),
        )
    },
    **{
        ("gap", f"{method} {jobs} {what}"): Goal(most=most)
        for method in ("thread", "process")
        for jobs in ("0 ms", "10 ms", "150 ms")
        for what, most in (("median", 1.0), ("p99", 5.0))
    },
    **{("slots", f"thread 1x{slots}"): Goal(least=99.0) for slots in (2, 64)},
    **{("slots", f"process 1x{slots}"): Goal(least=99.0) for slots in (2, 64)},
    ("slots", "thread 1x256"): Goal(least=97.0),
    ("slots", "thread 8x32"): Goal(least=99.0),
    **{("growth", f"{what} ratio"): Goal(most=1.2) for what in ("submit", "server", "gather", "one")},
    ("reopen", "first"): Goal(most=1.0),
    ("reopen", "history"): Goal(least=100_000),
    ("reopen", "resumed ratio"): Goal(most=1.3),
    ("memory", "finished"): Goal(most=250),
    ("memory", "finished without reuse"): Goal(most=250),
    ("memory", "waiting"): Goal(most=200),
    ("idle", "cpu"): Goal(most=1.0),
    **{("others", f"{what} ratio"): Goal(most=1.1) for what in ("commands", "cpu", "drain")},
    **{
        ("others", f"{kind} {count} ratio"): Goal(most=1.5)
        for kind in ("finished", "open")
        for count in (1, 10, 100)
    },
    ("idle", "resident"): Goal(most=80.0),
    ("driver", "thread driver"): Goal(most=40.0),
    ("driver", "process driver"): Goal(most=40.0),
    ("big", "rate"): Goal(least=200.0),
    ("start", "import queue_eval"): Goal(most=150.0),
    ("inside", "reports"): Goal(least=20_000),
    **{("inside", f"report {pace}"): Goal(most=20.0) for pace in ("slow", "fast")},
    ("inside", "stop one"): Goal(most=100.0),
}
