"""What a driver may choose about a campaign, checked before anything is touched."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypedDict

from queue_eval.campaign.keys import DEFAULT_QUEUE, check_campaign_name, check_queue_name
from queue_eval.errors import ResultError, UsageError
from queue_eval.model.codec import FAIL_RETURN_VALUE, decode, encode_options, encode_result
from queue_eval.model.sizes import parse_size

MAX_DELAY_S = 10 * 365.25 * 86400
"""Longest delay or time limit: ten years. What is longer is a mistake in the unit."""

_MAX_PRIORITY = 32767

_ON_FAILURE = ("value", "raise")
_ON_CHANGE = ("error", "accept")


@dataclass(frozen=True)
class RetryDelay:
    """Before the k-th retry of a failed job: ``first_s * factor**(k-1)`` seconds, at most `maximum_s`."""

    first_s: float = 1.0
    factor: float = 2.0
    maximum_s: float = 60.0


def count(what: str, value: Any, minimum: int = 1) -> int:
    """`value` as an int of at least `minimum`, else UsageError."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or number < minimum:
        raise UsageError(f"{what} is {value!r}; give a whole number of at least {minimum}")
    return number


def checked_priority(value: Any) -> int:
    """`value` as a priority, from -32767 to 32767, else UsageError."""
    if count("priority", value, -_MAX_PRIORITY) > _MAX_PRIORITY:
        raise UsageError(f"priority is {value!r}; give a whole number up to {_MAX_PRIORITY}")
    return int(value)


def _number(value: Any) -> float:
    """`value` as a float; NaN for what is no number."""
    try:
        return math.nan if isinstance(value, (bool, str)) else float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def seconds(what: str, value: Any) -> float:
    """`value` as seconds from 0 to MAX_DELAY_S, else UsageError."""
    number = _number(value)
    if not 0 <= number <= MAX_DELAY_S:
        raise UsageError(f"{what} is {value!r}; give seconds, from 0 to ten years")
    return number


def _time_limit(what: str, value: Any) -> float | None:
    return _seconds_above_0(what, value, "an attempt may run")


def seconds_asked(what: str, value: Any) -> float | None:
    """`value` as seconds above 0, or None, else UsageError."""
    return _seconds_above_0(what, value, "that an attempt needs")


def _seconds_above_0(what: str, value: Any, which: str) -> float | None:
    if value is None:
        return None
    number = seconds(what, value)
    if number == 0:
        raise UsageError(f"{what} is 0; give the seconds {which}, or None")
    return number


def _retry_delay(what: str, value: Any) -> RetryDelay:
    if value is None:
        return RetryDelay()
    if isinstance(value, RetryDelay):
        return value
    if not isinstance(value, (tuple, list)):
        delay = seconds(what, value)
        return RetryDelay(delay, 1.0, delay)
    if len(value) != 3:
        raise UsageError(f"{what} is {value!r}; give seconds, or (first, factor, maximum)")
    first, maximum = seconds(f"{what}'s first", value[0]), seconds(f"{what}'s maximum", value[2])
    factor = _number(value[1])
    if not 0 < factor <= 1000:
        raise UsageError(f"{what}'s factor is {value[1]!r}; give a number above 0, like 2")
    return RetryDelay(first, factor, maximum)


def _kwargs(what: str, value: Any) -> str:
    if value is None:
        return "{}"
    if not isinstance(value, dict):
        raise UsageError(f"{what} is a {type(value).__name__}; give a dict of JSON values")
    return encode_options(what, value)


def _values(what: str, value: Any) -> Any:
    if isinstance(value, str) and value == "pickle":
        raise UsageError(f"{what} is 'pickle', which this version does not know yet; give 'json' or 'text'")
    return _choice(what, value, ("json", "text"))


def _flag(what: str, value: Any) -> bool | None:
    if value is not None and not isinstance(value, bool):
        raise UsageError(f"{what} is {value!r}; give True or False")
    return value


def _switch(what: str, value: Any, *, default: bool) -> bool:
    flag = _flag(what, value)
    return default if flag is None else flag


def _scalar(what: str, value: Any) -> Any:
    """`value` as JSON has it; numpy's scalars become Python's."""
    try:
        plain = decode(encode_result(value))
    except ResultError:
        plain = []
    if isinstance(plain, (dict, list)):
        raise UsageError(f"{what} is a {type(value).__name__}; give a number, text, True, False or None")
    return plain


def text(what: str, value: Any) -> str | None:
    """`value` if it is a str or None, else UsageError."""
    if value is not None and not isinstance(value, str):
        raise UsageError(f"{what} is a {type(value).__name__}; give a str")
    return value


def _path(what: str, value: Any, *, kind: str) -> Path | None:
    if value is None:
        return None
    try:
        return Path(value)
    except TypeError:
        raise UsageError(f"{what} is a {type(value).__name__}; give {kind}") from None


def _absolute(what: str, value: Any, *, kind: str) -> Path | None:
    path = _path(what, value, kind=kind)
    if path is None:
        return None
    if not str(value):
        raise UsageError(f"{what} is empty; give {kind}")
    try:
        return path.expanduser().absolute()
    except RuntimeError as error:  # a home folder that is not known
        raise UsageError(f"{what} is {str(path)!r}: {error}; give {kind} by its whole path") from None


def _size(what: str, value: Any) -> int | None:
    if value is None:
        return None
    size = parse_size(value) if isinstance(value, str) else value
    if size is None:
        raise UsageError(f"{what} is {value!r}; give bytes, or a size like 500MB, 10G or 10GiB")
    return count(what, size)


def _campaign(_what: str, value: Any) -> str | None:
    return None if value is None else check_campaign_name(value)


def _label(_what: str, value: Any) -> str:
    return check_queue_name(value)


def _choice(what: str, value: Any, valid: tuple[str, ...]) -> Any:
    if value not in valid:
        raise UsageError(f"{what} is {value!r}; give {' or '.join(map(repr, valid))}")
    return value


class Keywords(TypedDict, total=False):
    """The keyword arguments that every evaluator class takes, for type checkers: what users may give for each
    field of `Options`, and so of the same names."""

    campaign: str | None
    url: str | None
    access: str | Path | None
    home: str | Path | None
    local_workers: bool | None
    run_function_kwargs: dict[str, Any] | None
    max_attempts: int
    max_losses: int
    time_limit: float | None
    time_request: float | None
    retry_delay: float | tuple[float, float, float] | None
    on_failure: Literal["value", "raise"]
    reuse: bool | None
    on_change: Literal["error", "accept"]
    queue: str
    keep_jobs: bool
    keep: bool
    wait_replicas: int
    values: Literal["json", "text"]
    failure_value: Any
    checkpoints: str | Path | None
    keep_checkpoints: bool
    checkpoint_space: int | str | None
    keep_folders: bool


def _by(check: Callable[..., Any], **more: Any) -> dict[str, Any]:
    """Metadata of a field of `Options`. `check(name, value, **more)`: its value from what a user gave, or
    UsageError."""
    return {"check": partial(check, **more)}


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a campaign is opened and its jobs are run. This is the list of all options and their defaults.

    campaign: name of the durable campaign to open or create; None: a new unique name.
    url: server; None: as `access` says, else ``$QUEUE_EVAL_URL``, else the access file in `home`, else the
        embedded server.
    access: access file of the server; None: ``$QUEUE_EVAL_ACCESS``. It is read again when the server is
        away, and may then name another address.
    home: folder of the embedded server; None: ``$QUEUE_EVAL_HOME``, else ``.queue_eval`` here.
    local_workers: start workers on this machine; None: exactly with the embedded server.
    run_function_kwargs: static keyword arguments of the run function, JSON values.
    max_attempts: executions allowed when the run function raises or runs out of time. More of them also
        repeat what fails for good.
    max_losses: executions that may end in the death of the process running them, before the job is
        quarantined. More of them forgive flaky machines, but let a job that kills workers kill more.
    time_limit: seconds one attempt may run; a thread can only be abandoned, anything else is killed.
    time_request: seconds that one attempt needs: a worker with less time left does not run it, and takes what
        is behind it. None: any worker has the time.
    retry_delay: seconds before a failed attempt is tried again: a number, or (first, factor, maximum).
    on_failure: "value": a failed job's result is FAIL_RETURN_VALUE; "raise": `gather` raises JobFailed.
    reuse: whether a submitted config joins the campaign's existing job for it; None: when `campaign` is
        given.
    on_change: "error": another run function or method than the campaign's is refused; "accept": the
        campaign continues with the new one.
    queue: label of the campaign, by which workers choose what they serve; workers that name no label serve
        "default". The last driver to open the campaign decides.
    keep_jobs: whether the driver keeps jobs that were gathered. Without, its memory stays flat, `jobs_done`
        and `to_dataframe` show none of them, and `dump_evals` reads them from the server.
    keep: whether an unnamed campaign never expires. Else it is deleted 14 days after its driver has closed it
        with every result gathered.
    wait_replicas: how many replicas of the server must have all that was acknowledged before `close` returns;
        after 10 s it warns. 0: none is waited for.
    values: "json": a result that JSON cannot hold fails its job; "text": what JSON cannot hold in it becomes
        its `str`, so that no hours of work are lost, but comes back as text.
    failure_value: result of failed and cancelled jobs, for those who minimise: a number (also nan and inf),
        text, True, False or None. The last driver to open the campaign decides what tables and commands show.
    checkpoints: folder for the checkpoints of jobs, for workers of several accounts one of their group; None:
        ``checkpoints`` in `home`. Where workers on several machines do not share it, a job goes on from a
        checkpoint only on the machine that has it.
    keep_checkpoints: whether the last checkpoint of a job stays when the job has succeeded. Else it is
        removed, which keeps the disk free.
    checkpoint_space: bytes that the checkpoints of all jobs of the campaign may take in one folder, also like
        "10G"; a save beyond it raises CheckpointError in its job. None: as much as the disk has.
    keep_folders: whether the working folder of a failed attempt stays, to look into, and nobody removes it.
    """

    campaign: str | None = field(default=None, metadata=_by(_campaign))
    url: str | None = field(default=None, metadata=_by(text))
    access: Path | None = field(default=None, metadata=_by(_path, kind="a file"))
    home: Path | None = field(default=None, metadata=_by(_path, kind="a folder"))
    local_workers: bool | None = field(default=None, metadata=_by(_flag))
    run_function_kwargs: str = field(default="{}", metadata=_by(_kwargs))
    max_attempts: int = field(default=1, metadata=_by(count))
    max_losses: int = field(default=3, metadata=_by(count))
    time_limit: float | None = field(default=None, metadata=_by(_time_limit))
    time_request: float | None = field(default=None, metadata=_by(seconds_asked))
    retry_delay: RetryDelay = field(default=RetryDelay(), metadata=_by(_retry_delay))
    on_failure: Literal["value", "raise"] = field(default="value", metadata=_by(_choice, valid=_ON_FAILURE))
    reuse: bool = field(default=False, metadata=_by(_flag))
    on_change: Literal["error", "accept"] = field(default="error", metadata=_by(_choice, valid=_ON_CHANGE))
    queue: str = field(default=DEFAULT_QUEUE, metadata=_by(_label))
    keep_jobs: bool = field(default=True, metadata=_by(_switch, default=True))
    keep: bool = field(default=False, metadata=_by(_switch, default=False))
    wait_replicas: int = field(default=0, metadata=_by(count, minimum=0))
    values: Literal["json", "text"] = field(default="json", metadata=_by(_values))
    failure_value: Any = field(default=FAIL_RETURN_VALUE, metadata=_by(_scalar))
    checkpoints: Path | None = field(default=None, metadata=_by(_absolute, kind="a folder"))
    keep_checkpoints: bool = field(default=False, metadata=_by(_switch, default=False))
    checkpoint_space: int | None = field(default=None, metadata=_by(_size))
    keep_folders: bool = field(default=False, metadata=_by(_switch, default=False))

    @classmethod
    def checked(cls, **keywords: Any) -> Options:
        """Options from what a user gave. Raises UsageError for an unknown name or an impossible value."""
        known = {option.name: option.metadata["check"] for option in fields(cls)}
        if unknown := sorted(keywords.keys() - known.keys()):
            raise UsageError(
                f"unknown option{'s' if len(unknown) > 1 else ''} {', '.join(map(repr, unknown))}; "
                f"the options are num_workers, callbacks, {', '.join(known)}"
            )
        chosen = {name: check(name, keywords[name]) for name, check in known.items() if name in keywords}
        if chosen.get("reuse") is None:
            chosen["reuse"] = chosen.get("campaign") is not None
        return cls(**chosen)


def time_request_of(meta: Mapping[str, bytes]) -> float | None:
    """The `time_request` of a campaign, from its meta; campaigns of earlier versions name none."""
    try:
        return seconds_asked("time_request", decode(meta["options"])["time_request"])
    except (KeyError, TypeError, ValueError, UsageError):
        return None
