"""The judge can tell: a good history passes, and every way in which one can be bad is named by its promise."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from chaos.catalogue import MODEL, Answer, Item
from chaos.checker import check
from chaos.clients import Seen, Story
from chaos.facts import Facts, Record
from chaos.schedule import JobPlan

from woolly_worker.contract.events import TokenEvent

TOKENS = tuple(TokenEvent(seq=seq, token_id=100 + seq, text=f" t{seq}") for seq in (1, 2, 3))
CALM = Answer(TOKENS, rest="!", finish_reason="length", prompt_tokens=7)
CATALOGUE = {"a job": (Item("a job", {"model": MODEL, "prompt": "x"}), CALM)}
USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10, "cached_tokens": 0}


def done(seq: int = 4) -> dict[str, Any]:
    body = {"type": "done", "seq": seq, "state": "succeeded", "finish_reason": "length", "text": "!", "usage": USAGE}
    return {**body, "metrics": {"attempts": 1, "crashes": 0}}


class History:
    """One job that went well, in all its traces; a test spoils one of them."""

    def __init__(self) -> None:
        self.events = [*(token.model_dump(mode="json", exclude_none=True) for token in TOKENS), done()]
        self.entry_ids = ["1-0", "2-0", "3-0", "4-0"]
        self.state = "succeeded"
        self.result: dict[str, Any] | None = {
            "text": " t1 t2 t3!",
            "token_ids": [101, 102, 103],
            "finish_reason": "length",
            "usage": USAGE,
        }
        self.fields: dict[str, str] = {"attempts": "1", "metadata": json.dumps({"client": "run0-0"})}
        self.story = Story(JobPlan("a job", 0.0, "stream"), "run0-0", creates=[(202, "j1")], n_connections=1)
        self.open_ids: set[str] = set()
        self.lanes = {"all:queued": 0, "all:running": 0, "all:succeeded": 1}
        self.seen_events = list(self.events)
        self.extra: list[Record] = []

    def violations(self) -> list[str]:
        self.story.seen = [Seen(e["seq"], e["type"], e, 0.0, 1) for e in self.seen_events]
        self.story.final = {"state": self.state, "result": self.result}
        fields = {**self.fields, "state": self.state}
        if self.result is not None:
            fields["result"] = json.dumps(self.result)
        record = Record("j1", fields, tuple(zip(self.entry_ids, self.events, strict=True)))
        records = {r.job_id: r for r in (record, *self.extra)}
        metrics = {state: float(self.lanes.get(f"all:{state}", 0)) for state in STATES}
        facts = Facts(records, frozenset(self.open_ids), self.lanes, [metrics])
        return [violation.promise for violation in check([self.story], facts, CATALOGUE)]


STATES = ("queued", "running", "succeeded", "failed", "cancelled", "expired")


def test_a_good_history_passes() -> None:
    assert History().violations() == []


def _doubled(h: History) -> None:
    h.events.insert(1, h.events[0])
    h.entry_ids = ["1-0", "2-0", "3-0", "4-0", "5-0"]


def _gap(h: History) -> None:
    del h.events[1], h.entry_ids[1]


def _another_token(h: History) -> None:
    h.events[1] = {**h.events[1], "token_id": 999}


def _another_logprob(h: History) -> None:
    h.events[1] = {**h.events[1], "logprob": -0.5}


def _two_endings(h: History) -> None:
    h.events.append(done(5))
    h.entry_ids.append("5-0")


def _another_result(h: History) -> None:
    assert h.result is not None
    h.result = {**h.result, "text": " t1 t2 t4!"}


def _not_ended(h: History) -> None:
    h.state, h.result, h.open_ids = "running", None, {"j1"}
    h.lanes = {"all:running": 1}


def _forgotten(h: History) -> None:
    _not_ended(h)
    h.open_ids = set()


def _failed(h: History) -> None:
    h.state = "failed"


def _reader_doubled(h: History) -> None:
    h.seen_events.insert(1, h.events[0])


def _reader_gap(h: History) -> None:
    del h.seen_events[1]


def _reader_cut_off(h: History) -> None:
    del h.seen_events[-1]


def _two_records(h: History) -> None:
    h.extra.append(Record("j2", {**h.fields, "state": "cancelled", "result": "{}"}, ()))
    h.lanes["all:cancelled"] = 1


def _gave_up(h: History) -> None:
    h.story.gave_up = "POST /v1/jobs, until the patience was over"


def _books(h: History) -> None:
    h.lanes["all:running"] = 1


def _index(h: History) -> None:
    h.open_ids = {"j1"}


def _taken_too_early(h: History) -> None:
    h.fields["history"] = json.dumps([{"attempt": 1, "lease_ended_ms": 1000, "noticed_ms": 400}])


@pytest.mark.parametrize(
    ("spoil", "promise"),
    [
        (_doubled, "R5"),
        (_gap, "R5"),
        (_another_token, "R5"),
        (_another_logprob, "R5"),
        (_two_endings, "R5"),
        (_another_result, "R5"),
        (_reader_doubled, "R5"),
        (_reader_gap, "R5"),
        (_reader_cut_off, "R5"),
        (_books, "R5"),
        (_not_ended, "R1"),
        (_forgotten, "R1"),
        (_failed, "R1"),
        (_gave_up, "R1"),
        (_taken_too_early, "R4"),
        (_index, "R11"),
        (_two_records, "R12"),
    ],
)
def test_a_bad_history_is_noticed(spoil: Callable[[History], None], promise: str) -> None:
    history = History()
    spoil(history)
    assert promise in history.violations()


def test_a_cancel_that_was_confirmed_and_ignored() -> None:
    history = History()
    history.story.plan = replace(history.story.plan, role="cancel")
    history.story.cancels = ["cancelled"]
    assert history.violations() == ["R7"]


def test_a_lost_record() -> None:
    history = History()
    facts = Facts({}, frozenset(), {}, [])
    history.story.seen = [Seen(e["seq"], e["type"], e, 0.0, 1) for e in history.events]
    promises = [violation.promise for violation in check([history.story], facts, CATALOGUE)]
    assert promises == ["R1"]
