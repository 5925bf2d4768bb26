"""What a worker needs of kombu's Redis channel, and what it must not do.

kombu keeps every message that was taken, until it is acknowledged, in a hash and an index of its own in Redis, to put
back those of lost workers after a visibility timeout. A bell needs none of that: the job is in the ledger, a lost bell
is found by counting, and whatever is one too many finds nobody waiting. So what was taken is kept in memory alone, for
the prefetch limit. With that go four habits:

- It asks the host's clock, not Redis's, whose messages have timed out: one clock that is ahead repeats everybody's.
- It ends the whole worker, with its running jobs, when a full server refuses these two writes.
- It puts the messages of running jobs back into the queue, to be run a second time, over a connection that was lost.
- It acknowledges, when such a job ends, to the channel that is gone: an AttributeError, and the end of the worker
  (kombu 5.7.0 with celery 5.7.0: `Unrecoverable error`).
"""

from typing import Any

from kombu.transport import redis as transport
from kombu.transport import virtual


class BellQoS(virtual.QoS):  # type: ignore[misc, unused-ignore]
    """Which bells are being answered, in memory."""

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        super().reject(delivery_tag, requeue=requeue and not self.channel.closed)


def keep_bells_in_memory() -> None:
    """For every Redis connection of this process, Sentinel's too: their channel is a subclass of this one."""
    channel: Any = transport.Channel
    channel.QoS = BellQoS
    channel.do_restore = False
