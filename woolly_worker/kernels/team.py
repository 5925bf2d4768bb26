"""The threads of a step: a team that lives as long as its engine and enters every step together.

A program is a list of operations (see `step.py`). Every member walks the whole list; inside an operation they share
the work through its counter, and after an operation that others depend on they meet at a barrier. Nothing returns to
Python until the step is over: one call without the GIL for each thread and step.

Waiting threads spin for a moment, because the others are about to come, then park in the kernel (a futex), because
on a shared machine they may be away for long. Where there is no futex they yield instead.
"""

import threading
import weakref
from typing import Any

import numpy as np

from woolly_worker.kernels.jit import inline, op
from woolly_worker.kernels.simd import call_op, fetch_add, futex, load_i64, load_shared, pause, store_i64
from woolly_worker.kernels.step import STEP_FIELDS, field

# Words of the team's shared memory, each on a cache line of its own.
LINE = 64
GENERATION = 0 * LINE  # counts the barriers that were passed
ARRIVALS = 1 * LINE  # members that wait at the current barrier
PARKED = 2 * LINE  # members that sleep, at a barrier or between steps
STEP_NUMBER = 3 * LINE  # counts the steps
ENDED = 4 * LINE  # 1: the team goes home
HEADER = 5 * LINE  # five words that do not change during a step:
PROGRAM, N_OPS, STEP, COUNTERS, N_MEMBERS = range(5)
TEAM_BYTES = 6 * LINE

# An operation in a program: four words.
OP_FUNCTION, OP_ARGS, OP_BARRIER, OP_WORDS = 0, 1, 2, 4

SPINS_AT_BARRIER = 4000  # `pause` instructions, about 40 us
SPINS_BETWEEN_STEPS = 8000

_FUTEX_WAIT, _FUTEX_WAKE = 128, 129  # the private kinds


@inline
def _wait_while(address, value, team, n_spins):
    """Until the word at `address` differs from `value`."""
    for _ in range(n_spins):
        if load_shared(address) != value:
            return
        pause()
    fetch_add(team + PARKED, 1)
    while load_shared(address) == value:
        futex(address, _FUTEX_WAIT, value & 0xFFFFFFFF)  # compares the low half; little-endian
    fetch_add(team + PARKED, -1)


@inline
def _advance(address, team):
    """Change a word that others wait for."""
    fetch_add(address, 1)
    if load_shared(team + PARKED) > 0:
        futex(address, _FUTEX_WAKE, 0x7FFFFFFF)


@inline
def _barrier(team, n_members):
    generation = load_shared(team + GENERATION)
    if fetch_add(team + ARRIVALS, 1) == n_members - 1:
        store_i64(team + ARRIVALS, 0)
        _advance(team + GENERATION, team)
    else:
        _wait_while(team + GENERATION, generation, team, SPINS_AT_BARRIER)


@inline
def _run_program(team, member, n_members):
    header = team + HEADER
    step, counters = field(header, STEP), field(header, COUNTERS)
    for i in range(field(header, N_OPS)):
        op = field(header, PROGRAM) + 8 * OP_WORDS * i
        call_op(field(op, OP_FUNCTION), field(op, OP_ARGS), step, member, counters + LINE * i)
        if n_members > 1 and field(op, OP_BARRIER):
            _barrier(team, n_members)


# What Python calls has the signature of an operation, and is kept like one; it needs fewer arguments.


@op
def _lead(team, alone, _2, _3):
    """Run one step as member 0. The program's last operation has a barrier, so all are done at the return.

    `alone`: the others are not called. Every unit of work is then taken by the caller, with the same result.
    """
    header = team + HEADER
    counters = field(header, COUNTERS)
    for i in range(field(header, N_OPS)):
        store_i64(counters + LINE * i, 0)
    n_members = 1 if alone else field(header, N_MEMBERS)
    if n_members > 1:
        _advance(team + STEP_NUMBER, team)
    _run_program(team, 0, n_members)


@op
def _follow(team, member, _2, _3):
    """Run every step as another member, until the team ends."""
    done = 0
    while True:
        _wait_while(team + STEP_NUMBER, done, team, SPINS_BETWEEN_STEPS)
        if load_i64(team + ENDED):
            return
        done += 1
        _run_program(team, member, field(team + HEADER, N_MEMBERS))


@op
def _dismiss(team, _1, _2, _3):
    store_i64(team + ENDED, 1)
    _advance(team + STEP_NUMBER, team)


TEAM_OPERATIONS = (_lead, _follow, _dismiss)


def aligned_zeros(n_bytes: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Zeroed bytes at a multiple of 64."""
    raw = np.zeros(n_bytes + LINE, np.uint8)
    start = -raw.ctypes.data % LINE
    return raw[start : start + n_bytes]


def _send_home(address: int, threads: list[threading.Thread], _kept: tuple[object, ...]) -> None:
    _dismiss(address, 0, 0, 0)
    for thread in threads:
        thread.join()


class Team:
    """`n_members` threads, the caller's own included, that run one program step after step.

    program   (n_ops, OP_WORDS) int64: function address, argument record address, whether a barrier follows
    step      (STEP_FIELDS,) int64, rewritten by the caller before every `run`
    Both are kept alive here. `run` may be called by one thread at a time.
    """

    def __init__(self, program: np.ndarray[Any, np.dtype[np.int64]], n_members: int) -> None:
        if not program[-1, OP_BARRIER]:
            raise ValueError("the last operation of a program needs a barrier: it ends the step")
        self.n_members = n_members
        self.program = np.ascontiguousarray(program)
        self.step = np.zeros(STEP_FIELDS, np.int64)
        counters, memory = aligned_zeros(LINE * len(program)), aligned_zeros(TEAM_BYTES)
        self._address = int(memory.ctypes.data)
        words = memory[HEADER:].view(np.int64)
        words[PROGRAM], words[N_OPS] = self.program.ctypes.data, len(program)
        words[STEP], words[COUNTERS] = self.step.ctypes.data, counters.ctypes.data
        words[N_MEMBERS] = n_members
        for function in TEAM_OPERATIONS:
            _ = function.address  # compiled now, not within a step
        threads = [
            threading.Thread(target=_follow, args=(self._address, member, 0, 0), name=f"step-{member}", daemon=True)
            for member in range(1, n_members)
        ]
        for thread in threads:
            thread.start()
        # Also at interpreter exit and when the team is dropped: a thread must not outlive the memory it waits on.
        self._finish = weakref.finalize(
            self, _send_home, self._address, threads, (counters, memory, self.program, self.step)
        )

    def run(self, *, alone: bool = False) -> None:
        """One step, on all members, or by the caller alone where the work is too little to share."""
        if not self._finish.alive:
            raise RuntimeError("the team has been closed")
        _lead(self._address, int(alone), 0, 0)

    def close(self) -> None:
        """Send the other members home. Closing twice is fine."""
        self._finish()
