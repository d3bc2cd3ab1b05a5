"""Every error that queue_eval raises on purpose.

The tree::

    QueueEvalError
    ├── UsageError                 the caller's arguments are wrong; nothing was sent (also a ValueError)
    │   ├── UnknownMethodError     also a RuntimeError, as DeepHyper raises
    │   ├── ConfigError            a config is not a dict of JSON values
    │   ├── ResultError            a result is not a JSON value
    │   ├── ReportError            what a running job reports is not a step and numbers
    │   └── FunctionError          the run function cannot travel or cannot be found
    ├── MethodUnavailableError     the method is valid, but cannot be used here
    ├── ServerError                the server cannot be used (also a ConnectionError)
    │   ├── ServerUnreachableError no server answers, or the password is wrong
    │   │   └── NodeAwayError      one node of a cluster is away, others answer
    │   ├── ServerRefusedError     it answers, but would lose jobs (eviction, version, schema)
    │   └── DamagedError           something else has changed what it holds of a campaign or of workers
    ├── CampaignError
    │   ├── CampaignNotFoundError  no such campaign, or it was purged
    │   └── CampaignConflictError  it belongs to another run function or method
    ├── CheckpointError            a running job cannot keep a checkpoint (also an OSError)
    ├── AttemptEndedError          a running job reports after its end (also a RuntimeError)
    ├── WorkerError                workers started on this machine die at once
    ├── JobFailed                  raised by gather with on_failure="raise"
    └── SearchTerminationError     raised by a callback to end a search

    GiveUp                         ends our own waiting for a server; no caller sees it

A message is one line: what is wrong; what to do.
"""

from __future__ import annotations

from queue_eval.foreign_text import printable

TYPE_CHECKING = False  # see `queue_eval`

if TYPE_CHECKING:
    from collections.abc import Sequence

    from queue_eval.model.job import Job


class QueueEvalError(Exception):
    """Root of all errors of queue_eval."""

    def __str__(self) -> str:
        # Names and reasons in the message come from the server, and Python shows it on the user's terminal.
        return printable(super().__str__())


class UsageError(QueueEvalError, ValueError):
    """The caller's arguments are wrong. Nothing was sent and no state has changed."""


class UnknownMethodError(UsageError, RuntimeError):
    """`method` names no way of executing jobs (DeepHyper raises RuntimeError for it)."""


class ConfigError(UsageError):
    """A config is not a dict of JSON values. The message has the path of the wrong value."""


class ResultError(UsageError):
    """A result is not a JSON value. The message has the path of the wrong value."""


class ReportError(UsageError):
    """What a running job reports is not a step and numbers. The message has the name of the wrong value."""


class FunctionError(UsageError):
    """A run function cannot travel to a worker, or a worker cannot find it or must not run it."""


class MethodUnavailableError(QueueEvalError, RuntimeError):
    """The method exists, but this version or this installation cannot use it."""


class ServerError(QueueEvalError, ConnectionError):
    """The server cannot be used."""


class ServerUnreachableError(ServerError):
    """No server answers at the address, or it refuses the password."""


class NodeAwayError(ServerUnreachableError):
    """One node of a cluster is away, or does nothing for now, while others answer.

    A driver does not get it for its own campaign: it waits for the node.
    """


class ServerRefusedError(ServerError):
    """The server answers, but using it would lose jobs or break the protocol."""


class DamagedError(ServerError):
    """Something else has written to our keys: what the server holds cannot be read."""


class CampaignError(QueueEvalError):
    """A campaign cannot be opened or used."""


class CampaignNotFoundError(CampaignError, LookupError):
    """There is no such campaign; it was never created, or has been purged."""


class CampaignConflictError(CampaignError, ValueError):
    """The campaign belongs to another run function or method."""


class CheckpointError(QueueEvalError, OSError):
    """A running job cannot keep a checkpoint here. The former checkpoint stays."""


class AttemptEndedError(QueueEvalError, RuntimeError):
    """A process or thread reports for an attempt that is over, or whose worker is gone."""


class WorkerError(QueueEvalError):
    """Workers that were started on this machine die at once. The message has the end of their log."""


class JobFailed(QueueEvalError):  # noqa: N818 - the contract's name
    """A job failed and the evaluator was created with ``on_failure="raise"``.

    `job` is the first failed job; `batch` holds every job of the gather that raised, all recorded.
    """

    def __init__(self, job: Job, batch: Sequence[Job]) -> None:
        last_line = (job.error or "").strip().rpartition("\n")[2]
        super().__init__(f"job {job.id} failed ({job.cause}): {last_line}")
        self.job = job
        self.batch = list(batch)


class SearchTerminationError(QueueEvalError):
    """A callback raises it to end the search. `gather` lets it through when the batch is recorded."""


class GiveUp(Exception):  # noqa: N818 - a signal, not an error
    """Raised by a hook of a `Link` (``on_wait``, ``on_unusable``) to end the waiting for the server.

    The code that gave the hook to the link catches it. It is no QueueEvalError: code that ignores the error
    of one campaign for the sake of the others must let it through.
    """
