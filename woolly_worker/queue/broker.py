"""Habits of kombu's Redis transport that a worker must not have. `guard_transport` takes them away.

When its connection is lost with jobs running, the channel

- puts the messages of running jobs back into the queue, to be run a second time, over the connection that was lost;
- acknowledges, when such a job ends, to the channel that is gone.

Each ends the whole worker with an AttributeError (kombu 5.7.0 with celery 5.7.0: `Unrecoverable error`). The messages
are only bells: the jobs are in the ledger, so both may be left out. What stays behind in the broker's list of
unacknowledged messages comes back after the visibility timeout and is dropped at the claim.

And whatever stands in a lane, in that list or on a channel of control messages is believed to be a message: one that is
none ends the worker's loop, and one in the list of unacknowledged messages that of every worker, at its start. See
`inbound.py` for what is let in.
"""

import time
from queue import Empty
from typing import Any

from kombu import transport as kombu_transport
from kombu.transport import redis as transport
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import loads
from redis import exceptions

from woolly_worker.queue.inbound import door

# A lane that somebody made something else than a list is set aside by the next turn of a reaper.
WRONG_TYPE_PAUSE_SECONDS = 0.2


class TolerantQoS(transport.QoS):  # type: ignore[misc, unused-ignore]
    """Acknowledges to a closed channel in memory only, and puts back only what is a message."""

    def ack(self, delivery_tag: str) -> None:
        if self.channel.closed:
            self._quick_ack(delivery_tag)
        else:
            super().ack(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        if self.channel.closed:
            self._quick_ack(delivery_tag)
        else:
            super().reject(delivery_tag, requeue)

    def restore_by_tag(self, tag: Any, client: Any = None, leftmost: bool = False) -> None:
        """Whatever is none of ours leaves the list of unacknowledged messages, instead of blocking those behind it."""
        with self.channel.conn_or_acquire(client) as redis:
            kept = redis.hget(self.unacked_key, tag)
            if kept is not None and not _is_kept_message(kept):
                self._remove_from_indices(tag).execute()
                return
            super().restore_by_tag(tag, redis, leftmost)


class GuardedChannel(transport.Channel):  # type: ignore[misc, unused-ignore]
    QoS = TolerantQoS
    do_restore = False

    def _brpop_read(self, **options: Any) -> Any:
        """Of the next message. `Transport._deliver` looks at it once it is JSON."""
        try:
            return super()._brpop_read(**options)
        except (Empty, *self.connection_errors):
            raise
        except exceptions.ResponseError as error:
            if not str(error).startswith("WRONGTYPE"):
                raise
            door.refuse("a lane", "it is no list")
            time.sleep(WRONG_TYPE_PAUSE_SECONDS)
        except Exception as error:  # of the JSON parser, or of what a marker in the JSON made it build
            door.refuse("a lane", f"not JSON: {type(error).__name__}")
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


def _is_kept_message(kept: Any) -> bool:
    try:
        message, exchange, routing_key = loads(bytes_to_str(kept))
    except Exception as error:  # as above
        door.refuse("unacknowledged messages", f"not JSON: {type(error).__name__}")
        return False
    if not (isinstance(exchange, str) and isinstance(routing_key, str)):
        door.refuse("unacknowledged messages", "it does not say where it belongs", message)
        return False
    return door.admits(message, "unacknowledged messages")
