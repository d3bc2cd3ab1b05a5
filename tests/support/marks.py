"""Parameters that the default run leaves out: `parametrize("method", ["process", *long("thread")])`."""

from __future__ import annotations

from typing import Any

import pytest


def long(*values: object) -> list[Any]:
    return [pytest.param(value, marks=pytest.mark.long) for value in values]


def soak(*values: object) -> list[Any]:
    return [pytest.param(value, marks=pytest.mark.soak) for value in values]
