"""Operations that do no arithmetic, for the tests of the team: they count, hand over, and come late."""

from woolly_worker.kernels.jit import op
from woolly_worker.kernels.simd import fetch_add, load_i64, store_i64
from woolly_worker.kernels.step import field

# Fields of every argument record here.
PLACE, N_UNITS, BURN, LATE_MEMBER, N_FIELDS = range(5)


@op
def count_units(args, step, member, counter):
    """Add one to the word of every unit of work: in the end each must have been counted once for each step."""
    n_units = field(args, N_UNITS)
    while True:
        unit = fetch_add(counter, 1)
        if unit >= n_units:
            return
        fetch_add(field(args, PLACE) + 8 * unit, 1)


@op
def increment(args, step, member, counter):
    """One member writes without any atomic operation: only barriers make this safe."""
    if fetch_add(counter, 1) == 0:
        store_i64(field(args, PLACE), load_i64(field(args, PLACE)) + 1)


@op
def double(args, step, member, counter):
    """The same, by whoever comes first: what a barrier before and behind must keep apart from `increment`."""
    if fetch_add(counter, 1) == 0:
        store_i64(field(args, PLACE), load_i64(field(args, PLACE)) * 2 % 1000003)


@op
def come_late(args, step, member, counter):
    """One member does BURN additions before it arrives at the barrier; all write down that they were here."""
    if member == field(args, LATE_MEMBER):
        for _ in range(field(args, BURN)):
            fetch_add(field(args, PLACE) + 8 * 63, 1)
    fetch_add(field(args, PLACE) + 8 * member, 1)
