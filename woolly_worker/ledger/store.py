"""What the transitions of the ledger are made of: a call of a script, some fields of a record, the tokens of a stream.

No call decides anything. All raise LedgerUnavailable when Redis does not answer.
"""

from collections.abc import Sequence
from typing import Any, cast

import redis

from woolly_worker.contract.errors import InternalError
from woolly_worker.contract.events import TokenEvent
from woolly_worker.contract.jobs import JobMetrics
from woolly_worker.ledger import keys, timings, views
from woolly_worker.ledger.connection import load_scripts, translated_errors


class Store:
    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        self.scripts = load_scripts(client)

    def call(self, script: str, names: Sequence[str], args: Sequence[str | int]) -> Any:
        with translated_errors():
            return self.scripts[script](keys=names, args=args)

    def fields(self, job_id: str, names: Sequence[str]) -> list[str | None]:
        with translated_errors():
            return cast(list[str | None], self.client.hmget(keys.job(job_id), list(names)))

    def exists(self, job_id: str) -> bool:
        with translated_errors():
            return bool(self.client.exists(keys.job(job_id)))

    def now_ms(self) -> int:
        with translated_errors():
            seconds, micros = self.client.time()
        return int(seconds) * 1000 + int(micros) // 1000

    def models(self) -> list[str]:
        """Every model that a worker ever announced; none while somebody else's key stands there."""
        with translated_errors():
            return cast(list[str], self.client.hkeys(keys.MODELS)) if self.client.type(keys.MODELS) == "hash" else []

    def tokens(self, job_id: str, last_seq: int) -> list[TokenEvent]:
        """The job's tokens so far. The caller knows that nobody writes now."""
        found = self.stored_tokens(job_id, last_seq)
        if len(found) != last_seq:
            raise InternalError(f"the record says {last_seq} tokens, the stream holds {len(found)}")
        return found

    def stored_tokens(self, job_id: str, last_seq: int) -> list[TokenEvent]:
        """What the stream holds of them. Whoever does not know that nobody writes now checks it by the fence."""
        if last_seq == 0:
            return []
        with translated_errors():
            entries: Any = self.client.xrange(keys.events(job_id), "1-0", f"{last_seq}-0")
        events = [views.event_of(entry_id, fields) for entry_id, fields in entries]
        return [event for event in events if isinstance(event, TokenEvent)]

    def merged_metrics(self, job_id: str, metrics: JobMetrics) -> JobMetrics:
        """`metrics`, and what only the record knows."""
        with translated_errors():
            pipe = self.client.pipeline(transaction=False)
            pipe.time()
            pipe.hmget(keys.job(job_id), list(timings.TIMING_FIELDS))
            (seconds, micros), fields = pipe.execute()
        return timings.merged(metrics, fields, seconds * 1000 + micros // 1000)
