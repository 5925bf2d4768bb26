"""A worker without an engine: it takes real bells from Redis, claims through the real ledger, and writes a script."""

import base64
import json
import threading
from dataclasses import dataclass

from woolly_worker.contract.errors import JobCancelled
from woolly_worker.contract.events import DoneEvent, FailedEvent, StateEvent, TokenEvent
from woolly_worker.contract.jobs import ErrorInfo, FinishReason, JobMetrics, TokenLogprob, Usage
from woolly_worker.contract.states import JobState
from woolly_worker.ledger import keys
from woolly_worker.ledger.ledger import Ledger
from woolly_worker.ledger.models import ModelCard, ModelRegistry, WorkerBeat, WorkerStats
from woolly_worker.ledger.records import Claim, Emission, Finish, Reply

MODEL = "tiny"
N_CTX = 512
LEASE_SECONDS = 10.0
USAGE = Usage(prompt_tokens=7, completion_tokens=0, total_tokens=7, cached_tokens=2)


@dataclass
class Script:
    """What the model says. With `permits`, each piece waits for one `release()`."""

    pieces: tuple[str, ...] = (" Once", " upon", " a", " time")
    tokens: tuple[str, ...] | None = None  # the tokens' own texts, where they differ from what they add
    chosen_last: bool = False  # logprobs: the chosen token is none of the best, and reported behind them
    held_back: str = ""  # comes with the terminal event
    finish_reason: FinishReason = "stop"
    error: ErrorInfo | None = None  # instead of the terminal event of a success
    permits: threading.Semaphore | None = None

    @property
    def text(self) -> str:
        return "".join(self.pieces) + self.held_back


class ScriptedWorker:
    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.registry = ModelRegistry(ledger.client)
        self.claims: list[Claim] = []
        self.bells: list[str] = []
        self.cancelled: list[str] = []
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self.failure: BaseException | None = None

    def announce(self, name: str = MODEL, *, alive: bool = True, n_ctx: int = N_CTX, chat: bool = True) -> None:
        card = ModelCard(
            name=name, architecture="llama", n_ctx=n_ctx, quantization="Q8_0", path="/secret/path", chat=chat
        )
        self.registry.announce(card)
        if alive:
            self.beat(name)

    def beat(self, name: str = MODEL, *, worker_id: str | None = None, n_ctx: int = N_CTX, **stats: object) -> None:
        self.registry.beat(
            WorkerBeat(
                worker_id=worker_id or f"worker-{name}",
                n_ctx=n_ctx,
                model=name,
                hostname="here",
                pid=1,
                optimizations=("prefix_cache", "continuous_batching"),
                stats=WorkerStats.model_validate(stats),
            ),
            ttl_seconds=60,
        )

    def serve(self, script: Script | None = None, *, model: str = MODEL) -> Script:
        """Start answering bells; every job gets the same script."""
        script = script or Script()
        thread = threading.Thread(target=self._run, args=(script, model), name="scripted-worker")
        self._threads.append(thread)
        thread.start()
        return script

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(10)
        if self.failure is not None:
            raise self.failure

    def _run(self, script: Script, model: str) -> None:
        jobs: list[threading.Thread] = []
        try:
            while not self._stop.is_set():
                message = self.ledger.client.brpop([keys.bells(model)], timeout=0.1)
                if message is None:
                    continue
                job_id = _job_id(message[1])
                self.bells.append(job_id)
                job = threading.Thread(target=self._job, args=(job_id, script))
                jobs.append(job)
                job.start()
        except BaseException as error:
            self.failure = error
        for job in jobs:
            job.join(10)

    def _job(self, job_id: str, script: Script) -> None:
        try:
            claim = self.ledger.claim(job_id, "scripted", lease_seconds=LEASE_SECONDS)
            if isinstance(claim, Claim):
                self.claims.append(claim)
                self._play(claim, script)
        except BaseException as error:
            self.failure = error

    def _play(self, claim: Claim, script: Script) -> None:
        progress = StateEvent(state=JobState.RUNNING, attempt=claim.attempt, prefill_done=3, prefill_total=7)
        self._emit(claim, progress)
        written: list[TokenEvent] = []
        for seq, piece in enumerate(script.pieces, start=1):
            if not self._permitted(claim, script):
                if not self._stop.is_set():
                    self._cancel(claim, written)
                return
            token = _token(claim, seq, piece, script)
            if self._emit(claim, token) is Reply.CANCELLED:
                self._cancel(claim, [*written, token])
                return
            written.append(token)
        self._finish(claim, written, script)

    def _permitted(self, claim: Claim, script: Script) -> bool:
        while script.permits is not None and not script.permits.acquire(timeout=0.05):
            if self._emit(claim, None) is Reply.CANCELLED or self._stop.is_set():
                return False
        return True

    def _emit(self, claim: Claim, event: TokenEvent | StateEvent | None) -> Reply:
        (reply,) = self.ledger.emit([Emission(claim.job_id, claim.fence, event)], lease_seconds=LEASE_SECONDS)
        return reply

    def _cancel(self, claim: Claim, written: list[TokenEvent]) -> None:
        error = ErrorInfo.of(JobCancelled("the job was cancelled"))
        event = FailedEvent(seq=len(written) + 1, state=JobState.CANCELLED, error=error, usage=USAGE)
        self._close(claim, written, event)
        self.cancelled.append(claim.job_id)

    def _finish(self, claim: Claim, written: list[TokenEvent], script: Script) -> None:
        n = len(written)
        usage = USAGE.model_copy(update={"completion_tokens": n, "total_tokens": 7 + n})
        metrics = JobMetrics(decode_tokens_per_second=25.0)
        event: DoneEvent | FailedEvent
        if script.error is not None:
            event = FailedEvent(seq=n + 1, state=JobState.FAILED, error=script.error, usage=usage, metrics=metrics)
        else:
            event = DoneEvent(
                seq=n + 1,
                finish_reason=script.finish_reason,
                text=script.held_back,
                usage=usage,
                metrics=metrics,
            )
        self._close(claim, written, event, script.held_back)

    def _close(self, claim: Claim, written: list[TokenEvent], event: DoneEvent | FailedEvent, rest: str = "") -> None:
        text = "".join(token.text for token in written) + rest
        ids = tuple(token.token_id for token in written)
        finished = self.ledger.finish(Finish(claim.job_id, claim.fence, claim.request.model, event, ids, text))
        assert finished.reply is Reply.OK


def _token(claim: Claim, seq: int, text: str, script: Script) -> TokenEvent:
    n_top = claim.request.sampling.logprobs
    if n_top is None:
        return TokenEvent(seq=seq, token_id=100 + seq, text=text)
    own = script.tokens[seq - 1] if script.tokens else text
    chosen = TokenLogprob(token_id=100 + seq, text=own, logprob=-0.25 * seq)
    others = [TokenLogprob(token_id=200 + i, text=f"alt{i}", logprob=-5.0 - i) for i in range(n_top)]
    top = (*others, chosen) if script.chosen_last else (chosen, *others)[: max(1, n_top)]
    return TokenEvent(seq=seq, token_id=100 + seq, text=text, logprob=chosen.logprob, top_logprobs=top)


def _job_id(message: str) -> str:
    """Out of Celery's envelope: a JSON body of (args, kwargs, embed), base64."""
    envelope = json.loads(message)
    (job_id,), _, _ = json.loads(base64.b64decode(envelope["body"]))
    return str(job_id)
