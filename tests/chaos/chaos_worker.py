"""The worker under attack: the real one with the real demo model, slowed down a little, with traps (see traps.py).

CHAOS_MUTANT takes one of its safeguards away, so that a test can show that the checker notices.
"""

import os
import sys
from pathlib import Path

from chaos.mutants import mutate
from chaos.traps import lay
from paced_worker import load_paced

from woolly_worker.queue.worker import run
from woolly_worker.settings import WorkerSettings

if __name__ == "__main__":
    mutate(os.environ.get("CHAOS_MUTANT"))
    lay(Path(os.environ["CHAOS_TRAPS"]))
    sys.exit(run(WorkerSettings(), load_paced))
