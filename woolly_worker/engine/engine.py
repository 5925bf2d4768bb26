"""Engine: requests in, events out, one step after the other over all sequences together.

    schedule -> forward -> sample -> emit

`submit`, `cancel`, `drop`, `isolate`, `rejoin`, `drain` and `stop` may come from any thread. They only leave an order;
whoever runs the steps carries it out before the next one. The engine does no I/O: events go to the callable it was
given, the whole step's at once. If that callable blocks, the engine waits: that is the back-pressure.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from numpy.typing import NDArray

from woolly_worker.contract.errors import DeadlineExceeded, InvalidRequest, JobCancelled
from woolly_worker.contract.jobs import TokenLogprob
from woolly_worker.contract.states import JobState
from woolly_worker.engine.admission import Limits, check_sampling
from woolly_worker.engine.events import EngineEvent, EngineRequest, EngineStopped
from woolly_worker.engine.interfaces import EngineTokenizer, ForwardPass
from woolly_worker.engine.metrics import EngineMeter, EngineStats
from woolly_worker.engine.outbox import Outbox, SequenceKey, log_bug
from woolly_worker.engine.sampler import Sampler
from woolly_worker.engine.scheduler import Scheduler
from woolly_worker.engine.sequence import Sequence, SequenceStatus
from woolly_worker.engine.settings import EngineSettings
from woolly_worker.engine.stalls import note_held_up, note_left_out
from woolly_worker.engine.timeline import HELD_UP_SECONDS
from woolly_worker.memory.kv_cache import KVCache
from woolly_worker.memory.pool import BufferPool

log = logging.getLogger(__name__)

HELD_SECONDS = 0.05  # between looks at deadlines while nobody may be computed


class Engine:
    def __init__(
        self,
        transformer: ForwardPass,
        tokenizer: EngineTokenizer,
        kv: KVCache,
        settings: EngineSettings,
        on_events: Callable[[list[EngineEvent]], None],
    ) -> None:
        n_vocab = transformer.config.n_vocab
        self.settings = settings
        self.limits = Limits(n_ctx=transformer.n_ctx, n_blocks=kv.n_blocks, n_vocab=n_vocab)
        self.scratch = BufferPool(Sampler.scratch_bytes(n_vocab))
        self._transformer, self._tokenizer, self._kv = transformer, tokenizer, kv
        self._eog_ids = tokenizer.eog_ids

        # Shared with other threads, under `_changed`, which is notified when any of it changes.
        self._changed = threading.Condition()
        self._orders: deque[Callable[[], None]] = deque()
        self._live: dict[SequenceKey, Sequence] = {}  # submitted, and its last event is not out yet
        self._stopped = False
        self._thread: threading.Thread | None = None

        # Of whoever runs the steps.
        self._scheduler = Scheduler(kv, transformer.batch, settings)
        self._sampler = Sampler(n_vocab, self.scratch)
        self._meter = EngineMeter()
        self._outbox = Outbox(self._scheduler, self._meter, self._live, on_events)
        self._step_began_at = 0.0  # by the clock of the sequences' timelines
        self._cpu_mark: float | None = None  # None: there was no step just before
        self._drain_at: float | None = None  # draining, and when the grace is over

    # From any thread

    def submit(self, request: EngineRequest) -> None:
        """Take a request. Raises at once what can never be served: InvalidRequest, ContextOverflow, PoolExhausted.

        While the engine is draining, the answer is SequenceReleased. An engine that has ended raises EngineStopped.
        """
        max_ids = self.limits.max_ids(request)
        self.limits.check_ids(request)
        check_sampling(request.sampling)
        sequence = Sequence(request, max_ids=max_ids, tokenizer=self._tokenizer, now=time.monotonic())
        with self._changed:
            if self._stopped:
                raise EngineStopped("the engine has been stopped")
            if sequence.key in self._live:
                raise InvalidRequest(f"job {request.job_id} is already here with fence {request.fence}")
            self._live[sequence.key] = sequence
            self._orders.append(partial(self._add, sequence))
            self._changed.notify_all()

    def cancel(self, job_id: str, fence: int | None = None) -> None:
        """End it as cancelled, before the next step; without a fence, whatever fence it has. An unknown job has ended
        already, and nothing happens."""
        self._order(partial(self._cancel, job_id, fence))

    def drop(self, job_id: str, fence: int) -> None:
        """Forget it without another event: somebody else owns the job now."""
        self._order(partial(self._drop, job_id, fence))

    def isolate(self, job_id: str, fence: int) -> threading.Event:
        """Compute nothing but this sequence, which may be submitted later, until `rejoin`: it is on probation until its
        `alone_until`. The others keep their seats and pause. The event is set once that is so. One at a time: the
        caller sees to it."""
        isolated = threading.Event()
        self._order(partial(self._isolate, (job_id, fence), isolated))
        return isolated

    def rejoin(self, job_id: str, fence: int) -> None:
        """Everybody is computed again. Nothing happens if this one is not isolated (any more)."""
        self._order(partial(self._rejoin, (job_id, fence)))

    def drain(self, grace_seconds: float) -> bool:
        """Release what waits, let the others run for `grace_seconds`, then release them too.

        With the engine's thread running this blocks until that is done, for a second longer than the grace at most,
        and says whether it is. Otherwise it returns at once, and the caller's steps do it.
        """
        self._order(partial(self._start_drain, time.monotonic() + grace_seconds))
        if self._thread is None or self._thread is threading.current_thread():
            return not self._live
        return self.wait_idle(grace_seconds + 1)

    def wait_idle(self, timeout_seconds: float) -> bool:
        """Block until every sequence has ended and its events are out; whether that came in time."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._live, timeout_seconds)

    def start(self, on_death: Callable[[], None] = lambda: None) -> None:
        """Run steps in a thread of the engine's own, until `stop`. If that thread ends for any other reason, it calls
        `on_death`, and then releases every sequence: this engine takes no more."""
        if self._thread is not None or self._stopped:
            raise RuntimeError("an engine is started once")
        self._thread = threading.Thread(target=self._run, args=(on_death,), name="woolly-engine", daemon=True)
        self._thread.start()

    def stop(self, timeout_seconds: float = 10.0) -> None:
        """No further step. What still runs is released, and all blocks are free afterwards."""
        with self._changed:
            if self._stopped and self._thread is None:
                return
            self._stopped = True
            self._changed.notify_all()
        if self._thread is None:
            self._close()
        elif self._thread is not threading.current_thread():
            self._thread.join(timeout_seconds)
            if self._thread.is_alive():
                log.error("the engine has not stopped within %.0f s; its callback may be blocked", timeout_seconds)

    def stats(self) -> EngineStats:
        return self._meter.stats(
            n_running=len(self._scheduler.running),
            n_waiting=len(self._scheduler.waiting),
            n_slots=self.settings.n_slots,
            n_preemptions=self._scheduler.n_preemptions,
            n_cached_tokens=self._scheduler.n_cached_tokens,
            kv_blocks_total=self._kv.n_blocks,
            kv_blocks_free=self._kv.n_free,
            kv_blocks_cached=self._kv.n_cached,
            buffers=self.scratch.figures(),
        )

    def _order(self, order: Callable[[], None]) -> None:
        with self._changed:
            self._orders.append(order)
            self._changed.notify_all()

    # The step

    def step(self) -> bool:
        """One forward pass over everybody who can take part; whether there is more to do.

        For callers that did not `start`; the engine's thread calls it otherwise.
        """
        if self._thread is not None and self._thread is not threading.current_thread():
            raise RuntimeError("the engine's own thread runs the steps")
        try:
            batch = self._schedule()
            if batch:
                logits = self._forward(batch)
                self._sample(batch, logits)
        except Exception as error:
            self._fail_step(error)
        self._emit()
        return self._has_work()

    def _schedule(self) -> list[Sequence]:
        began = time.perf_counter()
        while self._orders:
            self._orders.popleft()()
        now = self._step_began_at = time.monotonic()
        self._end_overdue(now)
        n_preemptions = self._scheduler.n_preemptions
        batch = self._scheduler.schedule(now)
        if self._scheduler.n_preemptions > n_preemptions or len(batch) < len(self._scheduler.running):
            note_left_out(self._scheduler, batch, now)
        self._report_waiting(now)
        self._meter.schedule_seconds += time.perf_counter() - began
        return batch

    def _forward(self, batch: list[Sequence]) -> NDArray[Any]:
        if self._cpu_mark is None:
            self._cpu_mark = time.process_time()
        began = time.perf_counter()
        logits = self._transformer.step()
        seconds = time.perf_counter() - began
        self._scheduler.computed(batch)
        self._count(batch, seconds)
        return logits

    def _sample(self, batch: list[Sequence], logits: NDArray[Any]) -> None:
        began = time.perf_counter()
        now = time.monotonic()
        for sequence in batch:
            if sequence.logit_row is None:
                self._outbox.progress(sequence)
                continue
            try:
                self._sample_one(sequence, logits[sequence.logit_row], now)
            except Exception as error:
                log_bug("a sequence could not be sampled", error)
                self._outbox.fail(sequence, error)
        self._meter.sample_seconds += time.perf_counter() - began

    def _sample_one(self, sequence: Sequence, logits: NDArray[Any], now: float) -> None:
        sampling = sequence.sampling
        token_id = self._sampler.sample(logits, sampling, sequence.seen, sequence.n_generated)
        sequence.meter.sampled(now)
        if token_id in self._eog_ids and not sampling.ignore_eos:
            self._outbox.finish(sequence, "stop")
            return
        logprob, top = None, None
        if sampling.logprobs is not None:
            logprob, top = self._logprobs(logits, token_id, sampling.logprobs)
        text, stopped = sequence.append(token_id)
        self._outbox.token(sequence, token_id, text, logprob, top)
        if stopped or sequence.is_at_limit:
            self._outbox.finish(sequence, "stop" if stopped else "length")
        elif sequence.key == self._scheduler.isolated and not sequence.is_on_probation:
            self._outbox.passed(sequence)

    def _logprobs(self, logits: NDArray[Any], token_id: int, n: int) -> tuple[float, tuple[TokenLogprob, ...]]:
        """The n best, and behind them the chosen token if it is not one of them: its own text is told nowhere else."""
        found = self._sampler.logprobs(logits, token_id, n)
        told = list(found.top)
        if all(i != token_id for i, _ in told):
            told.append((token_id, found.chosen))
        text = self._tokenizer.token_text
        return found.chosen, tuple(TokenLogprob(token_id=i, text=text(i), logprob=value) for i, value in told)

    def _emit(self) -> None:
        if self._outbox.is_empty:
            return
        began = time.perf_counter()
        over = self._outbox.deliver()
        if over:
            with self._changed:
                for sequence in over:
                    del self._live[sequence.key]
                self._changed.notify_all()
        seconds = time.perf_counter() - began
        self._meter.emit_seconds += seconds
        if seconds > HELD_UP_SECONDS:
            note_held_up(self._scheduler, seconds)

    def _count(self, batch: list[Sequence], seconds: float) -> None:
        """Wall time is the step's, CPU time that of the process since the last step, shared evenly by tokens."""
        n_tokens = self._transformer.batch.n_tokens
        cpu = time.process_time()
        cpu_per_token = (cpu - (self._cpu_mark or cpu)) / n_tokens
        self._cpu_mark = cpu
        meter = self._meter
        for sequence in batch:
            n = sequence.n_scheduled
            decoding = n == 1 and sequence.meter.first_token_at is not None
            if not decoding:
                meter.n_prefill_tokens += n
            sequence.meter.computed(n, len(batch), n * cpu_per_token, len(sequence.blocks))
            sequence.meter.timeline.computed(n, len(batch), decoding, self._step_began_at)
        meter.n_steps += 1
        meter.sum_batch += len(batch)
        meter.forward_seconds += seconds
        self._scheduler.pace.measured(n_tokens, seconds)

    def _fail_step(self, error: Exception) -> None:
        """Our bug: everybody in the batch has undefined keys and values now. Others go on."""
        log_bug("a step failed", error)
        # If not even a batch came together, whoever waits is to blame, or would wait for ever.
        scheduler = self._scheduler
        alone = scheduler.isolated is not None
        for sequence in tuple(scheduler.candidates() if alone else scheduler.running or scheduler.waiting):
            self._outbox.fail(sequence, error)

    def _end_overdue(self, now: float) -> None:
        drained = self._drain_at is not None and now >= self._drain_at
        for sequence in (*self._scheduler.running, *self._scheduler.waiting):
            if sequence.deadline_at is not None and now >= sequence.deadline_at:
                seconds = sequence.request.deadline_seconds
                self._outbox.fail(
                    sequence,
                    DeadlineExceeded(f"the deadline, {seconds:.3f} s from here, has passed"),
                    JobState.EXPIRED,
                )
            elif drained or (self._drain_at is not None and sequence.status is SequenceStatus.WAITING):
                self._outbox.release(sequence)

    def _report_waiting(self, now: float) -> None:
        """A sign of life, which renews the lease of a job that waits for others to give way."""
        if self._is_held:
            return  # no step runs: whoever holds it up has to answer for that in time
        for sequence in self._scheduler.waiting:
            if now - sequence.ticked_at >= self.settings.waiting_tick_seconds:
                sequence.ticked_at = now
                self._outbox.progress(sequence)

    # Orders, carried out between steps

    def _add(self, sequence: Sequence) -> None:
        if sequence.status is SequenceStatus.ENDED:  # cancelled in the meantime
            return
        if self._drain_at is not None:
            self._outbox.release(sequence)
        elif sequence.detokenizer.stopped or sequence.is_at_limit:
            # Resumed behind its last token: only the ending had not been written.
            self._outbox.finish(sequence, "stop" if sequence.detokenizer.stopped else "length")
        else:
            self._scheduler.add(sequence)

    def _cancel(self, job_id: str, fence: int | None) -> None:
        with self._changed:
            found = [s for key, s in self._live.items() if key[0] == job_id and fence in (None, key[1])]
        for sequence in found:
            self._outbox.fail(sequence, JobCancelled("the job was cancelled"), JobState.CANCELLED)

    def _drop(self, job_id: str, fence: int) -> None:
        sequence = self._live.get((job_id, fence))
        if sequence is not None:
            self._outbox.drop(sequence)

    def _isolate(self, key: SequenceKey, isolated: threading.Event) -> None:
        self._scheduler.isolated = key
        isolated.set()

    def _rejoin(self, key: SequenceKey) -> None:
        if self._scheduler.isolated == key:
            self._scheduler.isolated = None

    def _start_drain(self, until: float) -> None:
        self._drain_at = until if self._drain_at is None else min(until, self._drain_at)

    # The thread

    def _has_work(self) -> bool:
        scheduler = self._scheduler
        return bool(scheduler.running or scheduler.waiting or self._orders or not self._outbox.is_empty)

    @property
    def _is_held(self) -> bool:
        """The isolated sequence is still to come, or has passed, or ended: nobody may be computed until `rejoin`."""
        return self._scheduler.isolated is not None and not self._scheduler.candidates()

    def _run(self, on_death: Callable[[], None]) -> None:
        try:
            while self._wait_for_work():
                self.step()
        except BaseException as error:
            log_bug("the engine's thread ends", error)
            with self._changed:
                self._stopped = True
            on_death()
        try:
            self._close()
        except Exception as error:  # not to threading's hook, which would print the message
            log_bug("the engine's sequences could not be released", error)

    def _wait_for_work(self) -> bool:
        """Whether there is to be another step."""
        if self._has_work():
            if self._is_held:
                with self._changed:
                    self._changed.wait_for(lambda: self._stopped or self._orders, HELD_SECONDS)
            return not self._stopped
        self._cpu_mark = None
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._has_work())
            return not self._stopped

    def _close(self) -> None:
        with self._changed:
            self._orders.clear()
            left = list(self._live.values())
        for sequence in left:
            self._outbox.release(sequence)
        while not self._outbox.is_empty:
            self._emit()
