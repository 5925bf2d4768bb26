"""Two habits of kombu's Redis channel that a worker must not have when its connection is lost with jobs running.

- It puts the messages of running jobs back into the queue, to be run a second time, over the connection that was lost.
- It acknowledges, when such a job ends, to the channel that is gone.

Each ends the whole worker with an AttributeError (kombu 5.7.0 with celery 5.7.0: `Unrecoverable error`). The messages
are only bells: the jobs are in the ledger, so both may be left out. What stays behind in the broker's list of
unacknowledged messages comes back after the visibility timeout and is dropped at the claim.
"""

from typing import Any

from kombu.transport import redis as transport


class TolerantQoS(transport.QoS):  # type: ignore[misc, unused-ignore]
    """Acknowledges to a closed channel in memory only."""

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


def tolerate_lost_connections() -> None:
    """For every Redis connection of this process, Sentinel's too: their channel is a subclass of this one."""
    channel: Any = transport.Channel
    channel.QoS = TolerantQoS
    channel.do_restore = False
