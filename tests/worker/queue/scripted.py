"""An engine that says what the test tells it to, and remembers what it was told."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from woolly_worker.bench.beside import Measured
from woolly_worker.contract.benchmarks import BenchmarkType
from woolly_worker.contract.errors import JobCancelled, WoollyError
from woolly_worker.contract.jobs import ErrorInfo, JobRequest, Usage
from woolly_worker.contract.states import JobState
from woolly_worker.engine.events import (
    EngineEvent,
    EngineRequest,
    SequenceDone,
    SequenceFailed,
    SequenceReleased,
    TokenOut,
)
from woolly_worker.engine.metrics import EngineMetrics, EngineStats
from woolly_worker.engine.timeline import SequenceTimes, TimelineRecorder
from woolly_worker.ledger.models import ModelCard
from woolly_worker.memory.pool import BufferPool

MODEL = "tiny"
PROMPT = "the prompt that nobody may log"


def request(**changes: Any) -> JobRequest:
    return JobRequest.model_validate({"model": MODEL, "prompt": PROMPT, **changes})


def times() -> SequenceTimes:
    """Of a sequence that ends as soon as it has begun."""
    now = time.monotonic()
    return TimelineRecorder(now).times(now)


def token(job_id: str, seq: int, fence: int = 1) -> TokenOut:
    return TokenOut(job_id, fence, seq, token_id=100 + seq, text=f" t{seq}")


def done(job_id: str, seq: int, fence: int = 1, text: str = "") -> SequenceDone:
    usage = Usage(prompt_tokens=3, completion_tokens=seq - 1, total_tokens=seq + 2)
    metrics = EngineMetrics(decode_tokens_per_second=9.0, batch_size_max=2)
    return SequenceDone(job_id, fence, seq, "stop", text, usage, metrics, times())


def cancelled(job_id: str, seq: int, fence: int = 1) -> SequenceFailed:
    error = ErrorInfo(code="cancelled", message="the job was cancelled")
    return SequenceFailed(job_id, fence, seq, error, JobState.CANCELLED, Usage(), EngineMetrics(), times())


@dataclass
class ScriptedEngine:
    on_events: Callable[[Sequence[EngineEvent]], None] = lambda events: None
    refuse: WoollyError | Exception | None = None
    on_submit: Callable[[EngineRequest], Sequence[EngineEvent]] = lambda request: ()
    requests: list[EngineRequest] = field(default_factory=list)
    orders: list[tuple[Any, ...]] = field(default_factory=list)
    die: Callable[[], None] = lambda: None

    def start(self, on_death: Callable[[], None]) -> None:
        self.die = on_death
        self.orders.append(("start",))

    def stop(self) -> None:
        self.orders.append(("stop",))

    def submit(self, request: EngineRequest) -> None:
        if self.refuse is not None:
            raise self.refuse
        self.requests.append(request)
        events = self.on_submit(request)
        if events:
            threading.Thread(target=self.on_events, args=(events,)).start()

    def cancel(self, job_id: str, fence: int | None = None) -> None:
        self.orders.append(("cancel", job_id, fence))

    def drop(self, job_id: str, fence: int) -> None:
        self.orders.append(("drop", job_id, fence))

    def passed(self, job_id: str, fence: int) -> None:
        self.orders.append(("passed", job_id, fence))

    def isolate(self, job_id: str, fence: int) -> threading.Event:
        self.orders.append(("isolate", job_id, fence))
        isolated = threading.Event()
        isolated.set()
        return isolated

    def rejoin(self, job_id: str, fence: int) -> None:
        self.orders.append(("rejoin", job_id, fence))

    def drain(self, grace_seconds: float) -> bool:
        self.orders.append(("drain",))
        self.on_events([SequenceReleased(request.job_id, request.fence, times()) for request in self.requests])
        return True

    def stats(self) -> EngineStats:
        zeros = {field.name: 0 for field in fields(EngineStats)}
        return EngineStats(
            **{
                **zeros,
                "n_slots": 4,
                "n_running": len(self.requests),
                "kv_blocks_total": 8,
                "buffers": BufferPool(0).figures(),
            }
        )


class Letters:
    """A tokenizer: a token per letter."""

    n_vocab = 300

    def encode_chat(self, rendered: str) -> list[int]:
        return [ord(letter) for letter in rendered]


@dataclass
class Scripted:
    """What a loader returns."""

    engine: ScriptedEngine
    tokenizer: Letters = field(default_factory=Letters)
    chat: Any = None
    optimizations: tuple[str, ...] = ("scripted",)
    recipe: str = "scripted-kv_f16"
    longest: int = 48
    closed: bool = False
    hold: threading.Event = field(default_factory=threading.Event)
    measuring: threading.Event = field(default_factory=threading.Event)

    def is_overwritten(self) -> bool:
        return False

    def card(self) -> ModelCard:
        return ModelCard(name=MODEL, architecture="scripted", n_ctx=64)

    def benchmark(self, kind: BenchmarkType, iterations: int, stop: Callable[[], bool]) -> Measured:
        """Takes as long as the test lets it: `hold` is what it waits for."""
        self.measuring.set()
        while not self.hold.wait(0.01):
            if stop():
                raise JobCancelled("the worker stops")
        return Measured("a script", 1, seconds=0.5, baseline_iterations=1, baseline_average=1.0)

    def close(self) -> None:
        self.closed = True


def eventually(condition: Callable[[], Any], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)
