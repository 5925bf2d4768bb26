"""What a worker needs of kombu's Redis transport, and what it must not do. `guard_transport` sees to both.

kombu keeps every message that was taken, until it is acknowledged, in a hash and an index of its own in Redis, to put
back those of lost workers after a visibility timeout. A bell needs none of that: the job is in the ledger, a lost bell
is found by counting, and whatever is one too many finds nobody waiting. So what was taken is kept in memory alone, for
the prefetch limit. With that go four habits:

- It asks the host's clock, not Redis's, whose messages have timed out: one clock that is ahead repeats everybody's.
- It ends the whole worker, with its running jobs, when a full server refuses these two writes.
- It puts the messages of running jobs back into the queue, to be run a second time, over a connection that was lost.
- It acknowledges, when such a job ends, to the channel that is gone: an AttributeError, and the end of the worker
  (kombu 5.7.0 with celery 5.7.0: `Unrecoverable error`).

A server that refuses commands for a while (it became a replica, its disk is full, its replicas are away) answers with
errors that Celery takes for bugs, and ends. To it they are lost connections: it makes new ones until the server is
back.

And whatever stands in a model's queue or on a channel of control messages is believed to be a message: one that is none
ends the worker's loop. See `inbound.py` for what is let in.
"""

import time
from queue import Empty
from typing import Any

from celery.app.amqp import AMQP
from kombu import transport as kombu_transport
from kombu.connection import Connection
from kombu.transport import redis as transport
from kombu.transport import virtual
from redis import exceptions

from woolly_worker.ledger.connection import is_server_state
from woolly_worker.queue.inbound import door

# A queue that somebody made something else than a list is set aside by the next turn of a reaper.
WRONG_TYPE_PAUSE_SECONDS = 0.2
# Between two attempts to reach Redis, in kombu's words.
RECONNECT = {"interval_start": 1, "interval_step": 1, "interval_max": 3}


class SteadyConnection(Connection):  # type: ignore[misc, unused-ignore]
    """Celery's own waits longer after each attempt, up to half a minute: so long after an absence of Redis jobs would
    wait, and the readers of those that were lost in it, beside workers with nothing to do."""

    def ensure_connection(self, *args: Any, **options: Any) -> Any:
        return super().ensure_connection(*args, **{**RECONNECT, **options})


class SteadyAMQP(AMQP):  # type: ignore[misc, unused-ignore]
    Connection = SteadyConnection


class BellQoS(virtual.QoS):  # type: ignore[misc, unused-ignore]
    """Which bells are being answered, in memory."""

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        super().reject(delivery_tag, requeue=requeue and not self.channel.closed)


def _told_apart(connection_class: type[Any]) -> type[Any]:
    """Connections of this class on which a state of the server is a lost connection. Below the commands, because Celery
    sends some at every start of its loop, of which a refused one would end the worker too."""

    class Connection(connection_class):
        def read_response(self, *args: Any, **options: Any) -> Any:
            try:
                return super().read_response(*args, **options)
            except exceptions.ResponseError as error:
                if not is_server_state(error):
                    raise
                raise exceptions.ConnectionError(f"Redis cannot serve now: {error}") from error

    return Connection


class GuardedChannel(transport.Channel):  # type: ignore[misc, unused-ignore]
    QoS: Any = BellQoS
    do_restore = False

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        params: dict[str, Any] = super()._connparams(asynchronous)
        return {**params, "connection_class": _told_apart(params["connection_class"])}

    def _brpop_read(self, **options: Any) -> Any:
        """Of the next message. `Transport._deliver` looks at it once it is JSON."""
        try:
            return super()._brpop_read(**options)
        except (Empty, *self.connection_errors):
            raise
        except exceptions.ResponseError as error:
            if not str(error).startswith("WRONGTYPE"):
                raise
            door.refuse("a queue", "it is no list")
            time.sleep(WRONG_TYPE_PAUSE_SECONDS)
        except Exception as error:  # of the JSON parser, or of what a marker in the JSON made it build
            door.refuse("a queue", f"not JSON: {type(error).__name__}")
        raise Empty

    def _deliver_fanout_message(self, message: Any, exchange: str) -> Any:
        """Control messages: Celery's own, of any content, but messages."""
        try:
            return super()._deliver_fanout_message(message, exchange)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            door.refuse(exchange, f"no control message: {type(error).__name__}")
        raise Empty


class GuardedSentinelChannel(GuardedChannel, transport.SentinelChannel):  # type: ignore[misc, unused-ignore]
    pass


class _Guarded:
    def _deliver(self, message: Any, queue: str) -> None:
        # Fanout queues are this process's own, and named by Celery: pidbox, events.
        if "pidbox" in queue or "celeryev" in queue or door.admits(message, queue):
            super()._deliver(message, queue)  # type: ignore[misc]


class GuardedTransport(_Guarded, transport.Transport):  # type: ignore[misc, unused-ignore]
    Channel = GuardedChannel


class GuardedSentinelTransport(_Guarded, transport.SentinelTransport):  # type: ignore[misc, unused-ignore]
    Channel = GuardedSentinelChannel


def guard_transport() -> None:
    """For every connection that this process makes to a broker from now on."""
    for scheme, guarded in (
        ("redis", GuardedTransport),
        ("rediss", GuardedTransport),
        ("sentinel", GuardedSentinelTransport),
    ):
        kombu_transport.TRANSPORT_ALIASES[scheme] = f"{__name__}:{guarded.__name__}"
        kombu_transport._transport_cache.pop(scheme, None)
