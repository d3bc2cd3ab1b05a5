"""Long searches that survive anything: a durable evaluator on a Redis/Valkey queue.

The public names are resolved at their first use. So the import of the package, which every process that runs
user code pays for, costs next to nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False  # not taken from `typing`, whose import takes as long as the start of an interpreter

if TYPE_CHECKING:
    from typing import Any

    from queue_eval.driver.callbacks import (
        Callback,
        LoggerCallback,
        ProfilingCallback,
        SearchEarlyStopping,
        TqdmCallback,
    )
    from queue_eval.driver.evaluator import Evaluator
    from queue_eval.driver.evaluators import (
        ProcessPoolEvaluator,
        RayEvaluator,
        RQEvaluator,
        SubprocessEvaluator,
        ThreadPoolEvaluator,
    )
    from queue_eval.driver.progress import ProgressCallback
    from queue_eval.errors import (
        AttemptEndedError,
        CampaignConflictError,
        CampaignError,
        CampaignNotFoundError,
        CheckpointError,
        ConfigError,
        FunctionError,
        JobFailed,
        MethodUnavailableError,
        QueueEvalError,
        ReportError,
        ResultError,
        SearchTerminationError,
        ServerError,
        ServerRefusedError,
        ServerUnreachableError,
        UnknownMethodError,
        UsageError,
        WorkerError,
    )
    from queue_eval.model.codec import FAIL_RETURN_VALUE
    from queue_eval.model.job import Execution, Job
    from queue_eval.model.report import Report
    from queue_eval.model.states import State
    from queue_eval.runtime.current_job import current_job

__version__ = "0.5.0.dev0"

_MODULES = {
    "driver.callbacks": (
        "Callback", "LoggerCallback", "ProfilingCallback", "SearchEarlyStopping", "TqdmCallback",
    ),
    "driver.evaluators": (
        "Evaluator", "ProcessPoolEvaluator", "RQEvaluator", "RayEvaluator", "SubprocessEvaluator",
        "ThreadPoolEvaluator",
    ),
    "driver.progress": ("ProgressCallback",),
    "errors": (
        "AttemptEndedError", "CampaignConflictError", "CampaignError", "CampaignNotFoundError",
        "CheckpointError", "ConfigError", "FunctionError", "JobFailed", "MethodUnavailableError",
        "QueueEvalError", "ReportError", "ResultError", "SearchTerminationError", "ServerError",
        "ServerRefusedError", "ServerUnreachableError", "UnknownMethodError", "UsageError", "WorkerError",
    ),
    "model.codec": ("FAIL_RETURN_VALUE",),
    "model.job": ("Execution", "Job"),
    "model.report": ("Report",),
    "model.states": ("State",),
    "runtime.current_job": ("current_job",),
}  # fmt: skip
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [  # noqa: RUF022 - grouped by topic
    "Evaluator", "ThreadPoolEvaluator", "ProcessPoolEvaluator", "SubprocessEvaluator", "RayEvaluator",
    "RQEvaluator", "Job", "Execution", "Report", "State", "FAIL_RETURN_VALUE", "current_job",
    "Callback", "LoggerCallback", "ProfilingCallback", "ProgressCallback", "SearchEarlyStopping",
    "TqdmCallback",
    "AttemptEndedError", "CampaignConflictError", "CampaignError", "CampaignNotFoundError", "CheckpointError",
    "ConfigError", "FunctionError", "JobFailed", "MethodUnavailableError", "QueueEvalError", "ReportError",
    "ResultError", "SearchTerminationError", "ServerError", "ServerRefusedError", "ServerUnreachableError",
    "UnknownMethodError", "UsageError", "WorkerError",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF})
