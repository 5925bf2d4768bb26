"""What the API reads: a job's state, its result, and its events from any point on. Async; writes nothing.

Reading a stream without gap or repetition: subscribe, wait for the confirmation, read the stream behind the last event
seen, then pass on live messages with a higher seq. Messages may be lost (a connection that broke, a reader that was too
slow, see channels.py), so a jump in seq and a quiet while both lead back to the stream.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any, cast

import redis.asyncio

from woolly_worker.contract.benchmarks import BenchmarkAnswer
from woolly_worker.contract.errors import InternalError, JobNotFound
from woolly_worker.contract.events import (
    StateEvent,
    TerminalEvent,
    TokenEvent,
)
from woolly_worker.contract.jobs import JobResult, JobView
from woolly_worker.contract.losses import WorkerEnding
from woolly_worker.contract.states import TERMINAL_STATES, JobState
from woolly_worker.contract.timeline import Timeline
from woolly_worker.ledger import keys, versions, views
from woolly_worker.ledger.backlog import Backlog
from woolly_worker.ledger.channels import Channels, JobEvent
from woolly_worker.ledger.connection import script_text, translated_errors
from woolly_worker.ledger.deaths import endings_of
from woolly_worker.ledger.foreign import foreign
from woolly_worker.ledger.models import ModelCard, WorkerBeat, beats_of, cards_of
from woolly_worker.ledger.records import LaneCounts
from woolly_worker.ledger.timelines import TIMELINE_FIELDS, timeline_of

# After so long without a message, look into the stream: whatever pub/sub lost is found then.
QUIET_SECONDS = 2.0
REPLAY_BATCH = 100  # also what a reader that has stopped keeps in memory


class LedgerReader:
    def __init__(self, client: redis.asyncio.Redis, *, quiet_seconds: float = QUIET_SECONDS) -> None:
        self.client = client
        self._quiet_seconds = quiet_seconds
        self._newest: Any = client.register_script(script_text("newest"))
        self._place: Any = client.register_script(script_text("place"))
        self._channels = Channels(client)

    async def ping(self) -> None:
        """Raises LedgerUnavailable when Redis does not answer."""
        with translated_errors():
            await cast(Any, self.client.ping())

    async def check_version(self) -> None:
        """Raises LedgerVersionMismatch when the ledger is of another version than this program."""
        await versions.check_now_async(self.client)

    async def view(self, job_id: str) -> JobView:
        with translated_errors():
            fields = await cast(Any, self.client.hmget(keys.job(job_id), views.VIEW_FIELDS))
        return views.view_of(job_id, fields, await self._endings(views.lost_workers(fields)))

    async def timeline(self, job_id: str) -> Timeline:
        """Where the job's time went until it ended, or until now."""
        with translated_errors():
            pipe = self.client.pipeline(transaction=False)
            pipe.time()
            pipe.hmget(keys.job(job_id), TIMELINE_FIELDS)
            (seconds, micros), fields = await pipe.execute()
        return timeline_of(job_id, fields, int(seconds) * 1000 + int(micros) // 1000)

    async def has_key(self, tenant: str, key: str) -> bool:
        """Whether a job was submitted under this idempotency key, whose record is still kept."""
        with translated_errors():
            return bool(await cast(Any, self.client.exists(keys.once(tenant, key))))

    async def result(self, job_id: str) -> JobResult | None:
        """None while the job has not ended."""
        with translated_errors():
            state, result = await cast(Any, self.client.hmget(keys.job(job_id), ["state", "result"]))
        if state is None:
            raise JobNotFound(f"no job '{job_id}'")
        try:
            return None if result is None else JobResult.model_validate_json(result)
        except ValueError:
            raise InternalError(f"the result of job '{job_id}' is damaged") from None

    async def jobs(self, *, limit: int = 100) -> list[JobView]:
        """The newest first, open ones and those whose record is still kept. The server sorts the open ones, so that a
        long backlog is not read to show its end. A damaged record is told and left out."""
        with translated_errors():
            open_ids = await self._newest(keys=[keys.OPEN_JOBS], args=[keys.job(""), limit])
            finished_ids = await cast(Any, self.client.zrange(keys.FINISHED_JOBS, 0, limit - 1, desc=True))
            ids = list(dict.fromkeys([*open_ids, *finished_ids]))
            pipe = self.client.pipeline(transaction=False)
            for job_id in ids:
                pipe.hmget(keys.job(job_id), views.VIEW_FIELDS)
            rows = await pipe.execute(raise_on_error=False) if ids else []
        readable = [fields for fields in rows if not isinstance(fields, Exception)]
        endings = await self._endings([worker_id for fields in readable for worker_id in views.lost_workers(fields)])
        found: list[JobView] = []
        for job_id, fields in zip(ids, rows, strict=True):
            try:
                if isinstance(fields, Exception):
                    raise InternalError("it is no hash")
                found.append(views.view_of(job_id, fields, endings))
            except JobNotFound:
                continue  # it expired a moment ago
            except InternalError as error:
                foreign.tell("job", job_id, error.message)
        return sorted(found, key=lambda view: view.created_at, reverse=True)[:limit]

    async def models(self) -> list[ModelCard]:
        """Every model that a worker ever announced."""
        with translated_errors():
            cards = await cast(Any, self.client.hgetall(keys.MODELS))
        return cards_of(cards)

    async def workers(self) -> list[WorkerBeat]:
        """Those that are alive."""
        with translated_errors():
            ids: Any = await self.client.zrange(keys.WORKERS, 0, -1)
            beats = await cast(Any, self.client.mget([keys.worker(i) for i in ids])) if ids else []
        return beats_of(ids, beats)

    async def benchmark_answer(self, call_id: str) -> BenchmarkAnswer | None:
        """None as long as no worker has answered."""
        with translated_errors():
            text = await cast(Any, self.client.get(keys.benchmark(call_id)))
        return BenchmarkAnswer.model_validate_json(text) if text else None

    async def lane_counts(self, model: str) -> LaneCounts:
        with translated_errors():
            fields = await cast(Any, self.client.hgetall(keys.lanes(model)))
        return views.lane_counts_of(fields)

    async def backlog(self, model: str) -> Backlog:
        with translated_errors():
            fields = await cast(Any, self.client.hgetall(keys.lanes(model)))
        return Backlog.of(fields)

    async def queues(self, views: Sequence[JobView]) -> tuple[dict[str, Backlog], list[int | None]]:
        """The backlogs of the models of these jobs, and how many jobs are to be claimed before each of them, if nothing
        else comes in; None for one that does not wait (any more). One round trip."""
        if not views:
            return {}, []
        models = sorted({view.model for view in views})
        with translated_errors():
            pipe = self.client.pipeline(transaction=False)
            for model in models:
                pipe.hgetall(keys.lanes(model))
            for view in views:
                await self._place(keys=[keys.job(view.id), keys.lanes(view.model)], args=[view.id], client=pipe)
            rows = await pipe.execute()
        backlogs = {model: Backlog.of(fields) for model, fields in zip(models, rows, strict=False)}
        return backlogs, rows[len(models) :]

    async def wait_terminal(self, job_id: str, timeout_seconds: float) -> JobView:
        """The job as it is once it has ended, or after `timeout_seconds`, whichever comes first."""
        view = await self.view(job_id)
        if view.state in TERMINAL_STATES or timeout_seconds <= 0:
            return view
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                async for event in self.events(job_id, after_seq=view.last_seq):
                    if isinstance(event, TerminalEvent):
                        break
        return await self.view(job_id)

    async def events(self, job_id: str, after_seq: int = 0) -> AsyncIterator[JobEvent]:
        """Every token and the terminal event with a seq above `after_seq`, each once and in order, and between them
        what happens to the job. Starts with the state it is in; ends behind the terminal event."""
        batches = self.event_batches(job_id, after_seq)
        async with contextlib.aclosing(batches):
            async for batch in batches:
                for event in batch:
                    yield event

    async def event_batches(self, job_id: str, after_seq: int = 0) -> AsyncGenerator[list[JobEvent]]:
        """The same; what has come in while the reader was busy comes together. None is empty."""
        with translated_errors():
            async with self._channels.listening(job_id) as listener:
                state, attempts, end_seq = await self._position(job_id)
                if end_seq is not None and end_seq <= after_seq:
                    return
                if state not in TERMINAL_STATES:
                    yield [StateEvent(state=state, attempt=attempts)]
                last = after_seq
                behind = True  # whether the stream may hold events above `last` that were not yielded
                while True:
                    if behind:
                        async for stored in self._stored(job_id, last):
                            last = stored[-1].seq
                            yield [*stored]
                            if isinstance(stored[-1], TerminalEvent):
                                return
                        behind = False
                    news = await listener.news(self._quiet_seconds)
                    if not news:
                        _, _, end_seq = await self._position(job_id)  # raises JobNotFound once the record is gone
                        if end_seq is not None and end_seq <= last:
                            return
                        behind = True
                        continue
                    batch: list[JobEvent] = []
                    for event in news:
                        if isinstance(event, StateEvent):
                            batch.append(event)
                        elif event.seq == last + 1:
                            last = event.seq
                            batch.append(event)
                        elif event.seq > last + 1:
                            behind = True
                        elif isinstance(event, TerminalEvent):
                            return  # the reader asked from beyond it
                    if batch:
                        yield batch
                        if isinstance(batch[-1], TerminalEvent):
                            return

    async def _endings(self, worker_ids: Sequence[str]) -> dict[str, WorkerEnding]:
        """What is known about the ends of these workers. Most jobs have lost none, and nothing is asked."""
        if not worker_ids:
            return {}
        with translated_errors():
            texts = await cast(Any, self.client.mget([keys.death(worker_id) for worker_id in worker_ids]))
        return endings_of(worker_ids, texts)

    async def _stored(self, job_id: str, after_seq: int) -> AsyncIterator[list[TokenEvent | TerminalEvent]]:
        while True:
            entries: Any = await self.client.xrange(keys.events(job_id), f"{after_seq + 1}-0", "+", count=REPLAY_BATCH)
            batch: list[TokenEvent | TerminalEvent] = []
            for entry_id, fields in entries:
                after_seq = int(entry_id.split("-")[0])
                event = views.event_of(entry_id, fields)
                if event is None:
                    foreign.tell("stream entry", job_id, "it is no event of the ledger")
                    continue
                batch.append(event)
            is_last = len(entries) < REPLAY_BATCH
            del entries  # a reader that stops here keeps what it reads next, and not its text as well
            if batch:
                yield batch
            if is_last:
                return

    async def _position(self, job_id: str) -> tuple[JobState, int, int | None]:
        state, attempts, end_seq = await cast(
            Any, self.client.hmget(keys.job(job_id), ["state", "attempts", "end_seq"])
        )
        if state is None:
            raise JobNotFound(f"no job '{job_id}'")
        try:
            return JobState(state), int(attempts or 0), None if end_seq is None else int(end_seq)
        except ValueError:
            raise InternalError(f"the record of job '{job_id}' is damaged") from None
