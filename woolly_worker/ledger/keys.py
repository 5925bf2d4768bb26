"""Every Redis key, channel, queue and task name of Woolly, with its owner and its lifetime. No other file spells one.

Name                              Type     Owner (who writes)           Lifetime
--------------------------------  -------  ---------------------------  -------------------------------------------
woolly:job:<id>                   hash     the ledger's scripts         until `retention_seconds` after the end
woolly:job:<id>:events            stream   emit, finish, close          as its job; never trimmed, resume reads it
woolly:job:<id>                   channel  every transition             -
woolly:jobs:open                  zset     submit ... finish, close     a job's entry leaves with its terminal event
woolly:jobs:finished              zset     finish, close                the reaper drops those whose records are gone
woolly:jobs:followed              zset     submit, unfollowed           an entry leaves at the first look after the end
woolly:once:<digest>              hash     submit                       as the record of its job, which sets its end
woolly:lanes:<model>              hash     every transition             for ever (a few numbers)
woolly:lanes:<model>#round        zset     every transition             while a job of this model is queued
woolly:lanes:<model>#<lane>       zset     every transition             while a job is queued in this lane
woolly:models                     hash     workers, at start            for ever (a card per model ever served)
woolly:workers                    zset     workers, every heartbeat     an entry leaves a day after its last beat
woolly:worker:<worker id>         string   workers, every heartbeat     HEARTBEAT_TTL_SECONDS after the last one
woolly:death:<worker id>          string   who waited for the process   DEATH_TTL_SECONDS
woolly:benchmark:<id>             string   who waits, then who ran it   while it is waited for; BENCHMARK_TTL_SECONDS
woolly:reaper                     string   whichever reaper has a turn  one turn (the mutex of all reapers)
woolly:reaper:seen                string   whichever reaper has a turn  for ever (ms of the last turn)
woolly:ledger_version             string   the first process of all     for ever (see versions.py)
woolly:aside:<key>                any      reapers                      a day: what stood under one of our names
m.<model>[sep1]                   list     Celery (kombu)               while it holds bells; without sep1: benchmarks

Fields of a job's hash (times are milliseconds of Redis's own clock):

id, model, lane, priority, tenant, metadata, request      as submitted; `request` is the only place of the prompt
version                                                   the RECORD_VERSION of who wrote it (see versions.py)
state, attempts, crashes, history                         history: JSON, one object per lost lease
fence, owner, claim, lease_ms                             who may write, and until when it is believed to be alive; the
                                                          fence grows by a random step with each claim
alone                                                     "1" while its owner works on this job and nothing else; a
                                                          lost lease leaves it, a release and the next claim decide anew
recipe                                                    what its tokens depend on beside the request: the recipe of
                                                          the worker that claimed it last (WorkerBeat)
unserved_ms                                               since when only workers with other recipes have asked for it
seq, end_seq                                              tokens in the stream; seq of the terminal event
cancel                                                    "1" once somebody asked for it
bells                                                     bells rung so far
prompt_tokens                                             of the prompt, once a worker has counted them
cost                                                      tokens that it may take, by the estimate of backlog.py
once                                                      its woolly:once key, if it was submitted with one
grace_ms, alone_ms, abandoned                             see woolly:jobs:followed below
created_ms, queued_ms, claimed_ms, started_ms, first_token_ms, deadline_ms, finished_ms
result                                                    JSON of the JobResult, once terminal
timeline, lease_for_ms                                    a line per attempt that is over (timelines.py), and how long
                                                          before lease_ms the owner was heard last

The score in woolly:jobs:open is the time at which the reaper should look next: the end of the lease while running,
the deadline while queued.

A lane is what one tenant has queued at one priority, `<priority>#<tenant>`: job ids by their arrival. Jobs that have
been running before wait in `<priority>#`, the lane of nobody, ahead of all tenants. The round holds the lanes that are
not empty, by priority and then by whose turn it is (shared.lua). '#' is in no model's name, so no two models share a
key. Fields of woolly:lanes:<model>:

all:<state>                                               gauges for queued and running, totals for terminal states
all:queued_tokens                                         the sum of the `cost` of the queued jobs
turns, places                                             turns given and places taken so far
short_ms                                                  since when bells have been missing
idle_ms                                                   since when nobody waits in a lane, while the gauges say that
                                                          somebody does
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
from collections.abc import Iterable
from typing import Any

PREFIX = "woolly:"

OPEN_JOBS = PREFIX + "jobs:open"
FINISHED_JOBS = PREFIX + "jobs:finished"
FOLLOWED_JOBS = PREFIX + "jobs:followed"
MODELS = PREFIX + "models"
WORKERS = PREFIX + "workers"
REAPER_MUTEX = PREFIX + "reaper"
REAPER_SEEN = PREFIX + "reaper:seen"
LEDGER_VERSION = PREFIX + "ledger_version"
ASIDE = PREFIX + "aside:"
ASIDE_SECONDS = 24 * 3600
RECORD_VERSION = 1  # of a job's request: see versions.py

# What a job may be called: it becomes a part of keys and addresses.
JOB_ID_PATTERN = r"^[A-Za-z0-9_-]+$"
MAX_JOB_ID_CHARACTERS = 64

TASK_GENERATE = "woolly.generate"
TASK_BENCHMARK = "woolly.benchmark"
BENCHMARK_TTL_SECONDS = 60
DEATH_TTL_SECONDS = 7 * 24 * 3600  # longer than the record of any job that died with the worker, in practice
# In the broker all bells are alike: which job comes next is the ledger's business. A benchmark goes before them.
BENCHMARK_PRIORITY, BELL_PRIORITY = 0, 1

# Both sides of Celery have to agree on these.
BROKER_TRANSPORT_OPTIONS: dict[str, Any] = {
    "socket_timeout": 5,
    "socket_connect_timeout": 2,
    "health_check_interval": 5,
    "priority_steps": [BENCHMARK_PRIORITY, BELL_PRIORITY],
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


def round_of(model: str) -> str:
    """The lanes of a model that are not empty, in the order of their turns."""
    return f"{lanes(model)}#round"


def worker(worker_id: str) -> str:
    return f"{PREFIX}worker:{worker_id}"


def death(worker_id: str) -> str:
    """How this worker's process ended: its death certificate. Worker ids are never used again."""
    return f"{PREFIX}death:{worker_id}"


def benchmark(call_id: str) -> str:
    """The answer to one call of the benchmark; empty while somebody waits for it."""
    return f"{PREFIX}benchmark:{call_id}"


def lane(priority: int, tenant: str) -> str:
    """The lane in which a tenant's job waits. Lanes of a model take turns, those of priority 0 first."""
    return f"{priority}#{tenant}"


def queue(model: str) -> str:
    """The Celery queue of a model."""
    return f"m.{model}"


def bells(model: str) -> str:
    """The Redis list that kombu keeps for the bells of a model."""
    return f"{queue(model)}{KOMBU_PRIORITY_SEPARATOR}{BELL_PRIORITY}"


def benchmarks(model: str) -> str:
    """The list that kombu keeps for its benchmarks: kombu leaves the first priority out of the name."""
    return queue(model)


def types(models: Iterable[str]) -> dict[str, str]:
    """Of every key with a name of its own, those of the broker included: the type it has to have, if it is there. Lanes
    are named by the round of their model (set_aside.lua)."""
    found = {
        OPEN_JOBS: "zset",
        FINISHED_JOBS: "zset",
        FOLLOWED_JOBS: "zset",
        MODELS: "hash",
        WORKERS: "zset",
        REAPER_MUTEX: "string",
        REAPER_SEEN: "string",
        LEDGER_VERSION: "string",
    }
    for model in models:
        found |= {lanes(model): "hash", round_of(model): "zset", bells(model): "list", benchmarks(model): "list"}
    return found
