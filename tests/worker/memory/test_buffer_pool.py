"""BufferPool: aligned buffers out of one arena, and all of it back whatever happens."""

import gc
import threading
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from woolly_worker.contract.errors import PoolExhausted
from woolly_worker.memory.pool import BufferPool, Lease, aligned


def test_buffers_are_aligned_and_apart() -> None:
    pool = BufferPool(4096)
    with pool.lease((3, 5), np.float32) as a, pool.lease(7, np.int32) as b:
        assert a.shape == (3, 5)
        assert a.dtype == np.float32
        assert a.flags.c_contiguous
        assert a.ctypes.data % 64 == b.ctypes.data % 64 == 0
        a[:], b[:] = 1.5, 9
        assert np.all(a == 1.5)
        assert np.all(b == 9)
        assert pool.figures().used_bytes == 128
    figures = pool.figures()
    assert (figures.used_bytes, figures.peak_bytes, figures.n_leases, figures.n_leases_ever) == (0, 128, 0, 2)


def test_what_does_not_fit_is_refused_with_both_numbers() -> None:
    pool = BufferPool(256)
    a, b, c = (pool.lease(64, np.uint8) for _ in range(3))
    b.release()
    with pytest.raises(PoolExhausted, match="128 bytes is wanted, the longest free run is 64 bytes"):
        pool.lease(100, np.uint8)
    c.release()
    pool.lease(100, np.uint8).release()  # gaps that touch are one
    a.release()
    pool.lease(256, np.uint8).release()
    pool.check_invariants()


def test_a_lease_comes_back_however_it_ends() -> None:
    pool = BufferPool(1024)
    with pytest.raises(KeyError), pool.lease(10, np.uint8):
        raise KeyError
    lease = pool.lease(10, np.uint8)
    lease.release()
    lease.release()
    pool.lease(10, np.uint8)  # forgotten at once
    gc.collect()
    assert pool.figures().n_leases == 0
    pool.check_invariants()


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 400)), max_size=60))
def test_any_order_of_leases_leaves_the_arena_whole(actions: list[tuple[bool, int]]) -> None:
    pool = BufferPool(2048)
    held: list[Lease] = []
    for is_lease, n in actions:
        if is_lease:
            try:
                held.append(pool.lease(n, np.uint8))
            except PoolExhausted:
                continue
            held[-1].array[:] = len(held) % 251
        elif held:
            held.pop(n % len(held)).release()
        pool.check_invariants()
        ranges = sorted((lease.array.ctypes.data, lease.array.nbytes) for lease in held if lease.array.nbytes)
        assert all(start + size <= after for (start, size), (after, _) in pairwise(ranges))
        assert pool.figures().used_bytes == sum(max(aligned(lease.array.nbytes), 64) for lease in held)
    for lease in held:
        lease.release()
    assert pool.figures().used_bytes == 0
    pool.check_invariants()


def test_threads_share_a_pool() -> None:
    pool = BufferPool(64 * 16)
    problems: list[str] = []

    def work(mark: int) -> None:
        for _ in range(300):
            with pool.lease(50, np.uint8) as array:
                array[:] = mark
                if not (array == mark).all():
                    problems.append("shared")

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    assert pool.figures().n_leases_ever == 1200
    pool.check_invariants()


def test_figures_by_size_class_tell_fresh_memory_from_used() -> None:
    pool = BufferPool(3 << 20)
    first = pool.lease(1000, np.uint8)  # 1024 bytes of the arena
    with pool.lease(960, np.uint8), pool.lease(2 << 20, np.uint8):
        classes = pool.figures().classes
        assert {name: (c.used_bytes, c.n_leases) for name, c in classes.items()} == {
            "under_1kb": (960, 1),
            "1kb_to_1mb": (1024, 1),
            "above_1mb": (2 << 20, 1),
        }
        assert all(c.n_reused_ever == 0 for c in classes.values())
    first.release()
    pool.lease(64, np.uint8).release()  # where the first one was
    pool.lease(5000, np.uint8).release()  # over the place of all three
    pool.lease((2 << 20) + 2000, np.uint8).release()  # a little longer than what was ever lent: fresh
    classes = pool.figures().classes
    ever = {name: (c.n_leases_ever, c.n_reused_ever) for name, c in classes.items()}
    assert ever == {"under_1kb": (2, 1), "1kb_to_1mb": (2, 1), "above_1mb": (2, 0)}
    assert all((c.used_bytes, c.n_leases) == (0, 0) for c in classes.values())
