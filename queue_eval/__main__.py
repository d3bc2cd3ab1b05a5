"""`python -m queue_eval`: the command line without its console script."""

from __future__ import annotations

from queue_eval.cli import main

if __name__ == "__main__":
    main()
