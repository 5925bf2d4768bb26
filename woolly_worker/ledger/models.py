"""Which models there are, who serves them, and how busy they are: announced by workers, read by the API.

A model card stays for ever, so that a job for a model whose workers are all down can wait for them, while a model that
nobody ever served is refused. A worker's heartbeat leaves by itself when the worker does.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import redis
from pydantic import BaseModel, ConfigDict, Field

from woolly_worker.contract.benchmarks import BenchmarkAnswer
from woolly_worker.ledger import keys
from woolly_worker.ledger.connection import translated_errors
from woolly_worker.ledger.foreign import readable

HEARTBEAT_SECONDS = 2.0
HEARTBEAT_TTL_SECONDS = 10.0
FORGET_WORKERS_AFTER_MS = 24 * 3600 * 1000


class _Announced(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class ModelCard(_Announced):
    """What a worker serves. The fields are those that people compare models by."""

    name: str
    architecture: str
    n_ctx: int = Field(description="tokens per sequence, prompt and completion together")
    n_ctx_train: int | None = None
    n_params: int | None = None
    size_bytes: int | None = None
    quantization: str | None = Field(None, description="as llama.cpp spells it, such as Q4_K_M")
    n_layer: int | None = None
    n_embd: int | None = None
    n_head: int | None = None
    n_head_kv: int | None = None
    n_vocab: int | None = None
    path: str | None = Field(None, description="on the worker's machine")
    description: str = ""
    chat: bool = Field(False, description="whether the file carries a chat template")
    announced_at: float | None = Field(None, description="its name's first time: Unix seconds, by Redis's clock")


class BufferStats(_Announced):
    """Scratch buffers of one size class, leased from a pool of memory that was taken once."""

    used_bytes: int = 0
    leases: int = Field(0, description="lent out now")
    leases_total: int = 0
    reused_total: int = Field(0, description="leases all of whose memory had been lent before")
    reuse_rate: float | None = Field(None, description="share of all leases, 0 to 1")


class WorkerStats(_Announced):
    """What an engine says about itself, once per heartbeat. Rates are over the last few seconds."""

    slots: int = 0
    running: int = Field(0, description="sequences in the batch")
    waiting: int = Field(0, description="claimed, and waiting for a slot or KV blocks")
    kv_blocks_total: int = 0
    kv_blocks_free: int = 0
    kv_block_tokens: int = 0
    steps_total: int = 0
    prompt_tokens_total: int = 0
    cached_tokens_total: int = 0
    generated_tokens_total: int = 0
    jobs_finished_total: int = 0
    refused_messages_total: int = Field(0, description="messages in its queues that were none of Woolly's")
    damaged_jobs_total: int = Field(0, description="jobs ended because others had changed their records")
    prefill_tokens_per_second: float = 0.0
    decode_tokens_per_second: float = 0.0
    batch_size_mean: float = Field(0.0, description="sequences per step, over all steps")
    busy_seconds_total: float = 0.0
    preemptions_total: int = Field(0, description="times a sequence gave up its KV blocks and was computed again")
    prefix_hit_rate: float | None = Field(None, description="share of prompt tokens found in the prefix cache")
    step_shares: dict[str, float] = Field(default_factory=dict, description="where the busy time went, by phase")
    buffer_pool_bytes: int = Field(0, description="memory of the pool that scratch buffers are leased from")
    buffers: dict[str, BufferStats] = Field(default_factory=dict, description="scratch buffers, by size class")
    rss_bytes: int | None = None
    locked_bytes: int | None = Field(None, description="memory that the system may not take away: WOOLLY_MLOCK")
    huge_page_bytes: int | None = Field(None, description="memory in pages of 2 MB: WOOLLY_HUGE_PAGES, if it is set")
    cpu_seconds_total: float | None = None
    minor_faults_total: int | None = Field(None, description="pages mapped without reading: memory that came into use")
    major_faults_total: int | None = Field(None, description="pages read from disk: weights that were not in memory")


class WorkerBeat(_Announced):
    """One worker's sign of life."""

    worker_id: str
    model: str
    hostname: str
    pid: int
    parent_pid: int | None = Field(None, description="for `woolly worker` that of the process which waits for it")
    state: str = Field("ready", description="loading, ready, draining")
    threads: int | None = None
    n_ctx: int | None = Field(None, description="tokens of the longest job that it can hold; once it is ready")
    optimizations: tuple[str, ...] = Field((), description='what is switched on, such as "prefix_cache", "simd_avx512"')
    recipe: str | None = Field(None, description="what its tokens depend on beside the request: weights and KV type")
    version: str | None = None
    started_at: float | None = Field(None, description="Unix seconds, by the worker's clock; for people only")
    stats: WorkerStats = WorkerStats()


def cards_of(entries: Mapping[str, str]) -> list[ModelCard]:
    """By name. What is no card is told and left out."""
    found = readable("model card", entries.items(), ModelCard.model_validate_json)
    return sorted(found, key=lambda card: card.name)


def beats_of(worker_ids: Sequence[str], texts: Sequence[str | None]) -> list[WorkerBeat]:
    """What is no heartbeat is told and left out, as if that worker were silent."""
    return list(readable("heartbeat", zip(worker_ids, texts, strict=True), WorkerBeat.model_validate_json))


class ModelRegistry:
    """The workers' side. The API reads the same through `reader.LedgerReader`."""

    def __init__(self, client: redis.Redis) -> None:
        self.client = client

    def announce(self, card: ModelCard) -> None:
        with translated_errors():
            seconds, micros = self.client.time()
            text = cast(str | None, self.client.hget(keys.MODELS, card.name))
            known = cards_of({card.name: text}) if text is not None else []
            since = known[0].announced_at if known else None
            stamped = card.model_copy(update={"announced_at": since or int(seconds) + int(micros) / 1e6})
            self.client.hset(keys.MODELS, card.name, stamped.model_dump_json(exclude_none=True))

    def beat(self, beat: WorkerBeat, *, ttl_seconds: float = HEARTBEAT_TTL_SECONDS) -> None:
        with translated_errors():
            now_ms = self._now_ms()
            pipe = self.client.pipeline(transaction=False)
            pipe.set(
                keys.worker(beat.worker_id), beat.model_dump_json(exclude_none=True), px=max(1, int(ttl_seconds * 1000))
            )
            pipe.zadd(keys.WORKERS, {beat.worker_id: now_ms})
            pipe.zremrangebyscore(keys.WORKERS, "-inf", now_ms - FORGET_WORKERS_AFTER_MS)
            pipe.execute()

    def leave(self, worker_id: str) -> None:
        """A worker that stops cleanly says so; one that is killed is forgotten when its heartbeat expires."""
        with translated_errors():
            self.client.delete(keys.worker(worker_id))
            self.client.zrem(keys.WORKERS, worker_id)

    def answer(self, call_id: str, answer: BenchmarkAnswer) -> None:
        """Leave the answer to a benchmark where the API looks for it."""
        with translated_errors():
            self.client.set(keys.benchmark(call_id), answer.model_dump_json(), ex=keys.BENCHMARK_TTL_SECONDS)

    def is_awaited(self, call_id: str) -> bool:
        """Whether somebody still waits for the answer to this benchmark."""
        with translated_errors():
            return bool(self.client.exists(keys.benchmark(call_id)))

    def cards(self) -> list[ModelCard]:
        with translated_errors():
            cards = cast(Mapping[str, str], self.client.hgetall(keys.MODELS))
        return cards_of(cards)

    def workers(self) -> list[WorkerBeat]:
        with translated_errors():
            ids = cast(Sequence[str], self.client.zrange(keys.WORKERS, 0, -1))
            if not ids:
                return []
            beats: Any = self.client.mget([keys.worker(worker_id) for worker_id in ids])
        return beats_of(ids, beats)

    def _now_ms(self) -> int:
        seconds, micros = self.client.time()
        return int(seconds) * 1000 + int(micros) // 1000
