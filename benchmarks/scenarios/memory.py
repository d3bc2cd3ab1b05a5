"""What a small job takes of the server's memory."""

from __future__ import annotations

from benchmarks.campaigns import filled
from benchmarks.extent import Extent, Progress
from benchmarks.findings import Found, Row
from benchmarks.functions import no_op, small_configs
from benchmarks.stage import BATCH, Stage, open_stage
from queue_eval.campaign.keys import Keys

TITLE = "memory of the server, for each job of three fields"

SMALLEST = 0.5
"""Keys that take less than so many bytes for each job are left out."""


def measure(extent: Extent, progress: Progress) -> Found:
    rows = []
    for key, what, options in (
        ("finished", "finished", {}),
        ("finished without reuse", "finished, without reuse", {"reuse": False}),
    ):
        with filled(extent.size, progress, f"memory, {what}", **options) as campaign:
            jobs = campaign.driver.submitted
            rows.append(Row(key, what, campaign.bytes_per_job, "bytes", f"at {jobs:,} jobs"))
            rows += _by_key(campaign.stage, campaign.driver.evaluator.campaign, jobs, key)
    progress("memory, waiting jobs")
    with open_stage() as stage, stage.evaluator(no_op, "thread") as evaluator:
        evaluator.submit(small_configs(0, BATCH))
        used = stage.used_memory()
        for first in range(BATCH, BATCH + extent.size, BATCH):
            evaluator.submit(small_configs(first, BATCH))
        jobs = evaluator.num_submitted
        grown = (stage.used_memory() - used) / (jobs - BATCH)
        rows.append(Row("waiting", "waiting", grown, "bytes", f"at {jobs:,} jobs"))
        rows += _by_key(stage, evaluator.campaign, jobs, "waiting")
    return Found(rows)


def _by_key(stage: Stage, campaign: str, jobs: int, prefix: str) -> list[Row]:
    sizes = {
        key.rpartition(":")[2]: int(stage.link.client.memory_usage(key, samples=0) or 0) / jobs
        for key in Keys(campaign).columns
    }
    largest = sorted(sizes.items(), key=lambda item: -item[1])
    return [Row(f"{prefix} {name}", f"  {name}", size, "") for name, size in largest if size >= SMALLEST]
