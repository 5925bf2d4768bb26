"""The scheduler alone: who gets a seat, who gives way, and how a step's tokens are shared."""

import pytest
from fakes import FakeTokenizer, make_request

from woolly_worker.engine.scheduler import Pace, Scheduler
from woolly_worker.engine.sequence import Sequence, SequenceStatus
from woolly_worker.engine.settings import EngineSettings
from woolly_worker.memory.kv_cache import KVCache, KVLayout, blocks_for
from woolly_worker.model.batch import StepBatch


class Seats:
    """A scheduler whose steps compute nothing and sample token 3."""

    def __init__(
        self,
        n_blocks: int = 32,
        n_slots: int = 4,
        max_step_tokens: int = 64,
        headroom_blocks: int = 4,
        longest_step_seconds: float | None = None,
    ):
        self.kv = KVCache(KVLayout(1, 1, 16), n_blocks)
        self.batch = StepBatch(
            max_step_tokens=max_step_tokens, max_logit_rows=n_slots, max_slots=n_slots, max_blocks_per_slot=32
        )
        settings = EngineSettings(
            n_slots, max_step_tokens, headroom_blocks=headroom_blocks, longest_step_seconds=longest_step_seconds
        )
        self.scheduler = Scheduler(self.kv, self.batch, settings)

    def add(self, n_prompt: int, n_more: int = 100, first: int = 3) -> Sequence:
        request = make_request(range(first, first + n_prompt), f"job{first}", max_tokens=n_more)
        sequence = Sequence(request, max_ids=n_prompt + n_more, tokenizer=FakeTokenizer(), now=0.0)
        self.scheduler.add(sequence)
        return sequence

    def step(self) -> list[int]:
        """Tokens of each running sequence in this step."""
        batch = self.scheduler.schedule(0.0)
        shares = [sequence.n_scheduled for sequence in batch]
        assert sum(shares) == self.batch.n_tokens <= len(self.batch.token_ids)
        self.scheduler.computed(batch)
        for sequence in batch:
            if sequence.logit_row is not None:
                sequence.append(3)
        self.kv.check_invariants()
        return shares


def test_what_a_short_prefill_does_not_need_goes_to_the_longer_ones() -> None:
    seats = Seats(max_step_tokens=64)
    for i, n in enumerate((100, 10, 40, 7)):
        seats.add(n, first=3 + 200 * i)
    assert seats.step() == [24, 10, 23, 7]
    # Two decode now; the rest is for the others, the shorter one first.
    assert seats.step() == [45, 1, 17, 1]
    assert seats.step() == [31, 1, 1, 1]
    assert seats.step() == [1, 1, 1, 1]


def test_a_tiny_budget_still_moves_everybody() -> None:
    seats = Seats(max_step_tokens=4)
    for i in range(4):
        seats.add(9 + i, first=3 + 200 * i)
    assert seats.step() == [1, 1, 1, 1]


def test_seats_are_given_in_order_of_arrival() -> None:
    seats = Seats(n_slots=2)
    first, second, third = seats.add(5), seats.add(6, first=300), seats.add(7, first=600)
    seats.step()
    assert seats.scheduler.running == [first, second]
    assert list(seats.scheduler.waiting) == [third]
    seats.scheduler.remove(first)
    seats.step()
    assert seats.scheduler.running == [second, third]
    assert first.status is SequenceStatus.ENDED


def test_a_large_request_is_not_overtaken_for_ever() -> None:
    seats = Seats(n_blocks=12, headroom_blocks=0)
    running, large, small = seats.add(200), seats.add(300, n_more=50, first=300), seats.add(5, first=700)
    for _ in range(3):
        seats.step()
    assert seats.scheduler.running == [running]
    seats.scheduler.remove(running)
    seats.step()
    assert seats.scheduler.running == [large, small]


def test_headroom_is_left_for_everybody_but_not_more_than_they_can_use() -> None:
    seats = Seats(n_blocks=10, headroom_blocks=4)
    seats.add(32, n_more=400)
    seats.add(32, n_more=400, first=300)  # 1 + 1 blocks taken, 8 of headroom: just enough
    seats.add(32, n_more=2, first=600)
    seats.step()
    assert len(seats.scheduler.running) == 2
    modest = Seats(n_blocks=10, headroom_blocks=4)
    for i in range(4):
        modest.add(32, n_more=2, first=3 + 300 * i)  # each can need one more block only
    modest.step()
    assert len(modest.scheduler.running) == 4


def test_the_youngest_gives_way_and_is_the_first_to_come_back() -> None:
    seats = Seats(n_blocks=6, n_slots=3, headroom_blocks=0)
    old, middle, young = (seats.add(60, n_more=100, first=3 + 300 * i) for i in range(3))
    waiting = seats.add(60, first=2000)
    while not seats.scheduler.n_preemptions:
        seats.step()
    assert young.status is SequenceStatus.WAITING
    assert (young.blocks, young.n_computed) == ([], 0)
    assert list(seats.scheduler.waiting) == [young, waiting]
    assert seats.scheduler.running == [old, middle]
    n = len(young.ids)
    seats.scheduler.remove(middle)
    while young.status is SequenceStatus.WAITING:
        seats.step()
    assert len(young.ids) >= n
    assert len(young.blocks) == blocks_for(len(young.ids))


def test_nobody_is_seated_on_a_block_that_another_needs_in_the_same_step() -> None:
    seats = Seats(n_blocks=3, headroom_blocks=0)
    seats.add(63, n_more=20)
    seats.step()
    seats.step()
    newcomer = seats.add(20, n_more=5, first=300)
    seats.step()  # the first begins its third block
    assert newcomer.status is SequenceStatus.WAITING
    assert seats.scheduler.n_preemptions == 0


def test_the_oldest_is_never_preempted() -> None:
    seats = Seats(n_blocks=5, n_slots=3, headroom_blocks=0)
    old = seats.add(20, n_more=130)
    for i in range(1, 3):
        seats.add(20, n_more=130, first=3 + 300 * i)
    while len(old.ids) < old.max_ids:
        before = len(old.ids)
        seats.step()
        assert old.status is SequenceStatus.RUNNING
        assert len(old.ids) == before + 1


def test_blocks_of_the_step_before_are_found_by_the_next_prompt() -> None:
    seats = Seats(max_step_tokens=256)
    first = seats.add(100)
    seats.step()
    second = seats.add(100)
    assert seats.step() == [1, 4]
    assert second.blocks[:3] == first.blocks[:3]
    assert second.blocks[3] != first.blocks[3]
    assert seats.scheduler.n_cached_tokens == 96


def test_the_batch_says_where_everything_is() -> None:
    seats = Seats(max_step_tokens=40)
    a, b = seats.add(50), seats.add(3, first=600)
    seats.step()
    assert (a.n_computed, b.n_computed) == (37, 3)
    seats.step()
    batch = seats.batch
    assert batch.token_ids[:14].tolist() == [*range(40, 53), 3]
    assert batch.positions[:14].tolist() == [*range(37, 50), 3]
    assert batch.slots[:14].tolist() == [a.slot] * 13 + [b.slot]
    assert batch.logit_rows[:2].tolist() == [12, 13]
    assert batch.block_tables[a.slot, :2].tolist() == a.blocks
    assert (batch.n_tokens, batch.n_logit_rows) == (14, 2)


@pytest.mark.parametrize(("seconds_per_token", "expected"), [(0.001, 240), (0.01, 16), (1.0, 16), (1e-6, 249_984)])
def test_pace_is_whole_tiles_of_what_fits_into_the_gap(seconds_per_token: float, expected: int) -> None:
    pace = Pace(gap_seconds=0.25)
    assert pace.prefill_tokens() is None
    pace.measured(8, 100.0)  # a decode step says nothing
    assert pace.prefill_tokens() is None
    pace.measured(100, 100 * seconds_per_token)
    assert pace.prefill_tokens() == pytest.approx(expected, abs=16)


def test_a_prefill_step_ends_well_within_a_lease_though_nobody_decodes() -> None:
    seats = Seats(n_blocks=64, max_step_tokens=512, longest_step_seconds=1.75)
    seats.add(900)
    assert seats.step() == [32]  # nothing is known yet
    seats.scheduler.pace.measured(32, 32 * 0.02)
    assert seats.step() == [80]  # 1.6 s, in whole chunks
    seats.scheduler.pace.measured(80, 80 * 0.5)
    assert seats.step() == [16]  # more are no cheaper
    for _ in range(20):
        seats.scheduler.pace.measured(512, 512 * 0.0001)
    assert seats.step() == [512]


def test_everybody_moves_in_a_step_that_is_bound_by_the_lease() -> None:
    seats = Seats(n_blocks=128, n_slots=20, max_step_tokens=512, longest_step_seconds=1.0)
    for i in range(20):
        seats.add(40, first=3 + 200 * i)
    seats.scheduler.pace.measured(16, 16.0)
    assert seats.step() == [1] * 20
