"""The Celery app of the workers, configured from settings. Celery carries bells; the ledger holds the jobs.

`celery -A woolly_worker.queue.app` (Flower) gets an app that knows only where the broker is.
"""

import os
from typing import Any

from celery import Celery

from woolly_worker.ledger import keys
from woolly_worker.ledger.address import RedisAddress
from woolly_worker.queue.broker import SteadyAMQP, guard_transport
from woolly_worker.settings import WorkerSettings

POOL = "woolly_worker.queue.pool:EnginePool"


def create_app(redis_url: str) -> Any:
    """An app that can send bells and look at workers."""
    broker = RedisAddress.parse(redis_url).broker()
    app = Celery("woolly", broker=broker.url, amqp=SteadyAMQP, set_as_current=False)
    app.conf.update(
        broker_use_ssl=broker.use_ssl,
        # With late acks and a prefetch of one per slot, unacked is running: nothing is hoarded, priorities work, and
        # capacity is the back-pressure.
        task_acks_late=True,
        accept_content=["json"],
        worker_prefetch_multiplier=1,
        task_ignore_result=True,
        task_default_queue="woolly.unrouted",
        task_create_missing_queues=True,
        task_default_priority=keys.BELL_PRIORITY,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={**keys.BROKER_TRANSPORT_OPTIONS, **broker.transport_options},
        worker_pool=POOL,
        worker_send_task_events=True,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
    )
    return app


def create_worker_app(settings: WorkerSettings) -> Any:
    """The app of one worker: its model's queue only."""
    from kombu.entity import Queue

    guard_transport()
    app = create_app(settings.redis_url)
    queue = keys.queue(settings.served_name)
    app.conf.update(
        task_queues=[Queue(queue, routing_key=queue)],
        task_default_queue=queue,
        worker_soft_shutdown_timeout=settings.drain_seconds,
    )
    return app


def __getattr__(name: str) -> Any:
    """`app`, made when Celery's command line asks for it, so that an import reads no environment."""
    if name == "app":
        guard_transport()  # Flower hears what anybody may say, too, and has no messages to keep
        return create_app(os.environ.get("WOOLLY_REDIS_URL", "redis://127.0.0.1:6379/0"))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
