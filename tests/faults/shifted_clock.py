"""A host whose clock jumps: by SHIFT_SECONDS at SIGUSR1, and back at the next one.

To be installed before anything else is imported, so that every module's idea of the time is replaced: those of Celery,
kombu, uvicorn and redis-py, too. The monotonic clock goes on, as it does on such a host.
"""

import datetime
import os
import signal
import time
from typing import Any

_shift = 0.0
_time, _time_ns, _datetime = time.time, time.time_ns, datetime.datetime


class ShiftedDatetime(_datetime):
    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> "ShiftedDatetime":
        return cls.fromtimestamp(time.time(), tz)

    @classmethod
    def utcnow(cls) -> "ShiftedDatetime":
        return cls.now(datetime.UTC).replace(tzinfo=None)


def jump(*_: Any) -> None:
    global _shift
    _shift = 0.0 if _shift else float(os.environ["SHIFT_SECONDS"])


def install() -> None:
    time.time = lambda: _time() + _shift
    time.time_ns = lambda: _time_ns() + int(_shift * 1e9)
    datetime.datetime = ShiftedDatetime  # type: ignore[misc]
    signal.signal(signal.SIGUSR1, jump)
