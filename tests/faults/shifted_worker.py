"""The paced worker on a host whose clock jumps: by SHIFT_SECONDS at SIGUSR1, back at the next one.

Every clock that is not monotonic is replaced before anything else is imported, so that Celery's and kombu's are, too.
"""

import datetime
import os
import runpy
import signal
import sys
import time
from pathlib import Path
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


if __name__ == "__main__":
    time.time = lambda: _time() + _shift
    time.time_ns = lambda: _time_ns() + int(_shift * 1e9)
    datetime.datetime = ShiftedDatetime  # type: ignore[misc]
    signal.signal(signal.SIGUSR1, jump)
    paced = Path(__file__).parents[1] / "worker" / "queue" / "paced_worker.py"
    sys.argv[0] = str(paced)
    runpy.run_path(str(paced), run_name="__main__")
