"""The command line, for which a campaign is over `$REST_AFTER_S` after its last job."""

from __future__ import annotations

import os

from queue_eval.campaign import resting
from queue_eval.cli import main

if __name__ == "__main__":
    resting.REST_AFTER_S = float(os.environ.get("REST_AFTER_S", "0.5"))
    main()
