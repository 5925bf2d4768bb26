"""The paced worker on a host whose clock jumps (see shifted_clock.py)."""

import runpy
import sys
from pathlib import Path

import shifted_clock

if __name__ == "__main__":
    shifted_clock.install()
    paced = Path(__file__).parents[1] / "worker" / "queue" / "paced_worker.py"
    sys.argv[0] = str(paced)
    runpy.run_path(str(paced), run_name="__main__")
