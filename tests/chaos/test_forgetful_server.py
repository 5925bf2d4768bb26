"""A server that lost the last writes it had acknowledged: `appendfsync everysec` and a machine without power.

Records from before are there, tokens at the end of their streams are not, although readers have seen them. Nobody may
see a gap or a token twice: what comes again is the same, bit for bit, under the same ids.
"""

import asyncio
import threading
import time
from pathlib import Path

from chaos.checker import check
from chaos.clients import run_clients
from chaos.facts import collect
from chaos.run import PATIENCE_SECONDS, Arena
from chaos.schedule import JobPlan
from cluster import wait_for

from woolly_worker.ledger import keys

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
