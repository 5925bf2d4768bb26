"""Every Redis key, channel, queue and task name of Woolly, with its owner and its lifetime. No other file spells one.

Name                              Type     Owner (who writes)           Lifetime
--------------------------------  -------  ---------------------------  -------------------------------------------
woolly:job:<id>                   hash     the ledger's scripts         until `retention_seconds` after the end
woolly:job:<id>:events            stream   emit, finish, close          as its job; never trimmed, resume reads it
woolly:job:<id>                   channel  every transition             -
woolly:jobs:open                  zset     submit ... finish, close     a job's entry leaves with its terminal event
woolly:jobs:finished              zset     finish, close                an entry leaves when its record has expired
woolly:lanes:<model>              hash     every transition             for ever (some numbers per lane)
woolly:models                     hash     workers, at start            for ever (a card per model ever served)
woolly:workers                    zset     workers, every heartbeat     an entry leaves a day after its last beat
woolly:worker:<worker id>         string   workers, every heartbeat     HEARTBEAT_TTL_SECONDS after the last one
woolly:benchmark:<id>             string   the worker that ran it       BENCHMARK_TTL_SECONDS
woolly:reaper                     string   whichever reaper has a turn  one turn (the mutex of all reapers)
woolly:ledger_version             string   the first process of all     for ever (see versions.py)
woolly:aside:<key>                any      reapers                      a day: what stood under one of our names
m.<model>.l<lane>[sep<priority>]  list     Celery (kombu)               while it holds bells

Fields of a job's hash (times are milliseconds of Redis's own clock):

id, model, lane, priority, tenant, metadata, request      as submitted; `request` is the only place of the prompt
version                                                   the RECORD_VERSION of who wrote it (see versions.py)
state, attempts, crashes, history                         history: JSON, one object per lost lease
fence, owner, claim, lease_ms                             who may write, and until when it is believed to be alive
seq, end_seq                                              tokens in the stream; seq of the terminal event
cancel                                                    "1" once somebody asked for it
enq, bells                                                place of its last bell in its lane; bells rung so far
created_ms, queued_ms, claimed_ms, started_ms, first_token_ms, deadline_ms, finished_ms
result                                                    JSON of the JobResult, once terminal

The score in woolly:jobs:open is the time at which the reaper should look next: the end of the lease while running,
the next check for a lost bell while queued. Fields of woolly:lanes:<model>: `l<lane>:<state>` and `all:<state>`
(gauges for queued and running, totals for terminal states), `l<lane>:p<priority>:enq` (bells rung) and
`l<lane>:p<priority>:claimed` (the highest `enq` that was ever claimed).

Redis Cluster is not supported: a script touches keys of several slots, and Celery has no such transport.
"""

from collections.abc import Iterable
from typing import Any
from zlib import crc32

PREFIX = "woolly:"

OPEN_JOBS = PREFIX + "jobs:open"
FINISHED_JOBS = PREFIX + "jobs:finished"
MODELS = PREFIX + "models"
WORKERS = PREFIX + "workers"
REAPER_MUTEX = PREFIX + "reaper"
LEDGER_VERSION = PREFIX + "ledger_version"
ASIDE_SECONDS = 24 * 3600
RECORD_VERSION = 1  # of a job's request: see versions.py

# What a job may be called: it becomes a part of keys and addresses.
JOB_ID_PATTERN = r"^[A-Za-z0-9_-]+$"
MAX_JOB_ID_CHARACTERS = 64

TASK_GENERATE = "woolly.generate"
TASK_BENCHMARK = "woolly.benchmark"
BENCHMARK_TTL_SECONDS = 60
N_LANES = 8
N_PRIORITIES = 10

# Both sides of Celery have to agree on these. The job's lease decides about redelivery, not the visibility timeout.
BROKER_TRANSPORT_OPTIONS: dict[str, Any] = {
    "visibility_timeout": 3600,
    "socket_timeout": 5,
    "socket_connect_timeout": 2,
    "health_check_interval": 5,
    "priority_steps": list(range(N_PRIORITIES)),
    "queue_order_strategy": "round_robin",
}
KOMBU_PRIORITY_SEPARATOR = "\x06\x16"


def job(job_id: str) -> str:
    """The record; its pub/sub channel has the same name."""
    return f"{PREFIX}job:{job_id}"


def channel(job_id: str) -> str:
    return job(job_id)


def events(job_id: str) -> str:
    return f"{PREFIX}job:{job_id}:events"


def lanes(model: str) -> str:
    return f"{PREFIX}lanes:{model}"


def worker(worker_id: str) -> str:
    return f"{PREFIX}worker:{worker_id}"


def benchmark(call_id: str) -> str:
    """The answer to one call of the benchmark."""
    return f"{PREFIX}benchmark:{call_id}"


def lane_of(tenant: str) -> int:
    """Tenants are hashed onto lanes; workers serve the lanes of their model in turn."""
    return crc32(tenant.encode()) % N_LANES


def queue(model: str, lane: int) -> str:
    """The Celery queue of a lane."""
    return f"m.{model}.l{lane}"


def queues(model: str) -> tuple[str, ...]:
    return tuple(queue(model, lane) for lane in range(N_LANES))


def types(models: Iterable[str]) -> dict[str, str]:
    """Of every key with a name of its own, those of the broker included: the type it has to have, if it is there."""
    found = {
        OPEN_JOBS: "zset",
        FINISHED_JOBS: "zset",
        MODELS: "hash",
        WORKERS: "zset",
        REAPER_MUTEX: "string",
        "unacked": "hash",
        "unacked_index": "zset",
    }
    for model in models:
        found[lanes(model)] = "hash"
        for priority in range(N_PRIORITIES):
            found |= {bells(model, lane, priority): "list" for lane in range(N_LANES)}
    return found


def bells(model: str, lane: int, priority: int) -> str:
    """The Redis list that kombu keeps for one priority of a queue."""
    name = queue(model, lane)
    return f"{name}{KOMBU_PRIORITY_SEPARATOR}{priority}" if priority else name
