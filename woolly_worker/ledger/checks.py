"""What a record has to say for the scripts to work with it. Nothing is read or changed here."""

import re
from collections.abc import Mapping

from woolly_worker.contract.states import JobState
from woolly_worker.ledger import keys, views

_NUMBER = re.compile(r"\d{1,15}")  # what Lua counts with exactly, and far more than any count or time here
_PRIORITIES = frozenset(map(str, range(10)))
_JOB_ID = re.compile(keys.JOB_ID_PATTERN)
_ONCE = re.compile(re.escape(keys.PREFIX) + r"once:[0-9a-f]{64}")

# Numbers and texts that are there from the submit on, and what comes later or not at all.
NUMBERS = ("attempts", "crashes", "fence", "lease_ms", "seq", "created_ms", "queued_ms", "deadline_ms", "bells")
TEXTS = ("id", "model", "lane", "priority", "tenant", "metadata", "state", "owner", "claim", "cancel")
LATER_NUMBERS = (
    "claimed_ms",
    "started_ms",
    "first_token_ms",
    "lease_for_ms",
    "grace_ms",
    "alone_ms",
    "prompt_tokens",
    "cost",
    "version",
)
_FLAGS = ("cancel", "alone", "abandoned")
# The request is none of them: it may be large, and who claims the job reads it anyway. Nor is the timeline, which only
# readers read. A recipe may be any text.
FIELDS = [*NUMBERS, *TEXTS, *LATER_NUMBERS, "alone", "abandoned", "once", "history"]


def is_job_id(text: str) -> bool:
    return len(text) <= keys.MAX_JOB_ID_CHARACTERS and _JOB_ID.fullmatch(text) is not None


def is_number(text: str) -> bool:
    """As the scripts write one."""
    return _NUMBER.fullmatch(text) is not None


def is_priority(text: str | None) -> bool:
    return text in _PRIORITIES


def problem_of(job_id: str, record: Mapping[str, str | None]) -> str | None:
    """The first thing wrong with the fields FIELDS of a record, and with "request" if that is given; never what they
    say."""
    for name in (*NUMBERS, *TEXTS, *(("request",) if "request" in record else ())):
        if record[name] is None:
            return f"the field '{name}' is missing"
    for name in (*NUMBERS, *LATER_NUMBERS):
        value = record[name]
        if value is not None and not is_number(value):
            return f"the field '{name}' is no number"
    for name in _FLAGS:
        if record[name] not in (None, "0", "1"):
            return f"the field '{name}' is not 0 or 1"
    if record["id"] != job_id:
        return "the field 'id' is that of another job"
    if record["state"] not in set(JobState):
        return "the field 'state' is none of the states"
    if not is_priority(record["priority"]):
        return "the field 'priority' is not 0 to 9"
    if record["lane"] != keys.lane(int(record["priority"] or 0), record["tenant"] or ""):
        return "the field 'lane' is not that of its priority and tenant"
    if record["once"] is not None and not _ONCE.fullmatch(record["once"]):
        return "the field 'once' is no idempotency key"
    return json_problem(record)


def json_problem(record: Mapping[str, str | None]) -> str | None:
    try:
        views.load_metadata(record["metadata"])
    except ValueError:
        return "the field 'metadata' is no JSON object of texts"
    try:
        views.load_history(record["history"])
    except ValueError:
        return "the field 'history' is no JSON list of lost leases"
    return None
