"""A driver as users write one: evaluates the configs of a file, writes the results; run again, it goes on.

    python -m tests.support.hosts_driver CAMPAIGN CONFIGS RESULTS [OPTION=VALUE ...]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from queue_eval import Evaluator
from tests.support.hosts_functions import work


def main(campaign: str, configs: str, results: str, *options: str) -> None:
    keywords = {"campaign": campaign, "local_workers": False, "max_losses": 1000}
    keywords |= {name: json.loads(value) for name, _, value in (option.partition("=") for option in options)}
    with Evaluator.create(work, "process", keywords) as evaluator:
        evaluator.submit(json.loads(Path(configs).read_text()))
        print("submitted", flush=True)
        jobs = evaluator.gather("ALL")
    found = sorted((job.config["x"], job.state, job.result, job.host) for job in jobs)
    partial = Path(f"{results}.partial")
    partial.write_text(json.dumps(found))
    partial.replace(results)


if __name__ == "__main__":
    main(*sys.argv[1:])
