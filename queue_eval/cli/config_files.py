"""Files of configs: .jsonl, .json and .csv."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from queue_eval.cli.config_tables import configs_of_table
from queue_eval.errors import ConfigError, UsageError
from queue_eval.model.codec import encode_config

_EXPORT_KEYS = {"id", "config", "state", "result", "submitted_at"}
"""A JSON line with all of these keys is a job of an export, and its config stands under `config`."""


def read_configs(path: Path) -> list[dict[str, Any]]:
    """All configs of a file, in order, each one checked.

    .jsonl: a JSON object per line, blank lines skipped. .json: a list of objects. .csv: one config per row
    under a header of keys, see `config_tables`. An export as .jsonl gives the configs of its jobs.

    Raises ConfigError naming the line, position or row that is wrong, and UsageError when the file cannot
    be read, is of another kind, or holds no config.
    """
    readers = {".jsonl": _jsonl, ".json": _json, ".csv": configs_of_table}
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
                config = _parsed(path, where, line)
                is_exported = isinstance(config, dict) and config.keys() >= _EXPORT_KEYS
                yield where, config["config"] if is_exported else config


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
