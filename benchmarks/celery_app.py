"""The evaluations of an attack as a Celery application, configured so that it loses as little as it can.

Late acknowledgement, redelivery when a pool process is lost, nothing fetched ahead, and as short a visibility
timeout as the longest evaluation allows; see https://docs.celeryq.dev/en/stable/userguide/configuration.html.
"""

from __future__ import annotations

import os
from typing import Any

from celery import Celery

from queue_eval.chaos import workload

VISIBILITY_S = 15

app = Celery("attacked", broker=os.environ["RIVAL_URL"], backend=os.environ["RIVAL_URL"])
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1,
    broker_transport_options={"visibility_timeout": VISIBILITY_S},
    result_backend_transport_options={"visibility_timeout": VISIBILITY_S},
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    result_backend_always_retry=True,
    result_expires=24 * 3600,
    task_time_limit=workload.TIME_LIMIT_S,
)


@app.task(
    name="attacked.run", autoretry_for=(ValueError,), max_retries=workload.MAX_ATTEMPTS - 1,
    default_retry_delay=workload.RETRY_DELAY_S,
)  # fmt: skip
def run(config: dict[str, Any]) -> dict[str, str]:
    return workload.run(config)
