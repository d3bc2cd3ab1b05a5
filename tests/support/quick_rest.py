"""The command line, for which a campaign is over half a second after its last job."""

from __future__ import annotations

from queue_eval import resting
from queue_eval.cli import main

if __name__ == "__main__":
    resting.REST_AFTER_S = 0.5
    main()
