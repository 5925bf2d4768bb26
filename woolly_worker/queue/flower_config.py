"""Flower's configuration file (`celery flower --conf`): a name in here that is one of Flower's options sets it.

Other options are FLOWER_<OPTION> in the environment; what this file sets wins over it. No address and no port: whoever
starts Flower decides where it listens (on loopback, because /metrics and /healthcheck never ask for a password).
"""

import os as _os

import prometheus_client as _prometheus

from woolly_worker.queue.flower_metrics import WoollyCollector as _WoollyCollector

# A task is one delivery of a job: its result holds the timings, its arguments nothing but the job's id.
tasks_columns = "name,uuid,state,args,result,received,started,runtime,worker"
max_tasks = 10_000
purge_offline_workers = 24 * 3600  # seconds

# Flower serves prometheus_client's default registry, so Woolly's own numbers appear on the same /metrics.
_prometheus.REGISTRY.register(_WoollyCollector(_os.environ.get("WOOLLY_REDIS_URL", "redis://127.0.0.1:6379/0")))
