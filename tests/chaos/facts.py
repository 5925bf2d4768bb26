"""What the ledger and the metrics say once a run is over and everything is calm. Read past all code under test but the
names of the keys: straight from the server's data."""

import json
import re
from dataclasses import dataclass, field
from typing import Any

import httpx
import redis
from chaos.catalogue import MODEL

from woolly_worker.ledger import keys

STATES = ("queued", "running", "succeeded", "failed", "cancelled", "expired")


@dataclass(frozen=True)
class Record:
    """A job's hash, without the request, and its stream."""

    job_id: str
    fields: dict[str, str]
    entries: tuple[tuple[str, dict[str, Any]], ...]  # stream id, event

    @property
    def client(self) -> str | None:
        return json.loads(self.fields.get("metadata", "{}")).get("client")

    @property
    def result(self) -> dict[str, Any] | None:
        return json.loads(self.fields["result"]) if "result" in self.fields else None


@dataclass(frozen=True)
class Facts:
    records: dict[str, Record]
    open_ids: frozenset[str]
    lanes: dict[str, int]  # fields of the lanes' hash that are numbers
    metrics: list[dict[str, float]] = field(default_factory=list)  # jobs by state, as each API tells


def collect(client: redis.Redis, api_urls: list[str]) -> Facts:
    records = {}
    for key in client.scan_iter(keys.job("*"), count=1000):
        if re.fullmatch(rf"{keys.PREFIX}job:[^:]+", key):
            job_id = key.rpartition(":")[2]
            raw: Any = client.hgetall(key)
            raw.pop("request", None)
            stream: Any = client.xrange(keys.events(job_id))
            entries = tuple((entry_id, json.loads(fields["e"])) for entry_id, fields in stream)
            if raw:
                records[job_id] = Record(job_id, raw, entries)
    lanes: Any = client.hgetall(keys.lanes(MODEL))
    open_ids: Any = client.zrange(keys.OPEN_JOBS, 0, -1)
    return Facts(
        records=records,
        open_ids=frozenset(open_ids),
        lanes={name: int(value) for name, value in lanes.items() if value.lstrip("-").isdigit()},
        metrics=[_jobs_by_state(url) for url in api_urls],
    )


def _jobs_by_state(api_url: str) -> dict[str, float]:
    text = httpx.get(f"{api_url}/metrics", trust_env=False, timeout=10).text
    found = re.findall(rf'^woolly_jobs{{model="{MODEL}",state="(\w+)"}} (\S+)$', text, re.MULTILINE)
    return {state: float(value) for state, value in found}
