"""The former name of `queue_eval.rq_bridge.job`. Jobs on RQ's Redis still name it, and so do commands that
users wrote: ``rq worker -c queue_eval.rq_job``."""

from __future__ import annotations

from queue_eval.rq_bridge.job import run

__all__ = ["run"]
