"""Options and argument types that several commands share."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import click

from queue_eval.model.durations import parse_duration
from queue_eval.model.sizes import parse_size

if TYPE_CHECKING:
    from click import ParamType as _ParamType
else:
    _Value = TypeVar("_Value")

    class _ParamType(click.ParamType, Generic[_Value]):
        """Before click 8.4, `click.ParamType` has no type parameter."""

_Function = TypeVar("_Function", bound=Callable[..., Any])

MIN_MEMORY_BYTES = 64_000_000
"""The least that `--memory-limit` accepts: a Python process needs about so much."""


class DurationType(_ParamType[float]):
    """A duration, as seconds."""

    name = "duration"

    def __init__(self, *, is_positive: bool = False) -> None:
        self._is_positive = is_positive

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        seconds = parse_duration(value) if isinstance(value, str) else float(value)
        if seconds is None:
            self.fail(f"{value!r} is not a duration; write it like 90, 90s, 15m or 1h30m", param, ctx)
        if self._is_positive and seconds == 0:
            self.fail(f"{value!r} is no time at all; give a duration above 0, like 90s", param, ctx)
        return seconds


DURATION = DurationType()
POSITIVE_DURATION = DurationType(is_positive=True)


class SizeType(_ParamType[int]):
    """A size of memory, in bytes."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        size = parse_size(value)
        if size is None:
            self.fail(f"{value!r} is not a size; write it like 500MB, 2GB or 1GiB", param, ctx)
        if size < MIN_MEMORY_BYTES:
            self.fail(f"{value!r} is less than a Python process needs; give at least 64MB", param, ctx)
        return size


SIZE = SizeType()

AUTO = "auto"


class AutoOr(_ParamType[Any]):
    """Accepts the values of another type, or ``auto``. `wanted` describes these values in words."""

    def __init__(self, inner: click.ParamType[Any], wanted: str) -> None:
        self._inner = inner
        self._wanted = wanted
        self.name = f"{inner.name}|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, str) and value.strip().lower() == AUTO:
            return AUTO
        try:
            return self._inner.convert(value, param, ctx)
        except click.BadParameter:
            self.fail(f"{value!r} is not valid; give {self._wanted}, or {AUTO}", param, ctx)


class SectionedCommand(click.Command):
    """A command whose help shows its options under headings: heading -> names of parameters."""

    def __init__(self, *args: Any, sections: Mapping[str, Sequence[str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._sections = sections

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        options = [one for one in self.get_params(ctx) if isinstance(one, click.Option)]
        titled = {name for names in self._sections.values() for name in names}
        rest = [one.name for one in options if one.name not in titled]
        for title, names in {**self._sections, "Server and output": rest}.items():
            rows = [one.get_help_record(ctx) for one in options if one.name in names]
            with formatter.section(title):
                formatter.write_dl([row for row in rows if row is not None])


JOB_ID = click.IntRange(min=1)


def server_options(function: _Function) -> _Function:
    """`--home` and `--url`, passed as `home` and `url`, and `--access`: which server to use."""
    function = click.option(
        "--access",
        metavar="FILE",
        expose_value=False,
        callback=_name_access_file,
        help="Access file of the server to use [default: $QUEUE_EVAL_ACCESS].",
    )(function)
    function = click.option(
        "--url", metavar="URL", help="Server to use [default: $QUEUE_EVAL_URL, else the one of --home]."
    )(function)
    return click.option(
        "--home",
        metavar="FOLDER",
        help="Folder of the access file and the server [default: $QUEUE_EVAL_HOME, else .queue_eval].",
    )(function)


def _name_access_file(context: click.Context, _: click.Parameter, file: str | None) -> None:
    """Name the file in the environment, where this call and the processes that it starts look for it."""
    if file is None:
        return
    set_variable(context, "QUEUE_EVAL_ACCESS", str(Path(file).expanduser().absolute()))


def set_variable(context: click.Context, name: str, value: str) -> None:
    """Set a variable of the environment until this call ends, also for the processes that it starts."""
    before = os.environ.get(name)
    os.environ[name] = value

    def restore() -> None:
        os.environ.pop(name, None)
        if before is not None:
            os.environ[name] = before

    context.call_on_close(restore)


SAFE_CELLS_HELP = "For spreadsheets: put ' before text in the .csv that would be taken for a formula."

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
