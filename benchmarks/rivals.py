"""queue_eval, RQ and Celery as one sees them who attacks them: start a worker, submit, ask for the ends."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import redis

from queue_eval.chaos import workload
from queue_eval.chaos.workload import Planned

BIN = Path(sys.executable).parent
RUN = "queue_eval.chaos.workload"


class System(Protocol):
    """`workers` processes with `slots` each; `submit` once, then `ends` until all have one."""

    configuration: str

    def commands(self, workers: int, slots: int) -> list[list[str]]:
        """One for each process that is started, and started again when it dies."""

    def submit(self, evaluations: Sequence[Planned]) -> None: ...

    def ends(self) -> dict[int, str]:
        """By `x`: `succeeded` or `failed`; nothing of what has not ended."""

    def close(self) -> None: ...


class OurOwn:
    configuration = "method process, lease 5 s, max_attempts 3, max_losses 3"

    def __init__(self, url: str, home: Path) -> None:
        from queue_eval import Evaluator

        self._url, self._home = url, home
        options = {
            "url": url, "home": home, "campaign": "attacked", "local_workers": False,
            "max_attempts": workload.MAX_ATTEMPTS, "max_losses": workload.MAX_LOSSES,
            "time_limit": workload.TIME_LIMIT_S, "retry_delay": workload.RETRY_DELAY_S,
        }  # fmt: skip
        self._evaluator: Any = Evaluator.create(f"{RUN}:run", "process", options)
        self._ends: dict[int, str] = {}

    def commands(self, workers: int, slots: int) -> list[list[str]]:
        command = [sys.executable, "-P", "-m", "queue_eval", "worker", "-n", str(slots), "--lease", "5s"]
        return [[*command, "--url", self._url, "--home", str(self._home)]] * workers

    def submit(self, evaluations: Sequence[Planned]) -> None:
        self._evaluator.submit([one.config for one in evaluations])

    def ends(self) -> dict[int, str]:
        for job in self._evaluator.gather("BATCH", timeout=0.1):
            self._ends[job.config["x"]] = job.state
        return self._ends

    def close(self) -> None:
        self._evaluator.close()


class Rq:
    """One queue; a work horse per job, as always in RQ, so each slot is a worker.

    The intervals are short, so that jobs of dead workers are found soon: RQ looks for them only between two
    jobs, or when a worker that waits for one has done so for its ttl.
    """

    configuration = (
        "one queue, Retry(max=2), job-monitoring-interval 5 s, maintenance-interval 5 s, worker-ttl 30 s"
    )

    def __init__(self, url: str, _home: Path) -> None:
        from rq import Queue

        self._url = url
        self._client = redis.Redis.from_url(url)
        self._queue = Queue("attacked", connection=self._client)
        self._open: dict[str, int] = {}
        self._ends: dict[int, str] = {}

    def commands(self, workers: int, slots: int) -> list[list[str]]:
        command = [
            str(BIN / "rq"), "worker", "--url", self._url, "--job-monitoring-interval", "5",
            "--maintenance-interval", "5", "--worker-ttl", "30", "--quiet", "attacked",
        ]  # fmt: skip
        return [command] * (workers * slots)

    def submit(self, evaluations: Sequence[Planned]) -> None:
        from rq import Queue, Retry

        data = [
            Queue.prepare_data(
                f"{RUN}.run", args=(one.config,), job_id=f"x{one.x}", timeout=int(workload.TIME_LIMIT_S),
                retry=Retry(max=workload.MAX_ATTEMPTS - 1), result_ttl=24 * 3600,
            )
            for one in evaluations
        ]  # fmt: skip
        self._queue.enqueue_many(data)
        self._open = {f"x{one.x}": one.x for one in evaluations}

    def ends(self) -> dict[int, str]:
        pipe = self._client.pipeline(transaction=False)
        names = list(self._open)
        for name in names:
            pipe.hget(f"rq:job:{name}", "status")
        for name, status in zip(names, pipe.execute(), strict=True):
            if status in (b"finished", b"failed"):
                self._ends[self._open.pop(name)] = "succeeded" if status == b"finished" else "failed"
        return self._ends

    def close(self) -> None:
        self._client.close()


class Celery:
    configuration = (
        "prefork, acks_late, reject_on_worker_lost, prefetch 1, visibility_timeout 15 s, autoretry_for max 2"
    )

    def __init__(self, url: str, _home: Path) -> None:
        from benchmarks import celery_app

        self._run: Any = celery_app.run
        self._client = redis.Redis.from_url(url)
        self._open: dict[str, int] = {}
        self._ends: dict[int, str] = {}

    def commands(self, workers: int, slots: int) -> list[list[str]]:
        program = [str(BIN / "celery"), "-A", "benchmarks.celery_app", "worker", "-l", "warning"]
        return [[*program, "-c", str(slots), "-n", f"worker{i}@localhost"] for i in range(workers)]

    def submit(self, evaluations: Sequence[Planned]) -> None:
        for one in evaluations:
            self._run.apply_async((one.config,), task_id=f"x{one.x}")
            self._open[f"x{one.x}"] = one.x

    def ends(self) -> dict[int, str]:
        names = list(self._open)
        keys = [f"celery-task-meta-{name}" for name in names]
        replies: list[Any] = self._client.mget(keys) if keys else []
        for name, reply in zip(names, replies, strict=True):
            status = None if reply is None else reply.partition(b'"status": "')[2].partition(b'"')[0]
            if status in (b"SUCCESS", b"FAILURE"):
                self._ends[self._open.pop(name)] = "succeeded" if status == b"SUCCESS" else "failed"
        return self._ends

    def close(self) -> None:
        self._client.close()


SYSTEMS: dict[str, type[Any]] = {"queue_eval": OurOwn, "rq": Rq, "celery": Celery}
