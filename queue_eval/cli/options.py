"""Options and argument types that several commands share."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

import click

_Function = TypeVar("_Function", bound=Callable[..., Any])

_UNITS_S = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_NUMBER = r"(\d+(?:\.\d+)?)"
_DURATION = re.compile("".join(f"(?:{_NUMBER}{unit})?" for unit in _UNITS_S))


def parse_duration(text: str) -> float | None:
    """Seconds of ``90``, ``90s``, ``15m``, ``1h30m`` or ``500ms``; None if it is none."""
    text = "".join(text.split()).lower()
    if re.fullmatch(_NUMBER, text):
        return float(text)
    match = _DURATION.fullmatch(text)
    if not text or match is None:
        return None
    return sum(float(n) * unit for n, unit in zip(match.groups(), _UNITS_S.values(), strict=True) if n)


class DurationType(click.ParamType[float]):
    """A duration, as seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        seconds = parse_duration(value) if isinstance(value, str) else float(value)
        if seconds is None:
            self.fail(f"{value!r} is not a duration; write it like 90, 90s, 15m or 1h30m", param, ctx)
        return seconds


DURATION = DurationType()

JOB_ID = click.IntRange(min=1)


def server_options(function: _Function) -> _Function:
    """`--home` and `--url`, passed as `home` and `url`: which server to use."""
    function = click.option(
        "--url", metavar="URL", help="Server to use [default: $QUEUE_EVAL_URL, else the one of --home]."
    )(function)
    return click.option(
        "--home",
        metavar="FOLDER",
        help="Folder of the access file and the server [default: $QUEUE_EVAL_HOME, else .queue_eval].",
    )(function)


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
