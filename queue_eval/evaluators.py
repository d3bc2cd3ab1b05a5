"""The five named evaluators: how workers execute the jobs of a campaign."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Unpack

from queue_eval.callbacks import Callbacks
from queue_eval.errors import MethodUnavailableError, UsageError
from queue_eval.evaluator import Evaluator
from queue_eval.function_ref import describe
from queue_eval.options import Keywords, Options, count
from queue_eval.states import Method


class ThreadPoolEvaluator(Evaluator):
    """Workers execute jobs in threads of one child process.

    For functions that wait or release the GIL. A thread cannot be killed: past its `time_limit` it is
    abandoned and may go on in the background until its process is replaced.
    """

    method: Method = Method.THREAD


class ProcessPoolEvaluator(Evaluator):
    """Workers execute jobs in warm child processes, replaced when they die or run out of time."""

    method: Method = Method.PROCESS


class SubprocessEvaluator(Evaluator):
    """Workers execute each attempt in a new interpreter: the best isolation, at some 50 ms a job."""

    method: Method = Method.SUBPROCESS


class RayEvaluator(Evaluator):
    """Workers forward jobs to a Ray cluster. Not available in this version.

    `num_workers` None or -1 means ``int(num_cpus // num_cpus_per_task)``; the other arguments are as in
    DeepHyper 0.3.3.
    """

    method: Method = Method.RAY

    def __init__(
        self,
        run_function: Callable[..., Any] | str,
        callbacks: Sequence[Any] | None = None,
        address: str | None = None,  # noqa: ARG002 - the signature is the contract
        password: str | None = None,  # noqa: ARG002
        num_cpus: int | None = None,
        num_gpus: int | None = None,  # noqa: ARG002
        num_cpus_per_task: float = 1,
        num_gpus_per_task: float | None = None,  # noqa: ARG002
        ray_kwargs: dict[str, Any] = {},  # noqa: B006, ARG002 - DeepHyper's signature; never changed
        num_workers: int | None = None,
        **options: Unpack[Keywords],
    ) -> None:
        if num_cpus_per_task <= 0:
            raise UsageError(f"num_cpus_per_task is {num_cpus_per_task!r}; give a number above 0")
        if num_workers in (None, -1) and num_cpus is not None:
            num_workers = int(num_cpus // num_cpus_per_task)
        if num_workers not in (None, -1):
            count("num_workers", num_workers)
        _refuse(self.method, run_function, callbacks, options)


class RQEvaluator(Evaluator):
    """Workers forward jobs to a fleet of RQ workers. Not available in this version.

    At most `num_workers` RQ jobs are in flight in `rq_queue`; `rq_url` is the Redis of the fleet, by
    default our own server.
    """

    method: Method = Method.RQ

    def __init__(
        self,
        run_function: Callable[..., Any] | str,
        num_workers: int = 1,
        callbacks: Sequence[Any] | None = None,
        rq_queue: str = "default",  # noqa: ARG002 - the signature is the contract
        rq_url: str | None = None,  # noqa: ARG002
        **options: Unpack[Keywords],
    ) -> None:
        count("num_workers", num_workers)
        _refuse(self.method, run_function, callbacks, options)


def _refuse(
    method: Method, run_function: Callable[..., Any] | str, callbacks: Sequence[Any] | None, options: Keywords
) -> None:
    """Raise what is wrong with the arguments, else MethodUnavailableError; no server is touched."""
    Options.checked(**options)
    Callbacks(callbacks)
    describe(run_function)
    raise MethodUnavailableError(
        f'the method "{method.value}" is not there yet in this version; use thread, process or subprocess'
    )
