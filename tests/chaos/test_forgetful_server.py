"""A server that lost the last writes it had acknowledged: `appendfsync everysec` and a machine without power.

Records from before are there, tokens at the end of their streams are not, although readers have seen them. Nobody may
see a gap or a token twice: what comes again is the same, bit for bit, under the same ids.
"""

import asyncio
import os
import signal
import threading
import time
from pathlib import Path

from chaos.checker import check
from chaos.clients import run_clients
from chaos.facts import collect
from chaos.run import PATIENCE_SECONDS, Arena
from chaos.schedule import JobPlan
from cluster import wait_for

from woolly_worker.contract.events import FailedEvent, TokenEvent
from woolly_worker.contract.jobs import ErrorInfo, JobRequest
from woolly_worker.contract.states import JobState
from woolly_worker.ledger import keys
from woolly_worker.ledger.connection import connect
from woolly_worker.ledger.ledger import Ledger
from woolly_worker.ledger.records import Claim, Emission, Finish, Reply
from woolly_worker.ledger.server import EmbeddedServer

LOST_BYTES = 6000  # some tens of tokens, of all streams together


def test_tokens_that_the_server_forgot_come_again_and_nobody_notices(tmp_path: Path) -> None:
    jobs = (*(JobPlan("multibyte", 0.0, "stream"),) * 4, *(JobPlan("sampled", 0.0, "reconnect", after=9),) * 3)
    with Arena(tmp_path) as arena:
        fleet = arena.fleet

        def forget() -> None:
            """As soon as every job has so many tokens that only tokens get lost."""
            while len(_tokens(arena)) < len(jobs) or min(_tokens(arena)) < 8:
                time.sleep(0.005)
            fleet.restart_server(0.0, forgets_bytes=LOST_BYTES)

        accident = threading.Thread(target=forget)
        items = {name: item for name, (item, _) in arena.catalogue.items()}
        accident.start()
        stories = asyncio.run(run_clients(fleet.api_urls, jobs, items, "forgotten", PATIENCE_SECONDS))
        accident.join()
        wait_for(lambda: not fleet.client.zcard(keys.OPEN_JOBS), PATIENCE_SECONDS)
        violations = check(stories, collect(fleet.client, fleet.api_urls), arena.catalogue)
        assert fleet.count_events("the stream lost tokens, giving the job back") > 0
    assert not violations, "\n".join(map(str, violations))


def _tokens(arena: Arena) -> list[int]:
    """Of the jobs that run, the tokens in their streams."""
    open_ids = arena.fleet.client.zrange(keys.OPEN_JOBS, 0, -1)
    return [int(arena.fleet.client.xlen(keys.events(job_id))) for job_id in open_ids]


def test_of_two_workers_that_were_given_a_job_only_one_can_write(tmp_path: Path) -> None:
    def claim(owner: str) -> Claim:
        claimed = ledger.claim("job", owner, lease_seconds=60)
        assert isinstance(claimed, Claim)
        return claimed

    def emit(claimed: Claim) -> Reply:
        token = TokenEvent(seq=1, token_id=1, text="x")
        return ledger.emit([Emission("job", claimed.fence, token)], lease_seconds=60)[0]

    # given: a claim that the server forgot, while the worker that made it lives
    with EmbeddedServer(tmp_path, appendfsync="always") as server, connect(server.url) as client:
        ledger = Ledger(client)
        ledger.submit(JobRequest(model="tiny", prompt="x"), job_id="job")
        (file,) = tmp_path.glob("appendonlydir/*.incr.aof")
        known_bytes = file.stat().st_size
        first = claim("first")
        os.kill(server.pid, signal.SIGKILL)
        server.stop()  # only its files
        os.truncate(file, known_bytes)
        with EmbeddedServer(tmp_path, port=server.port):
            # when: another worker is given the job
            second = claim("second")
            # then: it is the only one
            assert (first.attempt, second.attempt) == (1, 1)
            assert emit(first) is Reply.FENCED
            failed = FailedEvent(seq=1, state=JobState.FAILED, error=ErrorInfo(code="x", message="x"))
            assert ledger.finish(Finish("job", first.fence, "tiny", failed, (), "")).reply is Reply.FENCED
            assert ledger.end_probation("job", first.fence, lease_seconds=60) is Reply.FENCED
            assert ledger.release("job", first.fence, "tiny").reply is Reply.FENCED
            assert emit(second) is Reply.OK
