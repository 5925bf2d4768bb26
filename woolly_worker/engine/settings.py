"""EngineSettings: the few numbers that shape a step. None of them changes a token that anybody gets."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Checked at construction: ValueError names both numbers.

    n_slots             sequences that run together
    max_step_tokens     tokens of one step, decode and prefill together
    prefix_cache        keep full KV blocks findable for later prompts that begin alike
    decode_gap_seconds  while somebody decodes, prefill chunks shrink until a step takes about this long
    longest_step_seconds  prefill chunks are such that a step is expected to take no longer, whoever is in it; None: any
    headroom_blocks     left free for each sequence at admission, 4 are 128 tokens, before anybody may have to give way
    waiting_tick_seconds  how often a sequence that waits for KV blocks reports that it is still here
    """

    n_slots: int
    max_step_tokens: int
    prefix_cache: bool = True
    decode_gap_seconds: float = 0.25
    longest_step_seconds: float | None = None
    headroom_blocks: int = 4
    waiting_tick_seconds: float = 1.0

    def __post_init__(self) -> None:
        if self.n_slots < 1:
            raise ValueError(f"an engine has at least one slot, not {self.n_slots}")
        if self.max_step_tokens < self.n_slots:
            raise ValueError(
                f"max_step_tokens is {self.max_step_tokens}, but {self.n_slots} slots take a token each per step"
            )
