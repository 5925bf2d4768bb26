"""Records that no script can work with: how their jobs end all the same.

Nothing is repaired: a job whose record was changed by others might say anything. Records are checked at every claim and
at every look of a reaper (checks.py says for what), the rest of a job's life only when a call has failed.
"""

import uuid
from collections.abc import Callable
from typing import TypeVar

from woolly_worker.contract.errors import InternalError
from woolly_worker.contract.events import TokenEvent
from woolly_worker.contract.jobs import JobResult
from woolly_worker.contract.states import TERMINAL_STATES, JobState
from woolly_worker.ledger import keys, views
from woolly_worker.ledger.checks import FIELDS, LATER_NUMBERS, NUMBERS, is_number, is_priority, json_problem, problem_of
from woolly_worker.ledger.connection import translated_errors
from woolly_worker.ledger.endings import failure
from woolly_worker.ledger.foreign import foreign
from woolly_worker.ledger.store import Store

T = TypeVar("T")

# What a call ends with when its record is damaged: a script stops, or Python cannot read what it says.
_SIGNS = (InternalError, ValueError, TypeError)

MOST_TOKENS = 10_000_000  # of one job, to be read back

# What a reader needs to show the job, where the record cannot say it.
_STAND_INS = {"model": "unknown", "tenant": "unknown", "metadata": "{}", "priority": "0", "cancel": "0"}


class Damage:
    """Looks at a job whose call failed, and ends it if its record or its stream is the reason."""

    def __init__(self, store: Store, retention_ms: int, on_closed: Callable[[str, JobState, JobResult], None]) -> None:
        """`on_closed`: see Ledger."""
        self._store = store
        self._retention_ms = retention_ms
        self._on_closed = on_closed

    def checked(self, job_id: str) -> dict[str, str] | None:
        """The fields FIELDS of a record; None if there is none. Raises InternalError for what is wrong with it, unless
        the job has ended."""
        fields = self._store.fields(job_id, FIELDS)
        record = dict(zip(FIELDS, fields, strict=True))
        if record["state"] not in TERMINAL_STATES:
            if not any(fields) and not self._store.exists(job_id):
                return None
            problem = problem_of(job_id, record)
            if problem is not None:
                raise InternalError(f"the record is damaged: {problem}")
        return {name: value for name, value in record.items() if value is not None}

    def or_end(self, job_id: str, call: Callable[[], T], otherwise: T) -> T:
        """What `call` answers; or `otherwise`, when it failed because the job is damaged, which has ended then."""
        try:
            return call()
        except _SIGNS:
            if self.end(job_id) is None:
                raise
            return otherwise

    def end(self, job_id: str) -> str | None:
        """What is wrong with the job, which has ended as failed if it still could; None if it is not damaged. Raises
        LedgerUnavailable."""
        kind, record, stream_kind, entries = self._snapshot(job_id)
        if kind == "none" or record["state"] in TERMINAL_STATES:
            return None
        seq = record["seq"]
        last = int(seq) if seq is not None and is_number(seq) else 0
        tokens = _readable_tokens(entries[:last])
        if kind != "hash":
            problem: str | None = f"it is a {kind}"
        else:
            problem = problem_of(job_id, record) or _stream_problem(stream_kind, last, len(tokens), len(entries))
        if problem is not None:
            foreign.tell("job", job_id, problem)
            self._fail(job_id, record, tokens, problem)
        return problem

    def _snapshot(self, job_id: str) -> tuple[str, dict[str, str | None], str, list[tuple[str, dict[str, str]]]]:
        """Types and contents of record and stream, of one moment: a good job that is being written to must not look
        as if the two disagreed."""
        with translated_errors():
            pipe = self._store.client.pipeline(transaction=True)
            pipe.type(keys.job(job_id))
            pipe.hmget(keys.job(job_id), FIELDS)
            pipe.hexists(keys.job(job_id), "request")
            pipe.type(keys.events(job_id))
            pipe.xrange(keys.events(job_id), count=MOST_TOKENS)
            kind, fields, has_request, stream_kind, entries = pipe.execute(raise_on_error=False)
        if kind != "hash":
            fields = [None] * len(FIELDS)
        record = {**dict(zip(FIELDS, fields, strict=True)), "request": "" if has_request is True else None}
        return kind, record, stream_kind, entries if stream_kind == "stream" else []

    def _fail(self, job_id: str, record: dict[str, str | None], tokens: list[TokenEvent], problem: str) -> None:
        n_prompt = record["prompt_tokens"]
        event, result = failure(
            tokens,
            InternalError(f"the record of this job is damaged: {problem}"),
            n_prompt=int(n_prompt) if n_prompt is not None and is_number(n_prompt) else 0,
        )
        names = [
            keys.job(job_id),
            keys.events(job_id),
            keys.OPEN_JOBS,
            keys.FINISHED_JOBS,
            keys.lanes(record["model"] or "unknown"),
            *map(keys.lanes, self._store.models()),
        ]
        args: list[str | int] = [
            job_id,
            record["fence"] or "",
            record["seq"] or "",
            len(tokens),
            event.model_dump_json(exclude_none=True),
            result.model_dump_json(exclude_none=True),
            self._retention_ms,
            keys.ASIDE,
            uuid.uuid4().hex,
        ]
        for name, value in _mended(job_id, record).items():
            args += (name, value)
        if self._store.call("condemn", names, args) == "ok":
            self._on_closed(job_id, event.state, result)


def _readable_tokens(entries: list[tuple[str, dict[str, str]]]) -> list[TokenEvent]:
    """Those up to the first entry that is missing or unreadable."""
    tokens: list[TokenEvent] = []
    for entry_id, fields in entries:
        event = views.event_of(entry_id, fields)
        if not isinstance(event, TokenEvent) or event.seq != len(tokens) + 1:
            break
        tokens.append(event)
    return tokens


def _stream_problem(kind: str, last_seq: int, n_readable: int, n_entries: int) -> str | None:
    if kind not in ("none", "stream"):
        return f"its stream is a {kind}"
    if n_readable < last_seq:
        return f"the record says {last_seq} tokens, {n_readable} of them can be read"
    if n_entries > last_seq:
        return f"the record says {last_seq} tokens, the stream holds {n_entries} entries"
    return None


def _mended(job_id: str, record: dict[str, str | None]) -> dict[str, str]:
    """For each field that a reader could not show: something that it can."""
    mended = {name: stand_in for name, stand_in in _STAND_INS.items() if not record[name]}
    for name in (*NUMBERS, *LATER_NUMBERS):
        value = record[name]
        if name in NUMBERS if value is None else not is_number(value):
            mended[name] = "0"
    if record["id"] != job_id:
        mended["id"] = job_id
    if not is_priority(record["priority"]):
        mended["priority"] = "0"
    if json_problem({**record, "history": None}) is not None:
        mended["metadata"] = "{}"
    if json_problem({**record, "metadata": None}) is not None:
        mended["history"] = "[]"
    return mended
