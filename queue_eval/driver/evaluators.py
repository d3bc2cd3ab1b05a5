"""The five named evaluators: how workers execute the jobs of a campaign."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any, Unpack

from queue_eval.driver.evaluator import Evaluator
from queue_eval.driver.interruption import TellInterrupted
from queue_eval.driver.open import will_be_embedded
from queue_eval.driver.options import Keywords, Options, count, text
from queue_eval.errors import MethodUnavailableError, UsageError
from queue_eval.model.codec import encode_options
from queue_eval.model.states import Method
from queue_eval.transport.access import checked_url


class ThreadPoolEvaluator(Evaluator):
    """Workers execute jobs in threads of one child process.

    For functions that wait or release the GIL. A thread cannot be killed. Past its `time_limit` it is
    abandoned, and may go on in the background until its process is replaced.
    """

    method: Method = Method.THREAD


class ProcessPoolEvaluator(Evaluator):
    """Workers execute jobs in warm child processes, replaced when they die or run out of time."""

    method: Method = Method.PROCESS


class SubprocessEvaluator(Evaluator):
    """Workers execute each attempt in a new interpreter: the best isolation, for some 50 ms a job."""

    method: Method = Method.SUBPROCESS


class RayEvaluator(Evaluator):
    """Workers forward jobs to a Ray cluster: one Ray task for each attempt, none repeated by Ray.

    `address` and `password` are those of the cluster. Without an address a worker finds it as `ray.init`
    does: $RAY_ADDRESS, else the Ray that runs on its machine, else one of its own; with `num_cpus` or
    `num_gpus`, always one of its own, of that size. `ray_kwargs` are further arguments of `ray.init` (JSON
    values). Each attempt takes `num_cpus_per_task` and `num_gpus_per_task`.

    `num_workers` is how many attempts a worker keeps in flight; None or -1 means
    ``int(num_cpus // num_cpus_per_task)``, and without `num_cpus` as many as the cluster has room for.

    Raises MethodUnavailableError when workers are to be started here and Ray is not installed.
    """

    method: Method = Method.RAY

    def __init__(
        self,
        run_function: Callable[..., Any] | str,
        callbacks: Sequence[Any] | None = None,
        address: str | None = None,
        password: str | None = None,
        num_cpus: int | None = None,
        num_gpus: int | None = None,
        num_cpus_per_task: float = 1,
        num_gpus_per_task: float | None = None,
        ray_kwargs: dict[str, Any] = {},  # noqa: B006 - DeepHyper's signature; never changed
        num_workers: int | None = None,
        **options: Unpack[Keywords],
    ) -> None:
        per_job = _amount("num_cpus_per_task", num_cpus_per_task)
        if per_job == 0:
            raise UsageError("num_cpus_per_task is 0; give a number above 0")
        cpus = None if num_cpus is None else count("num_cpus", num_cpus)
        if cpus is not None and cpus < per_job:
            raise UsageError(f"num_cpus is {cpus}, less than the {per_job:g} CPUs that one job takes")
        if num_workers in (None, -1):
            in_flight = None if cpus is None else int(cpus // per_job)
        else:
            in_flight = count("num_workers", num_workers)
        if not isinstance(ray_kwargs, dict):
            raise UsageError(f"ray_kwargs is a {type(ray_kwargs).__name__}; give a dict of JSON values")
        encode_options("ray_kwargs", ray_kwargs)
        if str(address).startswith("ray://") and options.get("time_limit") is not None:
            raise UsageError("a time_limit needs a Ray that is joined: give the address host:port, not ray://")
        self._forward = {
            "address": text("address", address),
            "password": text("password", password),
            "num_cpus": cpus,
            "num_gpus": None if num_gpus is None else count("num_gpus", num_gpus, 0),
            "num_cpus_per_task": per_job,
            "num_gpus_per_task": None
            if num_gpus_per_task is None
            else _amount("num_gpus_per_task", num_gpus_per_task),
            "ray_kwargs": ray_kwargs,
            "in_flight": in_flight,
        }
        _check_package("ray", options)
        slots = in_flight or max(1, int((os.cpu_count() or 1) // per_job))
        with TellInterrupted(lambda: None):
            super().__init__(run_function, slots, callbacks, **options)


class RQEvaluator(Evaluator):
    """Workers forward jobs to a fleet of RQ workers: one RQ job for each attempt, none repeated by RQ.

    At most `num_workers` RQ jobs are in flight in `rq_queue`; `rq_url` is the Redis of the fleet, by
    default our own server. The fleet consists of stock ``rq worker`` processes that can import queue_eval.

    Raises MethodUnavailableError when workers are to be started here and RQ is not installed.
    """

    method: Method = Method.RQ

    def __init__(
        self,
        run_function: Callable[..., Any] | str,
        num_workers: int = 1,
        callbacks: Sequence[Any] | None = None,
        rq_queue: str = "default",
        rq_url: str | None = None,
        **options: Unpack[Keywords],
    ) -> None:
        in_flight = count("num_workers", num_workers)
        if not text("rq_queue", rq_queue):
            raise UsageError("rq_queue is empty; give the name of the queue that the RQ workers listen to")
        url = text("rq_url", rq_url)
        self._forward = {
            "queue": rq_queue,
            "url": None if url is None else checked_url(url),
            "in_flight": in_flight,
        }
        self._most_running = in_flight
        _check_package("rq", options)
        with TellInterrupted(lambda: None):
            super().__init__(run_function, in_flight, callbacks, **options)


def _amount(option: str, value: Any) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1e9:
        return value
    raise UsageError(f"{option} is {value!r}; give a number of at least 0")


def _check_package(package: str, options: Keywords) -> None:
    """Refuse a method that workers started here could not execute, before a server is touched."""
    chosen = Options.checked(**options)
    local = chosen.local_workers
    if local is None:
        local = will_be_embedded(chosen.url, chosen.home, chosen.access)
    if local and find_spec(package) is None:
        raise MethodUnavailableError(
            f'the method "{package}" needs the package {package}; '
            f"install it with: pip install 'queue-eval[{package}]'"
        )
