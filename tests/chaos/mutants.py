"""Woolly without one of its safeguards. The harness that finds nothing wrong with these finds nothing at all."""

from collections.abc import Callable, Mapping
from typing import Any

from woolly_worker.contract.events import TokenEvent, job_event_adapter
from woolly_worker.ledger import connection, keys, views
from woolly_worker.ledger.store import Store

_ADD = "'XADD', events, seq .. '-0', 'e', event"
_ADD_NUMBERED = "'XADD', events, '*', 'e', event"

# What to replace in which script (which begins with shared.lua).
_EDITS: dict[str, dict[str, tuple[tuple[str, str], ...]]] = {
    # A job that somebody holds may be taken by whoever else hears its bell.
    "no_claim_check": {"claim": (("if lease > now or away_since(KEYS[4], now) then return", "if false then return"),)},
    # Whoever had the job once may go on writing. Streams number themselves then, or the server would refuse.
    "no_fence": {
        "emit": (
            ("if s[1] ~= fence or s[2] ~= 'running' then", "if false then"),
            ("elseif seq > written + 1 then", "elseif false then"),
            ("elseif seq == written + 1 and", "elseif seq > 0 and"),
            ("elseif seq == written + 1 then", "elseif seq > 0 then"),
            (_ADD, _ADD_NUMBERED),
        ),
        "finish": (
            ("if s[1] ~= ARGV[2] then return 'fenced' end", ""),
            ("if s[2] ~= 'running' then return 'fenced' end", "if TERMINAL[s[2]] then return 'fenced' end"),
            ("if tonumber(ARGV[4]) ~= tonumber(s[3]) + 1 then return 'gap' end", ""),
            (_ADD, _ADD_NUMBERED),
        ),
    },
}
NAMES = tuple(_EDITS)


def mutate(name: str | None) -> None:
    """In the process that is to misbehave, before it connects."""
    if name is None:
        return
    original = connection.script_text
    connection.script_text = _edited(original, _EDITS[name])  # type: ignore[assignment]
    if name == "no_fence":
        Store.stored_tokens = _first_tokens  # type: ignore[method-assign]
        views.event_of = _whatever_its_id


def _whatever_its_id(entry_id: str, fields: Mapping[str, str]) -> Any:
    return job_event_adapter.validate_json(fields["e"])


def _first_tokens(store: Store, job_id: str, last_seq: int) -> list[TokenEvent]:
    """By their place in the stream, because their ids say nothing any more."""
    entries: Any = store.client.xrange(keys.events(job_id), count=max(1, last_seq))
    tokens = [job_event_adapter.validate_json(fields["e"]) for _, fields in entries[:last_seq]]
    return [token for token in tokens if isinstance(token, TokenEvent)]


def _edited(original: Callable[[str], str], edits: dict[str, tuple[tuple[str, str], ...]]) -> Callable[[str], str]:
    def script_text(script: str) -> str:
        text = original(script)
        for old, new in edits.get(script, ()):
            if old not in text:
                raise AssertionError(f"{script}.lua has no {old!r} any more: the mutant would be whole")
            text = text.replace(old, new)
        return text

    return script_text
