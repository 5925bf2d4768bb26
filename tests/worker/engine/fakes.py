"""A transformer and a tokenizer for the engine's tests: small, deterministic, and unforgiving.

The fake transformer keeps storage of its own, addressed by (block, offset). What it stores for a token depends on all
tokens before it, as keys and values do, and its logits on everything that it reads through the block table. A wrong
block, a wrong position, a block given away too early: each shows up as a wrong token.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from woolly_worker.contract.jobs import SamplingParams
from woolly_worker.engine.engine import Engine
from woolly_worker.engine.events import (
    EngineEvent,
    EngineRequest,
    PrefillProgress,
    ProbationPassed,
    SequenceDone,
    SequenceFailed,
    SequenceReleased,
    TokenOut,
)
from woolly_worker.engine.settings import EngineSettings
from woolly_worker.memory.kv_cache import BLOCK_TOKENS, KVCache, KVLayout, blocks_for
from woolly_worker.model.batch import StepBatch

N_VOCAB = 131
EOG = 0
_MASK = 2**64 - 1


def _mix(z: int) -> int:
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


def stored(before: int, token_id: int, position: int) -> int:
    """What stands for the keys and values of a token."""
    return _mix((before * 3 + token_id * 1_000_003 + position * 7_919 + 1) & _MASK)


def logits_of(history: int) -> NDArray[np.float32]:
    """131 logits between -4 and 4, all different with certainty enough."""
    with np.errstate(over="ignore"):
        z = np.arange(1, N_VOCAB + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(history)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((z >> np.uint64(40)).astype(np.float32) / np.float32(2**24) * 8 - 4).astype(np.float32)


def fold(values: Sequence[int]) -> int:
    """One number from everything stored about a history, sensitive to order."""
    total = 0
    for i, value in enumerate(values):
        total = (total + value * (2 * i + 1)) & _MASK
    return total


def logits_after(ids: Sequence[int]) -> NDArray[np.float32]:
    """The logits behind `ids`, with no blocks, batches or caches at all."""
    values: list[int] = []
    for position, token_id in enumerate(ids):
        values.append(stored(values[-1] if values else 0, token_id, position))
    return logits_of(fold(values))


def greedy_reference(ids: Sequence[int], n: int) -> list[int]:
    """Greedy decoding, past EOS, from `logits_after` alone."""
    out: list[int] = []
    while len(out) < n:
        out.append(int(np.argmax(logits_after([*ids, *out]))))
    return out


@dataclass(frozen=True)
class FakeConfig:
    n_vocab: int = N_VOCAB


class FakeTransformer:
    def __init__(self, kv: KVCache, *, n_ctx: int, max_step_tokens: int, max_slots: int) -> None:
        self.config = FakeConfig()
        self.n_ctx = n_ctx
        self.batch = StepBatch(
            max_step_tokens=max_step_tokens,
            max_logit_rows=max_slots,
            max_slots=max_slots,
            max_blocks_per_slot=blocks_for(n_ctx),
        )
        self.kv = kv
        self._storage = [[-1] * BLOCK_TOKENS for _ in range(kv.n_blocks)]
        self._logits = np.zeros((max_slots, N_VOCAB), dtype=np.float32)
        self.fail_at_step: int | None = None
        self.not_finite_at_step: int | None = None
        self.steps: list[tuple[int, int]] = []  # (n_tokens, n_logit_rows) of each

    def step(self) -> NDArray[Any]:
        b = self.batch
        self.steps.append((b.n_tokens, b.n_logit_rows))
        assert 0 < b.n_tokens <= len(b.token_ids)
        self._check_rows()
        if self.fail_at_step == len(self.steps):
            raise ZeroDivisionError("a prompt might be quoted here")
        for row in range(b.n_tokens):
            slot, position = int(b.slots[row]), int(b.positions[row])
            before = self._read(slot, position - 1) if position else 0
            block, offset = int(b.block_tables[slot, position // BLOCK_TOKENS]), position % BLOCK_TOKENS
            self._storage[block][offset] = stored(before, int(b.token_ids[row]), position)
        for i in range(b.n_logit_rows):
            row = int(b.logit_rows[i])
            slot, position = int(b.slots[row]), int(b.positions[row])
            self._logits[i] = logits_of(fold([self._read(slot, p) for p in range(position + 1)]))
        if self.not_finite_at_step == len(self.steps):
            self._logits[0, 5] = np.nan
        return self._logits[: b.n_logit_rows]

    def _read(self, slot: int, position: int) -> int:
        block = int(self.batch.block_tables[slot, position // BLOCK_TOKENS])
        value = self._storage[block][position % BLOCK_TOKENS]
        assert value >= 0, f"position {position} was never computed"
        return value

    def _check_rows(self) -> None:
        """The promises of StepBatch: rows of a slot are consecutive and ascend by one, nothing twice."""
        b = self.batch
        seen: set[int] = set()
        for row in range(b.n_tokens):
            slot = int(b.slots[row])
            if row and int(b.slots[row - 1]) == slot:
                assert b.positions[row] == b.positions[row - 1] + 1
            else:
                assert slot not in seen
                seen.add(slot)
        wanted = b.logit_rows[: b.n_logit_rows].tolist()
        assert len(set(wanted)) == len(wanted)
        assert all(0 <= row < b.n_tokens for row in wanted)


class FakeTokenizer:
    """Token i >= 3 is a letter or two; 1 and 2 are the halves of a two-byte character; 0 ends a generation."""

    n_vocab = N_VOCAB
    eog_ids = frozenset({EOG})

    def token_bytes(self, token_id: int) -> bytes:
        if token_id == EOG:
            return b""
        if token_id in (1, 2):
            return "ö".encode()[token_id - 1 : token_id]
        letter = chr(ord("a") + token_id % 26)
        return (letter if token_id < 80 else letter + "-").encode()

    def token_text(self, token_id: int) -> str:
        return "<eog>" if token_id == EOG else self.token_bytes(token_id).decode(errors="replace")


@dataclass
class Outcome:
    """What one job has got so far."""

    token_ids: list[int] = field(default_factory=list)
    seqs: list[int] = field(default_factory=list)
    text: str = ""
    logprobs: list[Any] = field(default_factory=list)
    progress: list[tuple[int, int]] = field(default_factory=list)
    n_passed: int = 0
    end: SequenceDone | SequenceFailed | SequenceReleased | None = None

    @property
    def reason(self) -> str:
        if isinstance(self.end, SequenceDone):
            return self.end.finish_reason
        return self.end.state.value if isinstance(self.end, SequenceFailed) else "released" if self.end else "open"


class Collector:
    """Takes events and checks, as they come, what is promised about their order."""

    def __init__(self) -> None:
        self.jobs: dict[tuple[str, int], Outcome] = {}
        self.batches: list[list[EngineEvent]] = []
        self.expected_seq: dict[tuple[str, int], int] = {}

    def expect(self, request: EngineRequest) -> None:
        key = (request.job_id, request.fence)
        self.expected_seq[key] = len(request.resume_ids) + 1
        self.jobs[key] = Outcome()

    def __call__(self, events: list[EngineEvent]) -> None:
        assert events, "an empty step is not worth a call"
        self.batches.append(events)
        for event in events:
            key = (event.job_id, event.fence)
            outcome = self.jobs[key]
            assert outcome.end is None, "an event behind the last one"
            if isinstance(event, TokenOut):
                assert event.seq == self.expected_seq[key]
                self.expected_seq[key] += 1
                outcome.token_ids.append(event.token_id)
                outcome.seqs.append(event.seq)
                outcome.text += event.text
                outcome.logprobs.append((event.logprob, event.top_logprobs))
            elif isinstance(event, PrefillProgress):
                outcome.progress.append((event.n_done, event.n_total))
            elif isinstance(event, ProbationPassed):
                outcome.n_passed += 1
            else:
                if not isinstance(event, SequenceReleased):
                    assert event.seq == self.expected_seq[key]
                if isinstance(event, SequenceDone):
                    outcome.text += event.text
                outcome.end = event


@dataclass
class Rig:
    """An engine over fakes, stepped by hand."""

    engine: Engine
    transformer: FakeTransformer
    kv: KVCache
    events: Collector

    def submit(self, request: EngineRequest) -> None:
        self.events.expect(request)
        self.engine.submit(request)

    def outcome(self, job_id: str = "job", fence: int = 1) -> Outcome:
        return self.events.jobs[job_id, fence]

    def run(self, limit: int = 5000) -> None:
        for _ in range(limit):
            if not self.engine.step():
                return
        raise AssertionError(f"not idle after {limit} steps")

    def check_idle(self) -> None:
        self.kv.check_invariants()
        assert self.kv.n_used == 0
        assert self.engine.stats().n_running == self.engine.stats().n_waiting == 0


def make_rig(
    *,
    n_blocks: int = 64,
    n_ctx: int = 512,
    n_slots: int = 4,
    max_step_tokens: int = 64,
    prefix_cache: bool = True,
    **settings: Any,
) -> Rig:
    kv = KVCache(KVLayout(n_layer=1, n_head_kv=1, head_dim=16, dtype="f16"), n_blocks)
    transformer = FakeTransformer(kv, n_ctx=n_ctx, max_step_tokens=max_step_tokens, max_slots=n_slots)
    events = Collector()
    engine = Engine(
        transformer,
        FakeTokenizer(),
        kv,
        EngineSettings(n_slots=n_slots, max_step_tokens=max_step_tokens, prefix_cache=prefix_cache, **settings),
        events,
    )
    return Rig(engine, transformer, kv, events)


def make_request(
    prompt: Sequence[int] = (5, 6, 7),
    job_id: str = "job",
    *,
    fence: int = 1,
    resume: Sequence[int] = (),
    deadline_seconds: float | None = None,
    **sampling: Any,
) -> EngineRequest:
    """Greedy, 8 tokens, past EOS, unless told otherwise."""
    params = {"temperature": 0.0, "max_tokens": 8, "seed": 1, "ignore_eos": True} | sampling
    return EngineRequest(job_id, fence, tuple(prompt), SamplingParams(**params), tuple(resume), deadline_seconds)


def run_alone(request: EngineRequest, **rig: Any) -> Outcome:
    """The same request with nobody else there, in an engine with room for everything."""
    alone = make_rig(**({"n_blocks": 64, "n_slots": 1} | rig))
    alone.submit(request)
    alone.run()
    alone.check_idle()
    return alone.outcome(request.job_id, request.fence)
