"""What is measured: a list of plain commands that every runner understands, and what each of them costs at the least.

A command is JSON: it goes to a peer as one line. Times come back in seconds; the rest is computed here.
"""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from woolly_worker.memory.kv_cache import BLOCK_TOKENS, KVLayout
from woolly_worker.model.config import ModelConfig
from woolly_worker.model.weights import Weights

STEP_TOKENS = 512  # tokens of a prompt that go into one step, for Woolly and for the peer (its n_ubatch)

# The default plan: a 1B model takes a few minutes with five rounds.
PREFILL_TOKENS = (128, 512, 2048)
DECODE_STEPS = 32
DEPTHS = (0, 4096, 16384)
BATCHES = (1, 2, 4, 8, 16)
MIXED_BATCH, MIXED_PROMPT, MIXED_CHUNK = 8, 512, 128


@dataclass(frozen=True, slots=True)
class Prefill:
    """A prompt of n_tokens in steps of STEP_TOKENS, logits of its last token."""

    n_tokens: int
    do: Literal["prefill"] = "prefill"

    @property
    def name(self) -> str:
        return f"prefill {self.n_tokens}"

    @property
    def n_ctx(self) -> int:
        return self.n_tokens

    @property
    def n_slots(self) -> int:
        return 1

    @property
    def n_reads(self) -> int:
        """How often the weights are read: once a step."""
        return math.ceil(self.n_tokens / STEP_TOKENS)

    @property
    def total_tokens(self) -> int:
        return self.n_tokens


@dataclass(frozen=True, slots=True)
class Decode:
    """n_steps steps that add a token to each of `batch` sequences, which have `depth` tokens already. The median step
    counts, times n_steps."""

    n_steps: int
    batch: int = 1
    depth: int = 0
    do: Literal["decode"] = "decode"

    @property
    def name(self) -> str:
        many = f"{self.batch} sequence" + ("s" if self.batch > 1 else "")
        return f"decode, {many}" if not self.depth else f"decode at {self.depth}, {many}"

    @property
    def n_ctx(self) -> int:
        return self.depth + self.n_steps

    @property
    def n_slots(self) -> int:
        return self.batch

    @property
    def total_tokens(self) -> int:
        return self.batch * self.n_steps


@dataclass(frozen=True, slots=True)
class Mixed:
    """`batch` sequences decode while a prompt comes in, `chunk` tokens of it in each of their steps."""

    batch: int
    n_prompt: int
    chunk: int
    do: Literal["mixed"] = "mixed"

    @property
    def name(self) -> str:
        return f"mixed, {self.batch} + prompt of {self.n_prompt}"

    @property
    def n_steps(self) -> int:
        return math.ceil(self.n_prompt / self.chunk)

    @property
    def n_ctx(self) -> int:
        return max(self.n_prompt, self.n_steps)

    @property
    def n_slots(self) -> int:
        return self.batch + 1

    @property
    def total_tokens(self) -> int:
        return self.n_prompt + self.batch * self.n_steps


Work = Prefill | Decode | Mixed


def command(work: Work) -> dict[str, Any]:
    return asdict(work)


def make_plan(
    *,
    prefill: Iterable[int] = PREFILL_TOKENS,
    decode_steps: int = DECODE_STEPS,
    batches: Iterable[int] = BATCHES,
    depths: Iterable[int] = DEPTHS,
    mixed: bool = True,
) -> list[Work]:
    """Every batch at depth 0, every depth with one sequence; what would be measured twice is there once."""
    decodes = [Decode(decode_steps, batch=batch) for batch in batches]
    decodes += [Decode(decode_steps, depth=depth) for depth in depths]
    plan: list[Work] = [Prefill(n) for n in prefill]
    plan += dict.fromkeys(decodes)
    if mixed:
        plan.append(Mixed(MIXED_BATCH, MIXED_PROMPT, MIXED_CHUNK))
    return plan


@dataclass(frozen=True, slots=True)
class ModelCost:
    """What no program can avoid: bytes that a step has to read, products that a token has to be multiplied by.

    weight_bytes            matrices that every step reads, once for all of its tokens
    kv_bytes_per_token      keys and values of one position, all layers
    products_per_token      multiply-adds with weights, but for the output matrix; attention's own are not counted
    products_per_logit_row  those of the output matrix
    expert_bytes            those of all experts, of which a step reads the ones that its tokens are sent to
    expert_share            the share of the experts that computes one token
    """

    weight_bytes: int
    kv_bytes_per_token: int
    products_per_token: int
    products_per_logit_row: int
    expert_bytes: int = 0
    expert_share: float = 0.0

    @classmethod
    def of(cls, config: ModelConfig, weights: Weights, layout: KVLayout) -> "ModelCost":
        matrices = [matrix for layer in weights.layers for matrix in layer.matrices()]
        return cls(
            weight_bytes=sum(m.n_bytes for m in matrices if m.n_experts == 1) + weights.output.n_bytes,
            expert_bytes=sum(m.n_bytes for m in matrices if m.n_experts > 1),
            expert_share=config.n_expert_used / max(1, config.n_expert),
            kv_bytes_per_token=layout.block_bytes // BLOCK_TOKENS,
            products_per_token=sum(layer.products_per_token(config.n_expert_used) for layer in weights.layers),
            products_per_logit_row=weights.output.n_rows * weights.output.n_cols,
        )

    def step_bytes(self, n_tokens: int) -> int:
        """Weights that a step of so many tokens reads, where the router sends them evenly to all experts."""
        return self.weight_bytes + round(self.expert_bytes * (1 - (1 - self.expert_share) ** n_tokens))

    def bytes_read(self, work: Decode) -> int:
        """By all steps of the work."""
        context = work.depth + work.n_steps // 2  # on average
        return work.n_steps * (self.step_bytes(work.batch) + work.batch * context * self.kv_bytes_per_token)

    def products(self, work: Prefill) -> int:
        return work.n_tokens * self.products_per_token + self.products_per_logit_row
