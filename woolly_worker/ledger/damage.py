"""Records that no script can work with: what is wrong with one, and how its job ends all the same.

Nothing is repaired: a job whose record was changed by others might say anything. Records are checked at every claim and
at every look of a reaper, the rest of a job's life only when a call has failed.
"""

import re
from collections.abc import Mapping
from typing import Any

import redis

from woolly_worker.contract.errors import InternalError
from woolly_worker.contract.events import FailedEvent, TokenEvent
from woolly_worker.contract.jobs import ErrorInfo, JobResult, Usage
from woolly_worker.contract.states import TERMINAL_STATES, JobState
from woolly_worker.ledger import keys, views
from woolly_worker.ledger.connection import translated_errors
from woolly_worker.ledger.foreign import foreign

_NUMBER = re.compile(r"\d{1,15}")  # what Lua counts with exactly, and far more than any count or time here

MOST_TOKENS = 10_000_000  # of one job, to be read back

# What each field has to be, if it is there; `required` ones have to be there.
_NUMBERS = ("attempts", "crashes", "fence", "lease_ms", "seq", "created_ms", "queued_ms", "deadline_ms", "enq", "bells")
_REQUIRED = ("id", "model", "lane", "priority", "tenant", "metadata", "state", "owner", "claim", "cancel")
_OPTIONAL_NUMBERS = ("claimed_ms", "started_ms", "first_token_ms", "version")
# The request is none of them: it may be large, and who claims the job reads it anyway.
FIELDS = [*_NUMBERS, *_REQUIRED, *_OPTIONAL_NUMBERS, "history"]

# What a reader needs to show the job, where the record cannot say it.
_STAND_INS = {"model": "unknown", "tenant": "unknown", "metadata": "{}", "priority": "0", "cancel": "0"}


def problem_of(job_id: str, record: Mapping[str, str | None]) -> str | None:
    """The first thing wrong with the fields FIELDS of a record; never what they say."""
    for name in (*_NUMBERS, *_REQUIRED):
        if record[name] is None:
            return f"the field '{name}' is missing"
    for name in (*_NUMBERS, *_OPTIONAL_NUMBERS):
        value = record[name]
        if value is not None and not _NUMBER.fullmatch(value):
            return f"the field '{name}' is no number"
    if "request" in record and record["request"] is None:
        return "the field 'request' is missing"
    if record["id"] != job_id:
        return "the field 'id' is that of another job"
    if record["state"] not in set(JobState):
        return "the field 'state' is none of the states"
    for name, limit in (("lane", keys.N_LANES), ("priority", keys.N_PRIORITIES)):
        if record[name] not in {str(number) for number in range(limit)}:
            return f"the field '{name}' is not 0 to {limit - 1}"
    if record["cancel"] not in ("0", "1"):
        return "the field 'cancel' is not 0 or 1"
    return _json_problem(record)


def _json_problem(record: Mapping[str, str | None]) -> str | None:
    try:
        views.load_metadata(record["metadata"])
    except ValueError:
        return "the field 'metadata' is no JSON object of texts"
    try:
        views.load_history(record["history"])
    except ValueError:
        return "the field 'history' is no JSON list of objects"
    return None


class Damage:
    """Looks at a job whose call failed, and ends it if its record or its stream is the reason."""

    def __init__(self, client: redis.Redis, condemn: Any, retention_ms: int) -> None:
        self._client = client
        self._condemn = condemn
        self._retention_ms = retention_ms

    def end(self, job_id: str) -> str | None:
        """What is wrong with the job, which has ended as failed if it still could; None if it is not damaged. Raises
        LedgerUnavailable."""
        kind, record, stream_kind, entries = self._snapshot(job_id)
        if kind == "none" or record["state"] in TERMINAL_STATES:
            return None
        seq = record["seq"]
        last = int(seq) if seq is not None and _NUMBER.fullmatch(seq) else 0
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
            pipe = self._client.pipeline(transaction=True)
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
        n = len(tokens)
        event = FailedEvent(
            seq=n + 1,
            state=JobState.FAILED,
            error=ErrorInfo.of(InternalError(f"the record of this job is damaged: {problem}")),
            usage=Usage(completion_tokens=n, total_tokens=n),
        )
        result = JobResult(
            text="".join(token.text for token in tokens),
            token_ids=tuple(token.token_id for token in tokens),
            usage=event.usage,
            error=event.error,
        )
        names = [
            keys.job(job_id),
            keys.events(job_id),
            keys.OPEN_JOBS,
            keys.FINISHED_JOBS,
            keys.lanes(record["model"] or "unknown"),
        ]
        args: list[str | int] = [
            job_id,
            record["fence"] or "",
            record["seq"] or "",
            n,
            event.model_dump_json(exclude_none=True),
            result.model_dump_json(exclude_none=True),
            self._retention_ms,
            keys.PREFIX + "aside:",
        ]
        for name, value in _mended(job_id, record).items():
            args += (name, value)
        with translated_errors():
            self._condemn(keys=names, args=args)


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
    for name in (*_NUMBERS, *_OPTIONAL_NUMBERS):
        value = record[name]
        if name in _NUMBERS if value is None else not _NUMBER.fullmatch(value):
            mended[name] = "0"
    if record["id"] != job_id:
        mended["id"] = job_id
    if record["priority"] not in {str(number) for number in range(keys.N_PRIORITIES)}:
        mended["priority"] = "0"
    if _json_problem({**record, "history": None}) is not None:
        mended["metadata"] = "{}"
    return mended
