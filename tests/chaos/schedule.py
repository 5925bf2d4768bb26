"""What happens in one run: who asks for what and when, and which faults come in between. All of it from one seed."""

from dataclasses import dataclass, replace
from random import Random

ROLES = ("stream", "stream", "stream", "poll", "cancel", "reconnect")
# Jobs of the catalogue, by how often they are drawn.
WEIGHTS = {
    "greedy": 1,
    "sampled": 3,
    "filtered": 1,
    "logprobs": 2,
    "multibyte": 2,
    "long prompt": 3,
    "token ids": 1,
    "one token": 1,
    "to its end": 1,
    "chat": 2,
    "stop string": 2,
}
# Kinds of fault. A restart of the server takes seconds to recover from, so it is drawn less often.
FAULTS = {
    "trap kill": 8,
    "trap stop": 3,
    "kill worker": 4,
    "stop worker": 3,
    "drain worker": 2,
    "kill api": 3,
    "cut workers": 2,
    "cut apis": 2,
    "client kill": 2,
    "deaf workers": 1,
    "deaf apis": 1,
    "delay": 2,
    "drop bells": 3,
    "double bells": 2,
    "server restart": 1,
    "server stop": 2,
    "replace model": 1,
}
MOMENTS = ("submit", "ring", "claim", "prefill", "finish", "release")
LONGEST_JOB_TOKENS = 40
ASKING_SECONDS = 1.0
FAULT_SECONDS = 1.6


@dataclass(frozen=True)
class JobPlan:
    name: str  # in the catalogue
    at: float  # seconds from the start of the run
    role: str
    after: int = 0  # cancel, or leave and come back, behind this many tokens
    priority: int = 5
    tenant: str = "default"


@dataclass(frozen=True)
class Fault:
    kind: str
    at: float
    target: int = 0  # index of the worker or API
    seconds: float = 0.0
    moment: str = ""  # of a trap, or the kind of connections to kill

    def __str__(self) -> str:
        what = f" at {self.moment}" if self.moment else ""
        return f"{self.kind}{what} (target {self.target}, {self.seconds:.2f} s) after {self.at:.2f} s"


@dataclass(frozen=True)
class Schedule:
    seed: int
    jobs: tuple[JobPlan, ...]
    faults: tuple[Fault, ...]

    def describe(self) -> str:
        jobs = "\n".join(f"  job    {i}: {job.role} '{job.name}' at {job.at:.2f} s" for i, job in enumerate(self.jobs))
        return f"seed {self.seed}\n{jobs}\n" + "\n".join(f"  fault  {fault}" for fault in self.faults)

    def without_fault(self, index: int) -> "Schedule":
        return replace(self, faults=self.faults[:index] + self.faults[index + 1 :])

    def without_job(self, index: int) -> "Schedule":
        return replace(self, jobs=self.jobs[:index] + self.jobs[index + 1 :])


def draw(seed: int, *, faults: dict[str, int] | None = None) -> Schedule:
    """The schedule of this seed; `faults` are the kinds to draw from, by weight."""
    random = Random(seed)
    jobs = tuple(_job(random) for _ in range(random.randint(7, 12)))
    kinds = faults or FAULTS
    drawn = random.choices(list(kinds), list(kinds.values()), k=random.randint(2, 5))
    return Schedule(seed, jobs, tuple(sorted((_fault(random, kind) for kind in drawn), key=lambda fault: fault.at)))


def _job(random: Random) -> JobPlan:
    (name,) = random.choices(list(WEIGHTS), list(WEIGHTS.values()))
    return JobPlan(
        name,
        random.uniform(0, ASKING_SECONDS),
        random.choice(ROLES),
        after=random.randint(0, 20),
        priority=random.choice((0, 5, 5, 9)),
        tenant=random.choice(("default", "ole", "night shift")),
    )


def _fault(random: Random, kind: str) -> Fault:
    at = random.uniform(0, FAULT_SECONDS)
    target = random.randint(0, 1)
    if kind.startswith("trap"):
        at *= 0.3  # what lies in wait is laid early
        moment = random.choice((*MOMENTS, *(["emit"] * 8)))
        if moment == "emit":
            moment = f"emit:{random.randint(1, LONGEST_JOB_TOKENS)}"
        return Fault(kind, at, moment=f"{moment}.{random.choice(('before', 'after'))}")
    if kind == "client kill":
        return Fault(kind, at, moment=random.choice(("normal", "pubsub")))
    # Half of the pauses are shorter than a lease, half longer.
    seconds = random.choice((random.uniform(0.1, 0.6), random.uniform(1.2, 2.0)))
    if kind == "delay":
        seconds = random.uniform(0.02, 0.1)
    return Fault(kind, at, target, seconds)
