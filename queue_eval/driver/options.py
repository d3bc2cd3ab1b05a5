"""The options of a campaign, checked before a server is touched."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypedDict, cast

from queue_eval.campaign.keys import DEFAULT_QUEUE, check_campaign_name, check_queue_name
from queue_eval.errors import ResultError, UsageError
from queue_eval.model.codec import FAIL_RETURN_VALUE, decode, encode_options, encode_result

MAX_DELAY_S = 10 * 365.25 * 86400
"""Longest delay or time limit: ten years. A longer one is a mistake in the unit."""


@dataclass(frozen=True)
class RetryDelay:
    """Before the k-th retry of a failed job: ``first_s * factor**(k-1)`` seconds, at most `maximum_s`."""

    first_s: float = 1.0
    factor: float = 2.0
    maximum_s: float = 60.0


class Keywords(TypedDict, total=False):
    """The keyword arguments that every evaluator class takes. The class `Options` says what they mean."""

    campaign: str | None
    url: str | None
    access: str | Path | None
    home: str | Path | None
    local_workers: bool | None
    run_function_kwargs: dict[str, Any] | None
    max_attempts: int
    max_losses: int
    time_limit: float | None
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


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a campaign is opened, and how its jobs are run.

    campaign: name of the durable campaign to open or create; None: a new unique name.
    url: the server; None: as `access` says, else ``$QUEUE_EVAL_URL``, else the access file in `home`, else
        the embedded server.
    access: access file of the server; None: ``$QUEUE_EVAL_ACCESS``. It is read again when the server is
        away, and may then name another address.
    home: folder of the embedded server; None: ``$QUEUE_EVAL_HOME``, else ``.queue_eval`` here.
    local_workers: start workers on this machine; None: exactly with the embedded server.
    run_function_kwargs: static keyword arguments of the run function, JSON values.
    max_attempts: executions allowed when the run function raises or runs out of time. More of them also
        repeat jobs that always fail.
    max_losses: executions that may end in the death of the process running them, before the job is
        quarantined. More of them forgive flaky machines, but let a job that kills workers kill more.
    time_limit: seconds one attempt may run; a thread can only be abandoned, anything else is killed.
    retry_delay: seconds before a failed attempt is tried again: a number, or (first, factor, maximum).
    on_failure: "value": a failed job's result is FAIL_RETURN_VALUE; "raise": `gather` raises JobFailed.
    reuse: whether a submitted config joins the campaign's existing job for it; None: when `campaign` is
        given.
    on_change: "error": another run function or method than the campaign's is refused; "accept": the
        campaign continues with the new one.
    queue: label of the campaign, by which workers choose what they serve; workers that name no label serve
        "default". The last driver to open the campaign decides.
    keep_jobs: whether the driver keeps jobs that were gathered. If not, its memory stays flat, `jobs_done`
        and `to_dataframe` show none of them, and `dump_evals` reads them from the server.
    keep: whether an unnamed campaign never expires. If not, it is deleted 14 days after its driver has closed
        it with every result gathered.
    wait_replicas: how many replicas of the server must have every acknowledged write before `close` returns;
        after 10 s it warns. 0: it waits for none.
    values: "json": a result that JSON cannot hold fails its job; "text": a value in it that JSON cannot hold
        becomes its `str`, so that no hours of work are lost, but it comes back as text.
    failure_value: result of failed and cancelled jobs, for those who minimise: a number (also nan and inf),
        text, True, False or None. The last driver to open the campaign decides what tables and commands show.
    """

    campaign: str | None = None
    url: str | None = None
    access: Path | None = None
    home: Path | None = None
    local_workers: bool | None = None
    run_function_kwargs: str = "{}"
    max_attempts: int = 1
    max_losses: int = 3
    time_limit: float | None = None
    retry_delay: RetryDelay = RetryDelay()
    on_failure: Literal["value", "raise"] = "value"
    reuse: bool = False
    on_change: Literal["error", "accept"] = "error"
    queue: str = DEFAULT_QUEUE
    keep_jobs: bool = True
    keep: bool = False
    wait_replicas: int = 0
    values: Literal["json", "text"] = "json"
    failure_value: Any = FAIL_RETURN_VALUE

    @classmethod
    def checked(cls, **keywords: Any) -> Options:
        """Options from what a user gave. Raises UsageError for an unknown name or an impossible value."""
        known = [field.name for field in fields(cls)]
        if unknown := sorted(keywords.keys() - set(known)):
            raise UsageError(
                f"unknown option{'s' if len(unknown) > 1 else ''} {', '.join(map(repr, unknown))}; "
                f"the options are num_workers, callbacks, {', '.join(known)}"
            )
        given = cast("Keywords", keywords)
        campaign = given.get("campaign")
        reuse = given.get("reuse")
        return cls(
            campaign=None if campaign is None else check_campaign_name(campaign),
            url=_text("url", given.get("url")),
            access=_path("access", "a file", given.get("access")),
            home=_path("home", "a folder", given.get("home")),
            local_workers=_flag("local_workers", given.get("local_workers")),
            run_function_kwargs=_kwargs(given.get("run_function_kwargs")),
            max_attempts=count("max_attempts", given.get("max_attempts", 1)),
            max_losses=count("max_losses", given.get("max_losses", 3)),
            time_limit=_time_limit(given.get("time_limit")),
            retry_delay=_retry_delay(given.get("retry_delay")),
            on_failure=_choice("on_failure", given.get("on_failure", "value"), ("value", "raise")),
            reuse=bool(campaign) if reuse is None else bool(_flag("reuse", reuse)),
            on_change=_choice("on_change", given.get("on_change", "error"), ("error", "accept")),
            queue=check_queue_name(given.get("queue", DEFAULT_QUEUE)),
            keep_jobs=_flag("keep_jobs", given.get("keep_jobs", True)) is not False,
            keep=_flag("keep", given.get("keep", False)) is True,
            wait_replicas=count("wait_replicas", given.get("wait_replicas", 0), minimum=0),
            values=_values(given.get("values", "json")),
            failure_value=_scalar("failure_value", given.get("failure_value", FAIL_RETURN_VALUE)),
        )


def count(option: str, value: Any, minimum: int = 1) -> int:
    """`value` as an int. Raises UsageError unless it is one of at least `minimum`."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or number < minimum:
        raise UsageError(f"{option} is {value!r}; give a whole number of at least {minimum}")
    return number


def _number(value: Any) -> float:
    """`value` as a float, or NaN if it is no number."""
    try:
        return math.nan if isinstance(value, (bool, str)) else float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def seconds(option: str, value: Any) -> float:
    """`value` as seconds. Raises UsageError unless it is from 0 to MAX_DELAY_S."""
    number = _number(value)
    if not 0 <= number <= MAX_DELAY_S:
        raise UsageError(f"{option} is {value!r}; give seconds, from 0 to ten years")
    return number


def _time_limit(value: Any) -> float | None:
    if value is None:
        return None
    limit = seconds("time_limit", value)
    if limit == 0:
        raise UsageError("time_limit is 0; give the seconds an attempt may run, or None")
    return limit


def _retry_delay(value: Any) -> RetryDelay:
    if value is None:
        return RetryDelay()
    if isinstance(value, RetryDelay):
        return value
    if not isinstance(value, (tuple, list)):
        delay = seconds("retry_delay", value)
        return RetryDelay(delay, 1.0, delay)
    if len(value) != 3:
        raise UsageError(f"retry_delay is {value!r}; give seconds, or (first, factor, maximum)")
    first, maximum = seconds("retry_delay's first", value[0]), seconds("retry_delay's maximum", value[2])
    factor = _number(value[1])
    if not 0 < factor <= 1000:
        raise UsageError(f"retry_delay's factor is {value[1]!r}; give a number above 0, like 2")
    return RetryDelay(first, factor, maximum)


def _kwargs(value: Any) -> str:
    if value is None:
        return "{}"
    if not isinstance(value, dict):
        raise UsageError(f"run_function_kwargs is a {type(value).__name__}; give a dict of JSON values")
    return encode_options("run_function_kwargs", value)


def _values(value: Any) -> Any:
    if isinstance(value, str) and value == "pickle":
        raise UsageError("values is 'pickle', which this version does not know yet; give 'json' or 'text'")
    return _choice("values", value, ("json", "text"))


def _flag(option: str, value: Any) -> bool | None:
    if value is not None and not isinstance(value, bool):
        raise UsageError(f"{option} is {value!r}; give True or False")
    return value


def _scalar(option: str, value: Any) -> Any:
    """`value` as JSON gives it back: numpy's scalars become Python's."""
    try:
        plain = decode(encode_result(value))
    except ResultError:
        plain = []
    if isinstance(plain, (dict, list)):
        raise UsageError(f"{option} is a {type(value).__name__}; give a number, text, True, False or None")
    return plain


def failure_value_of(meta: Mapping[str, bytes]) -> Any:
    """The `failure_value` of a campaign, from its meta. Campaigns of earlier versions have none."""
    try:
        return decode(meta["failure_value"])
    except (KeyError, ValueError):
        return FAIL_RETURN_VALUE


def _text(option: str, value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise UsageError(f"{option} is a {type(value).__name__}; give a str")
    return value


def _path(option: str, kind: str, value: Any) -> Path | None:
    if value is None:
        return None
    try:
        return Path(value)
    except TypeError:
        raise UsageError(f"{option} is a {type(value).__name__}; give {kind}") from None


def _choice(option: str, value: Any, valid: tuple[str, ...]) -> Any:
    if value not in valid:
        raise UsageError(f"{option} is {value!r}; give {' or '.join(map(repr, valid))}")
    return value
