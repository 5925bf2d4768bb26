"""The team: every unit once, barriers that hold, members that park and wake, and an end to it."""

import gc
import os
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import team_ops as ops
from kernel_memory import program, record

from woolly_worker.kernels.jit import LazyOp
from woolly_worker.kernels.team import OP_BARRIER, Team

MEMBERS = (1, 2, 3, 4)


@contextmanager
def team_of(n_members: int, *steps: tuple[LazyOp, np.ndarray]) -> Iterator[Team]:
    team = Team(program(*steps), n_members)
    try:
        yield team
    finally:
        team.close()


def words(n: int) -> tuple[np.ndarray, int]:
    array = np.zeros(n, np.int64)
    return array, int(array.ctypes.data)


@pytest.mark.parametrize("n_members", MEMBERS)
@pytest.mark.parametrize("n_units", [0, 1, 7, 1000])
def test_every_unit_of_work_is_taken_once(n_members: int, n_units: int) -> None:
    counts, place = words(n_units + 1)
    args = record(ops.N_FIELDS, {ops.PLACE: place, ops.N_UNITS: n_units})
    with team_of(n_members, (ops.count_units, args)) as team:
        for step in range(1, 21):
            team.run()
            # The operation is over when `run` returns, on all members.
            assert (counts[:n_units] == step).all()
    assert counts[n_units] == 0


def run_tiny_steps(n_members: int, n_steps: int) -> None:
    """Three operations that depend on each other in order; without a barrier one of them would be lost some time."""
    value, place = words(1)
    args = record(ops.N_FIELDS, {ops.PLACE: place})
    expected = 0
    with team_of(n_members, (ops.increment, args), (ops.double, args), (ops.increment, args)) as team:
        for _ in range(n_steps):
            team.run()
            expected = (expected + 1) * 2 % 1000003 + 1
        assert value[0] == expected


@pytest.mark.parametrize(("n_members", "n_steps"), [(1, 10_000), (2, 2000), (3, 700), (4, 500)])
def test_tiny_steps(n_members: int, n_steps: int) -> None:
    """More members than cores get through too, only slowly: each barrier then waits for the operating system."""
    run_tiny_steps(n_members, n_steps)


@pytest.mark.slow
@pytest.mark.parametrize("n_members", MEMBERS)
def test_ten_thousand_tiny_steps(n_members: int) -> None:
    run_tiny_steps(n_members, 10_000)


@pytest.mark.parametrize("late", [0, 1, 2])
def test_members_park_while_one_comes_late(late: int) -> None:
    """Long enough for the others to leave the spinning and sleep; then they wake and go on."""
    counts, place = words(64)
    fields = {ops.PLACE: place, ops.BURN: 2_000_000, ops.LATE_MEMBER: late}
    slow = record(ops.N_FIELDS, fields)
    quick = record(ops.N_FIELDS, fields | {ops.BURN: 0})
    with team_of(3, (ops.come_late, slow), (ops.come_late, quick), (ops.come_late, slow)) as team:
        for step in range(1, 4):
            team.run()
            assert counts[:3].tolist() == [3 * step] * 3
            assert counts[63] == 2 * step * 2_000_000


def test_operations_without_a_barrier_all_run() -> None:
    """Members may be in different ones of them at a time; the one behind them waits for all."""
    first, at_first = words(100)
    second, at_second = words(50)
    args = [record(ops.N_FIELDS, {ops.PLACE: place, ops.N_UNITS: n}) for place, n in ((at_first, 100), (at_second, 50))]
    steps = program((ops.count_units, args[0]), (ops.count_units, args[1]), (ops.count_units, args[0]))
    steps[0, OP_BARRIER] = 0
    team = Team(steps, 3)
    for _ in range(500):
        team.run()
    team.close()
    assert (first == 1000).all()
    assert (second == 500).all()


def test_steps_alone_and_shared_in_turn() -> None:
    """Alone, the caller takes every unit as member 0, and the others sleep through it."""
    counts, place = words(64)
    args = record(ops.N_FIELDS, {ops.PLACE: place, ops.LATE_MEMBER: -1})
    with team_of(3, (ops.come_late, args), (ops.come_late, args)) as team:
        for step in range(100):
            before = counts[:3].copy()
            alone = step % 3 != 0
            team.run(alone=alone)
            assert (counts[:3] - before).tolist() == ([2, 0, 0] if alone else [2, 2, 2])


def test_a_team_at_rest_uses_no_cpu() -> None:
    counts, place = words(1)
    args = record(ops.N_FIELDS, {ops.PLACE: place, ops.N_UNITS: 1})
    with team_of(4, (ops.count_units, args)) as team:
        team.run()
        time.sleep(0.05)  # long past the spinning between steps
        before = time.process_time()
        time.sleep(0.3)
        assert time.process_time() - before < 0.1
        team.run()
    assert counts[0] == 2


def test_closing_ends_the_threads_and_running_is_then_refused() -> None:
    _, place = words(1)
    args = record(ops.N_FIELDS, {ops.PLACE: place})
    before = threading.active_count()
    team = Team(program((ops.increment, args)), 4)
    assert threading.active_count() == before + 3
    team.run()
    team.close()
    team.close()
    assert threading.active_count() == before
    with pytest.raises(RuntimeError, match="closed"):
        team.run()


def test_a_team_that_never_ran_can_be_closed() -> None:
    _, place = words(1)
    Team(program((ops.increment, record(ops.N_FIELDS, {ops.PLACE: place}))), 3).close()


def test_a_forgotten_team_ends_with_its_threads() -> None:
    _, place = words(1)
    args = record(ops.N_FIELDS, {ops.PLACE: place})
    before = threading.active_count()
    team = Team(program((ops.increment, args)), 3)
    team.run()
    forgotten = weakref.ref(team)
    del team
    gc.collect()
    assert forgotten() is None
    assert threading.active_count() == before


def test_the_calling_thread_may_change_between_steps() -> None:
    value, place = words(1)
    args = record(ops.N_FIELDS, {ops.PLACE: place})
    with team_of(2, (ops.increment, args)) as team:
        for _ in range(20):
            thread = threading.Thread(target=team.run)
            thread.start()
            thread.join()
    assert value[0] == 20


def test_two_teams_do_not_disturb_each_other() -> None:
    values = [words(1) for _ in range(2)]
    args = [record(ops.N_FIELDS, {ops.PLACE: place}) for _, place in values]
    teams = [Team(program((ops.increment, a)), 2) for a in args]
    threads = [threading.Thread(target=lambda team=team: [team.run() for _ in range(500)]) for team in teams]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for team in teams:
        team.close()
    assert [int(value[0]) for value, _ in values] == [500, 500]


def test_python_runs_on_while_a_step_is_under_way() -> None:
    """Nothing in a step holds the interpreter's lock."""
    _, place = words(64)
    args = record(ops.N_FIELDS, {ops.PLACE: place, ops.BURN: 30_000_000, ops.LATE_MEMBER: 0})
    with team_of(1, (ops.come_late, args)) as team:
        thread = threading.Thread(target=team.run)
        thread.start()
        ticks = 0
        while thread.is_alive():
            ticks += 1
            os.sched_yield()
        thread.join()
    assert ticks > 10


def test_a_program_has_to_end_with_a_barrier() -> None:
    _, place = words(1)
    steps = program((ops.increment, record(ops.N_FIELDS, {ops.PLACE: place})))
    steps[-1, OP_BARRIER] = 0
    with pytest.raises(ValueError, match="barrier"):
        Team(steps, 2)
