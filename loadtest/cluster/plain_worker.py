"""What one would write with Celery alone: a task that streams its tokens to Redis, with late acks and retries.

As the documentation advises for tasks that must not be lost: `acks_late`, `reject_on_worker_lost`, a visibility timeout
that is longer than a task, retries for a server that is away.
"""

import os
import time

import redis
from celery import Celery

VISIBILITY_SECONDS = 5
PACE_SECONDS = 0.008

app = Celery("plain", broker=os.environ["PLAIN_REDIS_URL"])
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1,
    task_ignore_result=True,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    broker_transport_options={
        "visibility_timeout": VISIBILITY_SECONDS,
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
    },
)
_client = redis.Redis.from_url(os.environ["PLAIN_REDIS_URL"], decode_responses=True)


def stream_key(job_id: str) -> str:
    return f"plain:{job_id}"


@app.task(name="plain.generate", autoretry_for=(redis.exceptions.RedisError,), retry_backoff=0.2, max_retries=20)
def generate(job_id: str, n_tokens: int) -> None:
    for seq in range(1, n_tokens + 1):
        time.sleep(PACE_SECONDS)
        _client.xadd(stream_key(job_id), {"seq": seq})
    _client.xadd(stream_key(job_id), {"seq": "end"})
