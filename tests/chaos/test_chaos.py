"""A short part of `make chaos`, and the proof that it can fail: without a safeguard it does."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from chaos.run import Arena
from chaos.schedule import FAULTS, Fault, JobPlan, Schedule, draw

SEEDS = range(1, 6)


@pytest.fixture(scope="module")
def arena(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    with Arena(tmp_path_factory.mktemp("chaos")) as arena:
        yield arena


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_is_lost_and_nothing_doubled(arena: Arena, seed: int) -> None:
    outcome = arena.run(draw(seed))
    assert not outcome.violations, outcome.describe()


def test_a_seed_is_a_schedule() -> None:
    assert draw(7) == draw(7)
    assert draw(7) != draw(8)
    drawn = {fault.kind for seed in range(300) for fault in draw(seed).faults}
    assert drawn == set(FAULTS)


def test_without_the_fence_tokens_are_doubled(tmp_path: Path) -> None:
    """A worker that stood still until another one had done its work goes on where it was."""
    jobs = (JobPlan("sampled", 0.0, "stream"),) * 3
    with Arena(tmp_path, mutant="no_fence") as arena:
        calm = arena.run(Schedule(0, jobs, ()))
        attacked = arena.run(Schedule(0, jobs, (Fault("trap stop", 0.0, moment="emit:5.after"),)))
    complaint = "not exactly one terminal event, at the end"
    assert complaint not in str(calm.violations)
    assert complaint in str(attacked.violations)


def test_without_the_claim_check_jobs_are_taken_away_and_the_schedule_shrinks(tmp_path: Path) -> None:
    """Of three faults and three jobs, one of each matters to this mutant."""
    jobs = tuple(JobPlan("sampled", 0.1 * i, "stream") for i in range(3))
    faults = (Fault("drop bells", 0.1), Fault("double bells", 0.3), Fault("cut apis", 0.4))
    with Arena(tmp_path, mutant="no_claim_check") as arena:
        outcome = arena.run(Schedule(1, jobs, faults))
        assert "before its lease had run out" in str(outcome.violations)
        smaller = arena.shrink(outcome.schedule, 60.0)
    assert [fault.kind for fault in smaller.faults] == ["double bells"]
    assert len(smaller.jobs) == 1
