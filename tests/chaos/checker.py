"""The judge: everything that clients saw and that the ledger holds, against the promises and the answers of a calm run.

It looks at finished histories only and knows nothing about which faults there were.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from chaos.catalogue import Answer, Item
from chaos.clients import TERMINAL, Seen, Story
from chaos.facts import STATES, Facts, Record

from woolly_worker.contract.events import TokenEvent
from woolly_worker.contract.jobs import JobResult

# What may differ between two runs of the same request.
_OF_THE_RUN = ("metrics",)


@dataclass(frozen=True)
class Violation:
    promise: str  # R1 ... R17
    job: str
    what: str

    def __str__(self) -> str:
        return f"{self.promise}: job {self.job}: {self.what}"


def check(stories: Iterable[Story], facts: Facts, catalogue: dict[str, tuple[Item, Answer]]) -> list[Violation]:
    """Everything that is wrong; empty if all is well."""
    found: list[Violation] = []
    owned: defaultdict[str | None, list[Record]] = defaultdict(list)
    for record in facts.records.values():
        owned[record.client].append(record)
    for story in stories:
        found += _check_story(story, owned[story.key], catalogue[story.plan.name][1])
    found += _check_books(facts)
    return found


def _check_story(story: Story, records: list[Record], answer: Answer) -> Iterator[Violation]:
    name = f"{story.key} ({story.plan.role} '{story.plan.name}')"

    def wrong(promise: str, what: str) -> Violation:
        return Violation(promise, name, what)

    if story.gave_up is not None:
        yield wrong("R1", f"the client gave up: {story.gave_up}")
    if len({job_id for _, job_id in story.creates}) > 1:
        yield wrong("R12", f"one key, several jobs: {story.creates}")
    accepted = [record for record in records if record.job_id == story.job_id]
    if story.job_id is not None and not accepted:
        yield wrong("R1", "accepted, and there is no record of it")
    if len(records) > 1:
        yield wrong("R12", f"one key, {len(records)} records")
    for record in accepted:
        for promise, what in (*_check_record(record, story, answer), *_check_reader(story, record, answer)):
            yield wrong(promise, what)


def _check_record(record: Record, story: Story, answer: Answer) -> Iterator[tuple[str, str]]:
    state, result = record.fields.get("state", "none"), record.result
    if state not in TERMINAL or result is None:
        yield "R1", f"it has not ended: {state}, attempts {record.fields.get('attempts')}"
        return
    yield from _check_stream([(entry_id, event) for entry_id, event in record.entries], state, answer)
    for loss in json.loads(record.fields.get("history", "[]")):
        if loss["noticed_ms"] < loss["lease_ended_ms"]:
            early = loss["lease_ended_ms"] - loss["noticed_ms"]
            yield "R4", f"attempt {loss['attempt']} lost it {early} ms before its lease had run out"
    wanted = {"succeeded", "cancelled"} if story.plan.role == "cancel" else {"succeeded"}
    if state not in wanted:
        yield "R1", f"it ended as {state}: {result.get('error')}"
    if story.plan.role == "cancel" and story.cancels and state == "succeeded" and "cancelled" in story.cancels:
        yield "R7", "a cancel was answered with 'cancelled', and it succeeded"
    stored = JobResult.model_validate(result)
    if state == "succeeded" and (difference := answer.differs_from(stored)) is not None:
        yield "R5", f"the stored {difference} is not that of a calm run"
    told = "".join(event.get("text", "") for _, event in record.entries)
    if told != stored.text:
        yield "R5", f"the stream says {len(told)} characters, the stored result {len(stored.text)}, or others"
    if stored.usage.completion_tokens != len(stored.token_ids):
        yield "R5", f"usage says {stored.usage.completion_tokens} tokens, the result holds {len(stored.token_ids)}"


def _check_stream(entries: list[tuple[str, dict[str, Any]]], state: str, answer: Answer) -> Iterator[tuple[str, str]]:
    ids = [entry_id for entry_id, _ in entries]
    if ids != [f"{seq}-0" for seq in range(1, len(ids) + 1)]:
        yield "R5", f"the stream's ids have a gap or a repetition: {ids[:60]}"
    endings = [event["type"] for _, event in entries if event["type"] != "token"]
    if len(endings) != 1 or (entries and entries[-1][1]["type"] == "token"):
        yield "R5", f"not exactly one terminal event, at the end: {endings}"
    tokens = [event for _, event in entries if event["type"] == "token"]
    if [event["seq"] for event in tokens] != list(range(1, len(tokens) + 1)):
        yield "R5", f"the tokens' seqs have a gap or a repetition: {[event['seq'] for event in tokens][:60]}"
    expected = [_comparable(token.model_dump(mode="json", exclude_none=True)) for token in answer.tokens]
    got = [_comparable(event) for event in tokens]
    if state == "succeeded" and len(got) != len(expected):
        yield "R5", f"{len(got)} tokens, a calm run has {len(expected)}"
    for seq, (mine, calm) in enumerate(zip(got, expected, strict=False), 1):
        if mine != calm:
            yield "R5", f"token {seq} is not that of a calm run: {_difference(mine, calm)}"
            break
    if state == "succeeded" and entries and entries[-1][1].get("text", "") != answer.rest:
        yield "R5", "the text behind the last token is not that of a calm run"


def _check_reader(story: Story, record: Record, answer: Answer) -> Iterator[tuple[str, str]]:
    if story.plan.role != "poll" and story.gave_up is None:
        ids = [seen.id for seen in story.seen]
        if ids != list(range(1, len(ids) + 1)):
            yield "R5", f"the reader saw a gap or a repetition: {ids[:60]}"
        if not story.ended:
            yield "R5", "the reader saw no terminal event"
        if (mine := [_of_wire(seen) for seen in story.seen]) != (its := [_comparable(e) for _, e in record.entries]):
            yield "R5", f"the reader saw other events ({len(mine)}) than the stream holds ({len(its)})"
    if story.final is not None:
        if story.final["state"] != record.fields.get("state"):
            yield "R5", f"the poll said {story.final['state']}, the record {record.fields.get('state')}"
        polled = (story.final.get("result") or {}).get("text", "")
        if polled != (record.result or {}).get("text", ""):
            yield "R5", "the poll's text is not the record's"


def _check_books(facts: Facts) -> Iterator[Violation]:
    """The sums that the ledger keeps, against the jobs that there are."""
    still_open = {record.job_id for record in facts.records.values() if record.fields.get("state") not in TERMINAL}
    for job_id in facts.open_ids - still_open:
        yield Violation("R11", job_id, "it has ended, and is still in the index of open jobs")
    for job_id in still_open - facts.open_ids:
        yield Violation("R1", job_id, "it is open, and nobody will ever look at it: not in the index of open jobs")
    running = Counter(record.fields.get("state") for record in facts.records.values())
    for state in ("queued", "running"):
        kept = facts.lanes.get(f"all:{state}", 0)
        if kept != running[state]:
            yield Violation("R5", "-", f"the lanes count {kept} {state} jobs, there are {running[state]}")
    for numbers in facts.metrics:
        for state in STATES:
            if numbers and numbers.get(state) != facts.lanes.get(f"all:{state}", 0):
                kept = facts.lanes.get(f"all:{state}", 0)
                yield Violation("R17", "-", f"/metrics tells {numbers.get(state)} {state} jobs, the ledger {kept}")


def _of_wire(seen: Seen) -> dict[str, Any]:
    return _comparable(seen.data)


def _comparable(event: dict[str, Any]) -> dict[str, Any]:
    if event["type"] == "token":
        event = TokenEvent.model_validate(event).model_dump(mode="json", exclude_none=True)
    return {name: value for name, value in event.items() if name not in _OF_THE_RUN}


def _difference(mine: dict[str, Any], calm: dict[str, Any]) -> str:
    """The names of what differs. Texts are not told: they are somebody's."""
    return ", ".join(sorted(name for name in {*mine, *calm} if mine.get(name) != calm.get(name)))
