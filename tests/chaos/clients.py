"""The clients of a run: they hand in jobs, read streams, poll, cancel, leave and come back, and note what they see.

They are what any careful client is: they try again when a server is away, on another one, and with the same
`Idempotency-Key`. They judge nothing: that is for the checker.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx
from chaos.catalogue import Item
from chaos.schedule import JobPlan

PAUSE_SECONDS = 0.1
# A stream that is silent for longer than the API's heartbeat has died without a word.
QUIET_SECONDS = 3.0
TERMINAL = frozenset({"succeeded", "failed", "cancelled", "expired"})


@dataclass(frozen=True)
class Seen:
    """An event with an id, as it came over the wire."""

    id: int
    kind: str
    data: dict[str, Any]
    at: float  # monotonic seconds
    connection: int


@dataclass
class Story:
    """What one client did and saw."""

    plan: JobPlan
    key: str  # its Idempotency-Key, and its job's metadata
    creates: list[tuple[int, str]] = field(default_factory=list)  # status, job id
    refused: list[str] = field(default_factory=list)  # answers and errors that made it try again
    seen: list[Seen] = field(default_factory=list)
    n_connections: int = 0
    cancels: list[str] = field(default_factory=list)  # the state in each answer
    final: dict[str, Any] | None = None  # the last poll
    gave_up: str | None = None

    @property
    def job_id(self) -> str | None:
        return self.creates[0][1] if self.creates else None

    @property
    def ended(self) -> bool:
        return bool(self.seen) and self.seen[-1].kind in ("done", "failed")


class Client:
    def __init__(self, http: httpx.AsyncClient, urls: list[str], item: Item, story: Story, give_up_at: float) -> None:
        self._http = http
        self._urls = urls
        self._item = item
        self._story = story
        self._give_up_at = give_up_at
        self._turn = hash(story.key)

    async def run(self, began: float) -> None:
        plan = self._story.plan
        await asyncio.sleep(max(0.0, began + plan.at - time.monotonic()))
        try:
            await self._create()
            if plan.role == "poll":
                await self._poll()
            else:
                await self._follow(plan)
                await self._poll()
        except TimeoutError as error:
            self._story.gave_up = str(error)

    async def _create(self) -> None:
        plan, story = self._story.plan, self._story
        body = {**self._item.body, "priority": plan.priority, "tenant": plan.tenant, "metadata": {"client": story.key}}
        response = await self._insist("POST", "/v1/jobs", json=body, headers={"Idempotency-Key": story.key})
        story.creates.append((response.status_code, response.json()["id"]))

    async def _poll(self) -> None:
        while True:
            response = await self._insist("GET", f"/v1/jobs/{self._story.job_id}", params={"wait": "2"})
            self._story.final = response.json()
            if self._story.final["state"] in TERMINAL:
                return

    async def _follow(self, plan: JobPlan) -> None:
        """Reads to the end, over as many connections as it takes. On the way it may leave once, or cancel."""
        leave = plan.after if plan.role == "reconnect" else None
        cancel = plan.after if plan.role == "cancel" else None
        if cancel == 0:
            await self._cancel()
            cancel = None
        while not self._story.ended:
            async for seen in self._stream():
                self._story.seen.append(seen)
                if cancel is not None and seen.id >= cancel:
                    cancel = None
                    await self._cancel()
                if leave is not None and seen.id >= leave:
                    leave = None
                    break
            if not self._story.ended:
                await self._pause("the stream broke off")

    async def _cancel(self) -> None:
        response = await self._insist("POST", f"/v1/jobs/{self._story.job_id}/cancel")
        self._story.cancels.append(response.json()["state"])

    async def _stream(self) -> AsyncIterator[Seen]:
        self._story.n_connections += 1
        last = self._story.seen[-1].id if self._story.seen else 0
        url = f"{self._url()}/v1/jobs/{self._story.job_id}/events"
        headers = {"Last-Event-ID": str(last)}
        try:
            async with self._http.stream("GET", url, headers=headers, timeout=QUIET_SECONDS) as response:
                if response.status_code != 200:
                    self._story.refused.append(f"stream {response.status_code}")
                    return
                async for event in _events(response):
                    yield Seen(event["id"], event["kind"], event["data"], time.monotonic(), self._story.n_connections)
        except httpx.HTTPError as error:
            self._story.refused.append(f"stream {type(error).__name__}")

    async def _insist(self, method: str, path: str, **options: Any) -> httpx.Response:
        """The first answer that is none of "later" or "broken"."""
        while True:
            try:
                response = await self._http.request(method, self._url() + path, timeout=8.0, **options)
            except httpx.HTTPError as error:
                self._story.refused.append(f"{method} {type(error).__name__}")
            else:
                if response.status_code < 300:
                    return response
                self._story.refused.append(f"{method} {response.status_code}")
                if response.status_code not in (429, 503):
                    raise TimeoutError(f"{method} {path} answered {response.status_code}: {response.text[:500]}")
            await self._pause(f"{method} {path}")

    async def _pause(self, what: str) -> None:
        if time.monotonic() > self._give_up_at:
            raise TimeoutError(f"{what}, until the patience was over")
        await asyncio.sleep(PAUSE_SECONDS)

    def _url(self) -> str:
        """Another server every time."""
        self._turn += 1
        return self._urls[self._turn % len(self._urls)]


async def _events(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    """Server-sent events that have an id. Written from the specification, not with the code under test."""
    rest = ""
    async for text in response.aiter_text():
        *blocks, rest = (rest + text).split("\n\n")
        for block in blocks:
            fields = dict(line.split(": ", 1) for line in block.split("\n") if not line.startswith(":"))
            if "id" in fields:
                yield {"id": int(fields["id"]), "kind": fields["event"], "data": json.loads(fields["data"])}


async def run_clients(
    urls: list[str], plans: tuple[JobPlan, ...], catalogue: dict[str, Item], run_name: str, seconds: float
) -> list[Story]:
    """All of them, until each has seen its end or lost its patience."""
    stories = [Story(plan, f"{run_name}-{index}") for index, plan in enumerate(plans)]
    began = time.monotonic()
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx.AsyncClient(trust_env=False, limits=limits) as http:
        clients = [Client(http, urls, catalogue[story.plan.name], story, began + seconds) for story in stories]
        await asyncio.gather(*(client.run(began) for client in clients))
    return stories
