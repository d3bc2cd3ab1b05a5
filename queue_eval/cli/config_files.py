"""Files of configs: .jsonl, .json and .csv."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from queue_eval.codec import encode_config
from queue_eval.errors import ConfigError, UsageError


def read_configs(path: Path) -> list[dict[str, Any]]:
    """All configs of a file, in order, each one checked.

    .jsonl: a JSON object per line, blank lines skipped. .json: a list of objects. .csv: one config per row
    under a header of keys; a cell that is JSON (a number, true, false, null, ...) is that value, else text.

    Raises ConfigError naming the line, position or row that is wrong, and UsageError when the file cannot
    be read, is of another kind, or holds no config.
    """
    readers = {".jsonl": _jsonl, ".json": _json, ".csv": _csv}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise UsageError(f"{path} is no file of configs by its name; give a .jsonl, .json or .csv file")
    configs = []
    try:
        for where, config in reader(path):
            configs.append(_checked(path, where, config))
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path} is not text in UTF-8 ({error.reason} at byte {error.start}); convert it"
        ) from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}); check --configs") from error
    if not configs:
        raise UsageError(f"{path} holds no config; write at least one to it")
    return configs


def _checked(path: Path, where: str, config: Any) -> dict[str, Any]:
    try:
        copy, _ = encode_config(config, 0)
    except ConfigError as error:
        raise ConfigError(f"{path}, {where}: {str(error).removeprefix('config 0: ')}") from None
    return copy


def _jsonl(path: Path) -> Iterator[tuple[str, Any]]:
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                where = f"line {number}"
                yield where, _parsed(path, where, line)


def _json(path: Path) -> Iterator[tuple[str, Any]]:
    document = _parsed(path, "the document", path.read_text(encoding="utf-8-sig"))
    if not isinstance(document, list):
        raise ConfigError(f"{path} is not a list; write it as [{{...}}, {{...}}], or as .jsonl")
    for number, config in enumerate(document, 1):
        yield f"item {number}", config


def _parsed(path: Path, where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}" if "\n" in text.rstrip() else where
        raise ConfigError(
            f"{path}, {place}: is not JSON ({error.msg} at character {error.colno}); mend it"
        ) from None
    except RecursionError:
        raise ConfigError(f"{path}, {where}: is nested too deeply; flatten it") from None


def _csv(path: Path) -> Iterator[tuple[str, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file, strict=True)
        try:
            header = next(rows, [])
            _check_header(path, header)
            for number, cells in enumerate(rows, 1):
                if not cells:
                    continue
                where = f"row {number} (line {rows.line_num})"
                if len(cells) != len(header):
                    raise ConfigError(
                        f"{path}, {where}: has {len(cells)} cells under {len(header)} columns; mend it"
                    )
                yield where, dict(zip(header, map(_cell, cells), strict=True))
        except csv.Error as error:
            raise ConfigError(f"{path}, line {rows.line_num}: is not CSV ({error}); mend it") from None


def _check_header(path: Path, header: list[str]) -> None:
    if doubled := sorted({name for name in header if header.count(name) > 1}):
        raise ConfigError(f"{path}, header: names {doubled[0]!r} twice; rename one")
    if "" in header:
        raise ConfigError(f"{path}, header: column {header.index('') + 1} has no name; give it one")


def _cell(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return text


def _refuse(constant: str) -> NoReturn:
    """NaN and Infinity are words of Python's, not of JSON's."""
    raise ValueError(constant)
