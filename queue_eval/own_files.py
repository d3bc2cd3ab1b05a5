"""Knows where this package lies, and which files are its own. Processes that run user code import it."""

from __future__ import annotations

import os

PACKAGE_ROOT = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - no pathlib in these processes
"""The folder of the package `queue_eval`."""

IMPORT_ROOT = os.path.dirname(PACKAGE_ROOT)  # noqa: PTH120
"""The folder that must be on an import path for `queue_eval` and `workers` to be found."""


def is_own(file: str) -> bool:
    """Whether a file belongs to the package `queue_eval`."""
    return file.startswith(PACKAGE_ROOT + os.sep)
