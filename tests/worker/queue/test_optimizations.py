"""A heartbeat says what is switched on, and leaves out what is not."""

from pathlib import Path

from woolly_worker.kernels.cpu import CPU
from woolly_worker.queue.heartbeat import optimizations
from woolly_worker.settings import WorkerSettings


def test_what_is_switched_on_is_named() -> None:
    settings = WorkerSettings(model=Path("x.gguf"), slots=8, threads=4, prefix_cache=True, kv_dtype="f16")
    named = set(optimizations(settings))
    assert named >= {"continuous_batching", "prefix_cache", "kv_f16", "threads_4", "paged_kv_cache"}
    assert (f"simd_{CPU.level}" in named) == (CPU.level != "generic")


def test_what_is_switched_off_is_not() -> None:
    settings = WorkerSettings(model=Path("x.gguf"), slots=1, threads=1, prefix_cache=False, kv_dtype="f32")
    assert not set(optimizations(settings)) & {"continuous_batching", "prefix_cache", "kv_f32", "threads_1"}
