"""Starts the command line, as the program `queue-eval` or by `python -m queue_eval`."""

from __future__ import annotations

from typing import NoReturn

from queue_eval.startup import quietly_interrupted


def main() -> NoReturn:
    """Run the command line and exit."""
    with quietly_interrupted():
        from queue_eval.cli import main as command_line
    command_line()


if __name__ == "__main__":
    main()
