"""One fleet of several, in a process of its own."""

from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

from chaos.run import Arena
from chaos.schedule import draw

SHRINK_SECONDS = 180.0


def attack(folder: Path, mutant: str | None, work: "Queue[Any]", found: "Queue[Any]") -> None:
    """Runs the schedules whose seeds come from `work`, until None does; tells `found` what came out of each."""
    try:
        with Arena(folder, mutant=mutant) as arena:
            while (seed := work.get()) is not None:
                outcome = arena.run(draw(seed))
                failure = None
                if outcome.violations:
                    failure = outcome.describe()
                    if mutant is None:
                        found.put(("note", f"seed {seed} failed, looking for a smaller schedule\n{failure}"))
                        smaller = arena.shrink(outcome.schedule, SHRINK_SECONDS)
                        failure += f"\nsmallest that failed as well:\n{smaller.describe()}"
                found.put(("outcome", (seed, failure)))
            found.put(("over", (arena.tally, arena.fleet.count_events("fenced out"))))
    except BaseException as error:
        found.put(("broken", f"a fleet broke down: {type(error).__name__}: {error}"))
        raise
