"""Runs schedules on a fleet, judges them, and shrinks those that failed."""

import asyncio
import contextlib
import itertools
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from chaos.catalogue import Answer, Item, answers
from chaos.checker import Violation, check
from chaos.clients import Story, run_clients
from chaos.facts import Facts, collect
from chaos.faults import Faults
from chaos.fleet import Fleet
from chaos.schedule import JobPlan, Schedule
from cluster import wait_for

from woolly_worker.contract.events import DoneEvent, TokenEvent
from woolly_worker.ledger import keys

# A job that has not ended so long after the last fault is lost.
PATIENCE_SECONDS = 45.0
SHRINK_TRIES = 2  # a schedule that failed once may need a few tries to fail again


@dataclass
class Tally:
    """What was done so far, for the last line of a run."""

    n_schedules: int = 0
    n_jobs: int = 0
    n_tokens: int = 0
    n_resumes: int = 0
    n_reconnects: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    gaps: list[float] = field(default_factory=list)  # seconds without a token at a reader whose job lost its worker
    seconds: float = 0.0

    def add(self, stories: list[Story], facts: Facts, injected: Counter[str]) -> None:
        self.n_schedules += 1
        self.n_jobs += len(stories)
        self.faults += injected
        for story in stories:
            self.n_tokens += len(story.seen)
            self.n_reconnects += max(0, story.n_connections - 1)
            record = facts.records.get(story.job_id or "")
            attempts = 1 if record is None else int(record.fields.get("attempts", 1))
            self.n_resumes += attempts - 1
            if attempts > 1 and len(story.seen) > 1:
                times = [seen.at for seen in story.seen]
                self.gaps.append(max(b - a for a, b in itertools.pairwise(times)))

    def merge(self, other: "Tally") -> None:
        self.n_schedules += other.n_schedules
        self.n_jobs += other.n_jobs
        self.n_tokens += other.n_tokens
        self.n_resumes += other.n_resumes
        self.n_reconnects += other.n_reconnects
        self.faults += other.faults
        self.gaps += other.gaps

    def lines(self) -> Iterator[str]:
        yield f"{self.n_schedules} schedules, {self.n_jobs} jobs, {self.n_tokens} events read by their clients"
        yield "faults: " + ", ".join(f"{count} {kind}" for kind, count in self.faults.most_common())
        yield f"{self.n_resumes} resumes, {self.n_reconnects} streams taken up again"
        if self.gaps:
            gaps = sorted(self.gaps)
            p50, p99 = gaps[len(gaps) // 2], gaps[min(len(gaps) - 1, int(len(gaps) * 0.99))]
            yield f"longest silence of a stream whose job was taken over: median {p50:.1f} s, p99 {p99:.1f} s"


@dataclass(frozen=True)
class Outcome:
    schedule: Schedule
    violations: list[Violation]
    stories: list[Story]

    def describe(self) -> str:
        lines = [str(violation) for violation in self.violations]
        for story in self.stories:
            if any(story.key in violation.job for violation in self.violations):
                lines.append(f"  client {story.key}: creates {story.creates}, cancels {story.cancels}")
                lines.append(f"    events {[seen.id for seen in story.seen]}, refused {Counter(story.refused)}")
        return f"{self.schedule.describe()}\n" + "\n".join(lines)


class Arena:
    """A fleet with its catalogue: runs one schedule after the other."""

    def __init__(self, folder: Path, *, mutant: str | None = None) -> None:
        self.fleet = Fleet(folder, mutant=mutant)
        self.tally = Tally()
        self._runs = itertools.count()
        try:
            self.fleet.calm()
            self.catalogue: dict[str, tuple[Item, Answer]] = answers(self._ask)
        except BaseException:
            self.fleet.close()
            raise

    def close(self) -> None:
        self.fleet.close()

    def __enter__(self) -> "Arena":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, schedule: Schedule) -> Outcome:
        began = time.monotonic()
        faults = Faults(self.fleet, schedule.faults)
        items = {name: item for name, (item, _) in self.catalogue.items()}
        stories = self._clients(schedule.jobs, items)
        faults.wait()
        self.fleet.calm()
        facts = self._facts(stories)
        self.tally.add(stories, facts, faults.injected)
        self.tally.seconds += time.monotonic() - began
        return Outcome(schedule, check(stories, facts, self.catalogue), stories)

    def shrink(self, schedule: Schedule, seconds: float) -> Schedule:
        """A smaller schedule that fails as well: without the faults and jobs that it can do without."""
        give_up_at = time.monotonic() + seconds
        smaller = True
        while smaller:
            smaller = False
            for candidate in _smaller(schedule):
                if time.monotonic() > give_up_at:
                    return schedule
                if any(self.run(candidate).violations for _ in range(SHRINK_TRIES)):
                    schedule, smaller = candidate, True
                    break
        return schedule

    def _clients(self, plans: tuple[JobPlan, ...], items: dict[str, Item]) -> list[Story]:
        name = f"run{next(self._runs)}"
        return asyncio.run(run_clients(self.fleet.api_urls, plans, items, name, PATIENCE_SECONDS))

    def _ask(self, item: Item) -> Answer:
        """What a calm cluster says, read like any client reads it."""
        (story,) = self._clients((JobPlan(item.name, 0.0, "stream"),), {item.name: item})
        assert story.ended, story
        tokens = [TokenEvent.model_validate(seen.data) for seen in story.seen[:-1]]
        return Answer.of(tokens, DoneEvent.model_validate(story.seen[-1].data))

    def _facts(self, stories: list[Story]) -> Facts:
        """Once no job of this run is open, or too long after its end."""

        def over() -> bool:
            return not self.fleet.client.zcard(keys.OPEN_JOBS)

        with contextlib.suppress(AssertionError):  # the checker says which
            wait_for(over, PATIENCE_SECONDS)
        return collect(self.fleet.client, self.fleet.api_urls)


def _smaller(schedule: Schedule) -> Iterator[Schedule]:
    for index in range(len(schedule.faults)):
        yield schedule.without_fault(index)
    if len(schedule.jobs) > 1:
        for index in range(len(schedule.jobs)):
            yield schedule.without_job(index)
