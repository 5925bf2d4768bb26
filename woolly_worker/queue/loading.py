"""From a GGUF file to an engine that can step: for the worker, and for `woolly generate`, which has no queue."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

from woolly_worker.contract.benchmarks import BenchmarkType
from woolly_worker.contract.errors import ModelFileError
from woolly_worker.engine.engine import Engine
from woolly_worker.engine.events import EngineEvent
from woolly_worker.engine.settings import EngineSettings
from woolly_worker.gguf.fingerprint import Original
from woolly_worker.gguf.reader import GGUFFile
from woolly_worker.kernels import object_cache
from woolly_worker.kernels.cpu import CPU, allowed_cpus
from woolly_worker.memory.kv_cache import BLOCK_TOKENS, KVCache, blocks_for
from woolly_worker.memory.residency import ReadAhead, lock, lock_limit, use_huge_pages
from woolly_worker.model.baseline import Baseline
from woolly_worker.model.chat import ChatTemplate
from woolly_worker.model.config import ModelConfig
from woolly_worker.model.selfcheck import check_operations
from woolly_worker.model.tokenizer import Tokenizer
from woolly_worker.model.transformer import Transformer, kv_layout
from woolly_worker.model.weights import open_model
from woolly_worker.settings import WorkerSettings

if TYPE_CHECKING:
    from woolly_worker.bench.beside import Measured
    from woolly_worker.ledger.models import ModelCard

log = logging.getLogger(__name__)

LARGEST_DEFAULT_CONTEXT = 4096
# Leases are renewed after steps. A step that takes four times as long as expected may still be in time.
LEASE_SHARE_OF_A_STEP = 0.25
# Names among a worker's optimizations.
BASELINE = "baseline_forward_pass"  # it has none here
MLOCK = "mlock"
HUGE_PAGES = "huge_pages"

# (what is being done, the share that is done or None)
Progress = Callable[[str, float | None], None]


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """Everything between a request and its tokens. `close()` ends the threads and unmaps the file."""

    name: str
    file: GGUFFile
    original: Original
    config: ModelConfig
    tokenizer: Tokenizer
    chat: ChatTemplate | None
    transformer: Transformer | Baseline
    kv: KVCache
    engine: Engine
    read_ahead: ReadAhead | None  # None: the weights are locked, or there is too little memory for them
    memory: tuple[str, ...]  # of MLOCK and HUGE_PAGES, what the system granted

    @property
    def n_ctx(self) -> int:
        return self.transformer.n_ctx

    @property
    def longest(self) -> int:
        return self.engine.limits.longest

    @property
    def optimizations(self) -> tuple[str, ...]:
        """What is switched on, for people who look at a worker."""
        prefix_cache = ("prefix_cache",) if self.engine.settings.prefix_cache else ()
        arithmetic = BASELINE if isinstance(self.transformer, Baseline) else f"simd_{CPU.level}"
        always = ("continuous_batching", "paged_kv_cache", f"kv_{self.kv.layout.dtype}", arithmetic)
        return (*always, *prefix_cache, *self.memory)

    @property
    def recipe(self) -> str:
        """What the tokens of a request depend on beside the request: a job goes on only where this is the same."""
        arithmetic = f"-{BASELINE}" if isinstance(self.transformer, Baseline) else ""
        return f"{self.original.fingerprint}-kv_{self.kv.layout.dtype}{arithmetic}"

    def is_overwritten(self) -> bool:
        return self.original.is_overwritten()

    def card(self) -> "ModelCard":
        from woolly_worker.ledger.models import ModelCard  # brings redis, 0.25 s that `woolly generate` can do without

        config = self.config
        return ModelCard(
            name=self.name,
            description=config.name,
            architecture=config.architecture,
            n_ctx=self.n_ctx,
            n_ctx_train=config.n_ctx_train,
            n_params=config.n_params,
            size_bytes=self.file.n_bytes,
            quantization=config.file_type,
            n_layer=config.n_layer,
            n_embd=config.n_embd,
            n_head=config.n_head,
            n_head_kv=config.n_head_kv,
            n_vocab=config.n_vocab,
            path=str(self.file.path),
            chat=self.chat is not None,
        )

    def benchmark(self, kind: BenchmarkType, iterations: int, stop: Callable[[], bool]) -> "Measured":
        """Measure beside the engine, on the same weights; see `bench/beside.py`."""
        from woolly_worker.bench.beside import Subject, measure  # a start can do without it

        is_naive = isinstance(self.transformer, Baseline)
        n_threads = 1 if isinstance(self.transformer, Baseline) else self.transformer.n_threads
        subject = Subject(self.config, self.transformer.weights, n_threads=n_threads, is_naive=is_naive)
        return measure(subject, kind, iterations, stop)

    def close(self) -> None:
        """The engine has been stopped before."""
        self.transformer.close()
        if self.read_ahead is not None:
            self.read_ahead.close()
        self.file.close()


def load_model(
    settings: WorkerSettings,
    on_events: Callable[[Sequence[EngineEvent]], None],
    progress: Progress = lambda stage, share: None,
    remark: Callable[[str], None] = log.warning,
) -> LoadedModel:
    """Raises ModelFileError for a file that cannot be served, with the numbers that disagree, and KernelMismatch if an
    operation computes something else than it should. What is allowed but hardly meant goes to `remark`, a line each."""
    progress("reading the file", None)
    config, weights = open_model(settings.model)
    file = weights.file
    original = Original(file)
    memory = []
    if settings.huge_pages and use_huge_pages(file.address, file.n_bytes):
        memory.append(HUGE_PAGES)
    if settings.mlock:
        progress("locking the weights in memory", None)
        if _locked(file, remark):
            memory.append(MLOCK)
    read_ahead = None if MLOCK in memory else _read_ahead(file, remark, large_pieces=HUGE_PAGES in memory)
    progress("reading the vocabulary", None)
    tokenizer = Tokenizer.from_gguf(file)
    chat = ChatTemplate.from_gguf(file, tokenizer)
    n_ctx = settings.n_ctx or min(config.n_ctx_train, LARGEST_DEFAULT_CONTEXT)
    for line in _remarks(n_ctx, config.n_ctx_train, settings.threads, allowed_cpus()):
        remark(line)
    layout = kv_layout(config, "f32" if settings.baseline else settings.kv_dtype)
    kv = KVCache(layout, _n_blocks(settings, n_ctx, layout.block_bytes))
    if HUGE_PAGES in memory:
        use_huge_pages(kv.base, kv.n_bytes)

    # Many tokens at once make the naive loops no faster, and a lease lives by steps that end in time.
    max_step_tokens = settings.slots if settings.baseline else settings.prefill_chunk
    sizes = {
        "max_step_tokens": max_step_tokens,
        "max_logit_rows": settings.slots,
        "max_slots": settings.slots,
        "n_ctx": n_ctx,
    }

    def on_compile(n_ready: int, n_all: int) -> None:
        progress("compiling kernels", n_ready / n_all if n_all else None)

    transformer: Transformer | Baseline
    if settings.baseline:
        transformer = Baseline(config, weights, n_blocks=kv.n_blocks, **sizes)
    else:
        transformer = Transformer(config, weights, kv, n_threads=settings.threads, on_compile=on_compile, **sizes)
        if object_cache.unsaved:
            remark(f"kernels cannot be kept in {object_cache.unsaved[0].parent}: the next start compiles them again")
        progress("checking the kernels", None)
        check_operations(config, weights, layout)
        for buffer in transformer.buffers if HUGE_PAGES in memory else ():
            use_huge_pages(buffer.address, buffer.n_bytes)
    engine = Engine(
        transformer,
        tokenizer,
        kv,
        EngineSettings(
            n_slots=settings.slots,
            max_step_tokens=max_step_tokens,
            prefix_cache=settings.prefix_cache,
            longest_step_seconds=settings.lease_seconds * LEASE_SHARE_OF_A_STEP,
        ),
        on_events,
    )
    progress("ready", 1.0)
    name = settings.served_name
    return LoadedModel(
        name,
        file,
        original,
        config,
        tokenizer,
        chat,
        transformer,
        kv,
        engine,
        read_ahead=read_ahead,
        memory=tuple(memory),
    )


def _locked(file: GGUFFile, remark: Callable[[str], None]) -> bool:
    """Waits until all of it is in memory."""
    refusal = lock(file.address, file.n_bytes)
    if refusal is not None:
        remark(
            f"the weights are not locked in memory ({refusal}): they take {file.n_bytes:,} bytes, "
            f"this process may lock {lock_limit():,} (ulimit -l)"
        )
    return refusal is None


def _read_ahead(file: GGUFFile, remark: Callable[[str], None], *, large_pieces: bool) -> ReadAhead | None:
    """In the background. The end of a file that is larger than memory would only drive out its beginning."""
    available = psutil.virtual_memory().available
    if file.n_bytes > available:
        remark(
            f"the model has {file.n_bytes:,} bytes, but {available:,} of memory are free: "
            "every step will read from the disk"
        )
        return None
    return ReadAhead(file.data, large_pieces_of=file.path if large_pieces else None)


def _remarks(n_ctx: int, n_ctx_train: int, n_threads: int, n_cpus: int) -> list[str]:
    remarks = []
    if n_ctx > n_ctx_train:
        remarks.append(
            f"the context is {n_ctx} tokens, but the model was trained for {n_ctx_train}: "
            "what it writes beyond them may make no sense"
        )
    if n_threads > n_cpus:
        cpus = "1 CPU is" if n_cpus == 1 else f"{n_cpus} CPUs are"
        remarks.append(f"there are {n_threads} threads, but {cpus} allowed: every step becomes slower")
    return remarks


def _n_blocks(settings: WorkerSettings, n_ctx: int, block_bytes: int) -> int:
    """KV blocks for every slot's n_ctx; without a size given, no more than half of the memory that is free now."""
    wanted = settings.slots * blocks_for(n_ctx)
    if settings.kv_cache_bytes is not None:
        n_blocks = int(settings.kv_cache_bytes) // block_bytes
        limit = f"kv_cache_bytes is {int(settings.kv_cache_bytes)}"
    else:
        free = psutil.virtual_memory().available // 2
        n_blocks = min(wanted, free // block_bytes)
        limit = f"half of the free memory is {free} bytes"
    if n_blocks < 1:
        raise ModelFileError(f"one KV block of {BLOCK_TOKENS} tokens takes {block_bytes} bytes, {limit}")
    return n_blocks
