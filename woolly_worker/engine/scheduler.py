"""Scheduler: who is in the next step, with how many tokens, and in which KV blocks.

Every step takes the one pending token of each decoding sequence first, then shares what is left of the token budget
between the sequences in prefill: evenly, and what a short one does not need goes to the longer ones. So a long prompt
stalls neither those who decode nor a short prompt that came later. No chunk is larger than what can be computed well
within a lease: a worker gives signs of life between its steps only, and a healthy job must not look like a lost one.

**KV blocks.** A sequence is seated when blocks for all its present tokens are free, and a few more for everybody to
grow into. It takes further blocks as it grows. Reserving prompt + max_tokens instead would be simpler, but most callers
ask for far more tokens than they get (or for all the context holds), and the batch would be as small as that promise.
If the pool runs dry, the sequence that was seated last gives up its blocks and waits at the front of the queue; its
tokens are computed again later, which nobody can tell from the result: same request, same bits. The oldest sequence is
never preempted, and a request that could not run alone is refused at submit, so the oldest one always gets on: no
deadlock, and no end in mid-decode. Waiting is in order of arrival; a large request is not overtaken for ever.

**Isolation.** While a sequence is isolated nobody else is computed: the others pause, in their seats and with their
blocks. It is seated as the oldest, and whoever is in the way of that is preempted.

It computes nothing and emits nothing.
"""

from collections import deque
from typing import NamedTuple

import numpy as np

from woolly_worker.engine.sequence import Sequence, SequenceStatus
from woolly_worker.engine.settings import EngineSettings
from woolly_worker.memory.kv_cache import BLOCK_TOKENS, KVCache, PrefixMatch, blocks_for
from woolly_worker.memory.prefix_cache import ROOT
from woolly_worker.model.batch import StepBatch

MIN_PREFILL_TOKENS = 16  # a chunk that the matrix kernels still compute at the price of one token
FIRST_PREFILL_TOKENS = 32  # nothing is known yet: seconds on the slowest machine, and enough to measure


class Pace:
    """How many prefill tokens fit into a step without making those who decode wait too long, or the ledger.

    Measured, so it differs from run to run; chunking never changes a token.
    """

    __slots__ = ("_gap_seconds", "_longest_step_seconds", "_seconds_per_token")

    def __init__(self, gap_seconds: float, longest_step_seconds: float | None = None) -> None:
        self._gap_seconds = gap_seconds
        self._longest_step_seconds = longest_step_seconds
        self._seconds_per_token: float | None = None

    def measured(self, n_tokens: int, seconds: float) -> None:
        """A step of `n_tokens` took so long. Small steps cost as much as the weights' bytes and say little."""
        if n_tokens >= MIN_PREFILL_TOKENS:
            cost = seconds / n_tokens
            old = self._seconds_per_token
            self._seconds_per_token = cost if old is None else old + 0.3 * (cost - old)

    def prefill_tokens(self) -> int | None:
        """While somebody decodes. None until something was measured."""
        return self._tokens_in(self._gap_seconds, self._seconds_per_token) if self._seconds_per_token else None

    def most_prefill_tokens(self) -> int | None:
        """In any step. None: as many as there are."""
        if self._longest_step_seconds is None:
            return None
        if self._seconds_per_token is None:
            return FIRST_PREFILL_TOKENS
        return self._tokens_in(self._longest_step_seconds, self._seconds_per_token)

    @staticmethod
    def _tokens_in(seconds: float, seconds_per_token: float) -> int:
        return max(MIN_PREFILL_TOKENS, int(seconds / seconds_per_token) // MIN_PREFILL_TOKENS * MIN_PREFILL_TOKENS)


class _Blocked(NamedTuple):
    """The sequence that waits first found too few free blocks: not worth another look until the number changes."""

    sequence: Sequence
    n_free: int


class Scheduler:
    """Owns the seats. `running` is in order of admission, the oldest first. The engine's thread alone uses it."""

    def __init__(self, kv: KVCache, batch: StepBatch, settings: EngineSettings) -> None:
        self.kv = kv
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.isolated: tuple[str, int] | None = None  # the key of a sequence, which may be still to come
        self.n_preemptions = 0
        self.n_cached_tokens = 0  # found in the prefix cache, over all admissions
        self.pace = Pace(settings.decode_gap_seconds, settings.longest_step_seconds)
        self._batch = batch
        self._settings = settings
        self._free_slots = list(range(settings.n_slots - 1, -1, -1))
        self._positions = np.arange(batch.block_tables.shape[1] * BLOCK_TOKENS, dtype=np.int32)
        self._blocked: _Blocked | None = None

    def add(self, sequence: Sequence) -> None:
        self.waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """It ended: its seat and its blocks are free."""
        if sequence.status is SequenceStatus.RUNNING:
            self._unseat(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)
        sequence.status = SequenceStatus.ENDED

    def candidates(self) -> list[Sequence]:
        """Who may be computed now, seated or not: all, or the one that is isolated as long as it is on probation."""
        everybody = [*self.running, *self.waiting]
        if self.isolated is None:
            return everybody
        return [sequence for sequence in everybody if sequence.key == self.isolated and sequence.is_on_probation]

    def schedule(self, now: float) -> list[Sequence]:
        """Fill the batch. Returns the sequences in it; each has its `n_scheduled` and, if it samples, its logit row."""
        if self.isolated is None:
            self._grow()
            self._admit(now)
            members = self.running.copy()
        else:
            members = self.candidates()
            for sequence in members:
                self._make_room(sequence, now)
        self._share(members)
        self._fill(members)
        return members

    def computed(self, batch: list[Sequence]) -> None:
        """The step is done: what it computed is in the KV blocks now."""
        for sequence in batch:
            sequence.n_computed += sequence.n_scheduled
            if self._settings.prefix_cache:
                self._commit(sequence)

    # Before the step: blocks and seats

    def _grow(self) -> None:
        """A block for each sequence whose next token begins one; the youngest give way when there is none."""
        i = 0
        while i < len(self.running):
            self._grow_one(self.running[i])
            i += 1

    def _grow_one(self, sequence: Sequence) -> None:
        missing = blocks_for(len(sequence.ids)) - len(sequence.blocks)
        if missing <= 0:
            return
        while missing > self.kv.n_free and self.running[-1] is not sequence:
            self._preempt(self.running[-1])
        if missing > self.kv.n_free:
            self._preempt(sequence)
        else:
            self._extend(sequence, self.kv.allocate(missing))

    def _preempt(self, sequence: Sequence) -> None:
        self._unseat(sequence)
        sequence.status = SequenceStatus.WAITING
        self.waiting.appendleft(sequence)
        self.n_preemptions += 1

    def _admit(self, now: float) -> None:
        while self.waiting and self._free_slots:
            sequence = self.waiting[0]
            if self._blocked == _Blocked(sequence, self.kv.n_free):
                return
            if not self._admit_one(sequence, now, self._headroom(sequence)):
                self._blocked = _Blocked(sequence, self.kv.n_free)
                return

    def _admit_one(self, sequence: Sequence, now: float, headroom: int) -> bool:
        """Whether there were blocks enough: then it is seated."""
        match = self.kv.match_prefix(sequence.ids) if self._settings.prefix_cache else PrefixMatch([], ROOT)
        n_new = blocks_for(len(sequence.ids)) - len(match.blocks)
        if self.kv.n_free < n_new + headroom:
            self.kv.release(match.blocks)
            return False
        self.waiting.remove(sequence)
        self._seat(sequence, match, n_new)
        self.n_cached_tokens += match.n_cached_tokens
        sequence.meter.admitted(now, match.n_cached_tokens)
        return True

    def _make_room(self, sequence: Sequence, now: float) -> None:
        """Blocks and a seat for the isolated one, whoever has them. It could run alone, or it would not be here."""
        if sequence.status is SequenceStatus.RUNNING:
            self._grow_one(sequence)
        if sequence.status is SequenceStatus.WAITING:
            while not self._free_slots or not self._admit_one(sequence, now, headroom=0):
                self._preempt(self.running[-1])
            self.running.insert(0, self.running.pop())

    def _headroom(self, newcomer: Sequence) -> int:
        """Blocks to leave free for everybody's next tokens, at most what they can still need."""
        return sum(
            min(self._settings.headroom_blocks, blocks_for(s.max_ids - 1) - blocks_for(len(s.ids)))
            for s in (*self.running, newcomer)
            if not s.is_at_limit
        )

    def _seat(self, sequence: Sequence, match: PrefixMatch, n_new: int) -> None:
        sequence.slot = self._free_slots.pop()
        sequence.status = SequenceStatus.RUNNING
        sequence.n_computed = match.n_cached_tokens
        sequence.n_committed_blocks = len(match.blocks)
        sequence.node = match.node
        self._extend(sequence, match.blocks + self.kv.allocate(n_new))
        self.running.append(sequence)

    def _extend(self, sequence: Sequence, blocks: list[int]) -> None:
        start = len(sequence.blocks)
        sequence.blocks.extend(blocks)
        self._batch.block_tables[sequence.slot, start : len(sequence.blocks)] = blocks

    def _unseat(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self._free_slots.append(sequence.slot)
        self.kv.release(sequence.blocks)
        sequence.forget_blocks()

    # The step itself

    def _share(self, members: list[Sequence]) -> None:
        """Decide `n_scheduled` of everybody in the batch."""
        n_decoding = 0
        in_prefill: list[Sequence] = []
        for sequence in members:
            if len(sequence.ids) - sequence.n_computed == 1:
                sequence.n_scheduled = 1
                n_decoding += 1
            else:
                in_prefill.append(sequence)
        if not in_prefill:
            return
        budget = self._settings.max_step_tokens - n_decoding
        for limit in (self.pace.most_prefill_tokens(), self.pace.prefill_tokens() if n_decoding else None):
            if limit is not None:
                budget = min(budget, max(limit, len(in_prefill)))
        in_prefill.sort(key=lambda sequence: sequence.n_pending)
        for i, sequence in enumerate(in_prefill):
            sequence.n_scheduled = min(sequence.n_pending, budget // (len(in_prefill) - i))
            budget -= sequence.n_scheduled

    def _fill(self, members: list[Sequence]) -> None:
        batch = self._batch
        token_ids, positions, slots, logit_rows = batch.token_ids, batch.positions, batch.slots, batch.logit_rows
        n = n_rows = 0
        for sequence in members:
            start, n_scheduled = sequence.n_computed, sequence.n_scheduled
            end = start + n_scheduled
            if n_scheduled == 1:
                token_ids[n], positions[n], slots[n] = sequence.ids[start], start, sequence.slot
            else:
                token_ids[n : n + n_scheduled] = sequence.ids[start:end]
                positions[n : n + n_scheduled] = self._positions[start:end]
                slots[n : n + n_scheduled] = sequence.slot
            n += n_scheduled
            sequence.logit_row = None
            if end == len(sequence.ids):
                logit_rows[n_rows] = n - 1
                sequence.logit_row = n_rows
                n_rows += 1
        batch.n_tokens, batch.n_logit_rows = n, n_rows

    # After the step

    def _commit(self, sequence: Sequence) -> None:
        """Make blocks findable that are full now. The cache may answer with another block of the same content."""
        while (sequence.n_committed_blocks + 1) * BLOCK_TOKENS <= sequence.n_computed:
            i = sequence.n_committed_blocks
            ids = tuple(sequence.ids[i * BLOCK_TOKENS : (i + 1) * BLOCK_TOKENS])
            block, sequence.node = self.kv.commit(sequence.blocks[i], sequence.node, ids)
            if block != sequence.blocks[i]:
                sequence.blocks[i] = block
                self._batch.block_tables[sequence.slot, i] = block
            sequence.n_committed_blocks += 1
