"""Every Redis key, channel, queue and task name of Woolly, with its owner and its lifetime. No other file spells one.

Name                              Type     Owner (who writes)           Lifetime
--------------------------------  -------  ---------------------------  -------------------------------------------
woolly:job:<id>                   hash     the ledger's scripts         until `retention_seconds` after the end
woolly:job:<id>:events            stream   emit, finish, close          as its job; never trimmed, resume reads it
woolly:job:<id>                   channel  every transition             -
woolly:jobs:open                  zset     submit ... finish, close     a job's entry leaves with its terminal event
woolly:jobs:finished              zset     finish, close                an entry leaves when its record has expired
woolly:jobs:followed              zset     submit, unfollowed           an entry leaves at the first look after the end
woolly:once:<digest>              hash     submit                       as the record of its job, which sets its end
woolly:lanes:<model>              hash     every transition             for ever (some numbers per lane and priority)
woolly:models                     hash     workers, at start            for ever (a card per model ever served)
woolly:workers                    zset     workers, every heartbeat     an entry leaves a day after its last beat
woolly:worker:<worker id>         string   workers, every heartbeat     HEARTBEAT_TTL_SECONDS after the last one
woolly:benchmark:<id>             string   the worker that ran it       BENCHMARK_TTL_SECONDS
woolly:reaper                     string   whichever reaper has a turn  one turn (the mutex of all reapers)
m.<model>.l<lane>[sep<priority>]  list     Celery (kombu)               while it holds bells

Fields of a job's hash (times are milliseconds of Redis's own clock):

id, model, lane, priority, tenant, metadata, request      as submitted; `request` is the only place of the prompt
state, attempts, crashes, history                         history: JSON, one object per lost lease
fence, owner, claim, lease_ms                             who may write, and until when it is believed to be alive
seq, end_seq                                              tokens in the stream; seq of the terminal event
cancel                                                    "1" once somebody asked for it
enq, bells                                                place of its last bell in its lane; bells rung so far
cost                                                      tokens that it may take, by the estimate of backlog.py
once                                                      its woolly:once key, if it was submitted with one
grace_ms, alone_ms, abandoned                             see woolly:jobs:followed below
created_ms, queued_ms, claimed_ms, started_ms, first_token_ms, deadline_ms, finished_ms
result                                                    JSON of the JobResult, once terminal

The score in woolly:jobs:open is the time at which the reaper should look next: the end of the lease while running,
the next check for a lost bell while queued. Fields of woolly:lanes:<model>:

l<lane>:<state>, all:<state>                              gauges for queued and running, totals for terminal states
l<lane>:p<priority>:enq, l<lane>:p<priority>:claimed      bells rung; the highest `enq` that was ever claimed
l<lane>:p<priority>:queued, l<lane>:p<priority>:tokens    jobs that wait there, and the sum of their `cost`
all:queued_tokens                                         that sum over the model
drain:tokens, drain:ms                                    `cost` of jobs that ended while others waited, and in how long
drain:since_ms                                            the last such end, as long as jobs have waited ever since

woolly:once:<digest> is an idempotency key of one tenant: `job`, and `digest` of the body it came with. It has no end
of its own while its job is open, so it is there at least as long as the record.

woolly:jobs:followed holds the jobs that run for a client who waits for the answer. Whoever follows a job is subscribed
to its channel, so the server itself counts the followers over all API replicas, and forgets those of one that died. The
score is the time of the next look, every `grace_ms`. A look that finds nobody writes `alone_ms`; when the next one
finds nobody either, the job is cancelled and `abandoned`, and an idempotency key does not lead to it any more. A client
who comes back with the key takes `alone_ms` away. One look is not enough: after a restart of Redis, followers need a
moment to subscribe again.

Redis Cluster is not supported: a script touches keys of several slots, and Celery has no such transport.
"""

import hashlib
from typing import Any
from zlib import crc32

PREFIX = "woolly:"

OPEN_JOBS = PREFIX + "jobs:open"
FINISHED_JOBS = PREFIX + "jobs:finished"
FOLLOWED_JOBS = PREFIX + "jobs:followed"
MODELS = PREFIX + "models"
WORKERS = PREFIX + "workers"
REAPER_MUTEX = PREFIX + "reaper"

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


def once(tenant: str, key: str) -> str:
    """An idempotency key of a tenant. Hashed, because either may hold anything that a separator could be."""
    return f"{PREFIX}once:" + hashlib.sha256(f"{tenant}\0{key}".encode()).hexdigest()


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


def bells(model: str, lane: int, priority: int) -> str:
    """The Redis list that kombu keeps for one priority of a queue."""
    name = queue(model, lane)
    return f"{name}{KOMBU_PRIORITY_SEPARATOR}{priority}" if priority else name
