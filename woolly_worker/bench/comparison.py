"""Woolly beside a peer on one file: they take turns, round after round, and what counts are medians and ratios.

Machines are shared and noisy. So the limits are measured in every round, a share is made of numbers of one round, and
nothing here is ever compared with another run.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from woolly_worker.bench.batched_bench import BatchedBench
from woolly_worker.bench.limits import LimitProbe, Limits
from woolly_worker.bench.peer import LlamaCpp
from woolly_worker.bench.plan import Decode, Mixed, ModelCost, Prefill, Work
from woolly_worker.bench.runner import Runner, seconds_of
from woolly_worker.kernels.cpu import CPU

# Before a turn: threads of the other program spin after their last step, on the same CPUs, LLVM's OpenMP for 0.2 s.
# Shorter pauses let a tiny model's steps on two threads look ten times slower.
SETTLE_SECONDS = 0.3

Progress = Callable[[str, float], None]  # (what is being measured, the share that is done)


class CanRun(Protocol):
    @property
    def name(self) -> str: ...
    def run(self, work: Work) -> list[float]: ...


class Peer(CanRun, Protocol):
    @property
    def version(self) -> str: ...
    def can_run(self, work: Work) -> bool: ...
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Row:
    """One work, measured. Rates are tokens per second, medians over the rounds; None stands for what does not apply.

    ratio           ours over the peer's
    limit           which limit `share_of_limit` is a share of: "bandwidth" or "int8"
    share_of_limit  the least time that the limit allows over the measured one
    per_second      what the work does to that limit: bytes read or int8 products, each second
    intensity       multiply-adds with weights for each byte read
    gap             the longest step, seconds: what a decoding sequence waits for its next token
    """

    work: str
    kind: str
    tokens_per_second: float
    peer_tokens_per_second: float | None = None
    ratio: float | None = None
    limit: str | None = None
    share_of_limit: float | None = None
    per_second: float | None = None
    intensity: float | None = None
    gap_seconds: float | None = None
    peer_gap_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Report:
    model: str
    file_bytes: int
    file_type: str
    n_params: int
    cpu: str
    n_threads: int
    n_rounds: int
    peer: str | None
    peer_name: str | None
    read_bytes_per_second: float
    products_per_second: float
    rows: list[Row]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def row(self, work: str) -> Row | None:
        return next((row for row in self.rows if row.work == work), None)


@dataclass
class _Times:
    """Of one work: the seconds of its steps, round by round."""

    ours: list[list[float]] = field(default_factory=list)
    theirs: list[list[float]] = field(default_factory=list)


def compare(
    path: Path,
    plan: list[Work],
    *,
    n_threads: int,
    n_rounds: int,
    peer_python: str | None = None,
    peer_program: Path | None = None,
    progress: Progress = lambda what, share: None,
) -> Report:
    """With `peer_program`, llama-batched-bench is the peer, else the llama.cpp of `peer_python`, else there is none.
    Raises ModelFileError, and PeerFailed when there is no such peer or it ends."""
    progress("loading", 0.0)

    def on_compile(n_ready: int, n_all: int) -> None:
        progress(f"loading, kernels: {n_ready} of {n_all}", 0.0)

    runner = Runner(path, plan, n_threads=n_threads, on_compile=on_compile)
    peer: Peer | None = None
    try:
        probe = LimitProbe(n_threads)
        if peer_program is not None:
            peer = BatchedBench(peer_program, path, n_threads=n_threads)
        elif peer_python is not None:
            progress("loading the peer, filling its context", 0.0)
            peer = LlamaCpp(peer_python, path, plan, n_threads=n_threads)
        times = {work: _Times() for work in plan}
        limits = _take_turns(runner, peer, probe, times, n_rounds, progress)
        config = runner.config
        return Report(
            model=path.name,
            file_bytes=path.stat().st_size,
            file_type=config.file_type,
            n_params=config.n_params,
            cpu=CPU.tag,
            n_threads=n_threads,
            n_rounds=n_rounds,
            peer=f"{peer.name} ({peer.version})" if peer is not None else None,
            peer_name=peer.name if peer is not None else None,
            read_bytes_per_second=statistics.median(limit.read_bytes_per_second for limit in limits),
            products_per_second=statistics.median(limit.products_per_second for limit in limits),
            rows=[_row(work, times[work], limits, runner.cost) for work in plan],
        )
    finally:
        runner.close()
        if peer is not None:
            peer.close()


def _take_turns(
    runner: CanRun,
    peer: Peer | None,
    probe: LimitProbe,
    times: dict[Work, _Times],
    n_rounds: int,
    progress: Progress,
) -> list[Limits]:
    """Fills `times`. A first turn, uncounted, brings the weights into memory."""
    for program in (runner, peer):
        if program is not None:
            program.run(Decode(1))
    limits = []
    for n in range(n_rounds):
        time.sleep(SETTLE_SECONDS)
        limits.append(probe.measure())
        for i, (work, taken) in enumerate(times.items()):
            progress(work.name, (n + i / len(times)) / n_rounds)
            time.sleep(SETTLE_SECONDS)
            taken.ours.append(runner.run(work))
            if peer is not None and peer.can_run(work):
                time.sleep(SETTLE_SECONDS)
                taken.theirs.append(peer.run(work))
    return limits


def _row(work: Work, times: _Times, limits: list[Limits], cost: ModelCost) -> Row:
    ours = [seconds_of(work, steps) for steps in times.ours]
    theirs = [seconds_of(work, steps) for steps in times.theirs]
    seconds = statistics.median(ours)
    peer_seconds = statistics.median(theirs) if theirs else None
    is_mixed = isinstance(work, Mixed)
    shares = _shares(work, ours, limits, cost)
    n_bytes, n_products = _amounts(work, cost)
    return Row(
        work=work.name,
        kind=work.do,
        tokens_per_second=work.total_tokens / seconds,
        peer_tokens_per_second=work.total_tokens / peer_seconds if peer_seconds else None,
        ratio=peer_seconds / seconds if peer_seconds else None,
        limit=None if shares is None else shares[0],
        share_of_limit=None if shares is None else statistics.median(shares[1]),
        per_second=None if is_mixed else (n_products if isinstance(work, Prefill) else n_bytes) / seconds,
        intensity=None if is_mixed else n_products / n_bytes,
        gap_seconds=_gap(times.ours) if is_mixed else None,
        peer_gap_seconds=_gap(times.theirs) if is_mixed and theirs else None,
    )


def _amounts(work: Work, cost: ModelCost) -> tuple[int, int]:
    """Bytes read and products with weights of the whole work."""
    if isinstance(work, Prefill):
        return work.n_reads * cost.step_bytes(work.n_tokens // work.n_reads), cost.products(work)
    if isinstance(work, Decode):
        return cost.bytes_read(work), work.total_tokens * (cost.products_per_token + cost.products_per_logit_row)
    return 0, 0


def _shares(work: Work, ours: list[float], limits: list[Limits], cost: ModelCost) -> tuple[str, list[float]] | None:
    """The limit's name, and for each round which share of it was reached."""
    n_bytes, n_products = _amounts(work, cost)
    if isinstance(work, Mixed):
        return None
    pairs = list(zip(ours, limits, strict=True))
    if isinstance(work, Prefill):
        return "int8", [n_products / seconds / limit.products_per_second for seconds, limit in pairs]
    return "bandwidth", [n_bytes / seconds / limit.read_bytes_per_second for seconds, limit in pairs]


def _gap(rounds: list[list[float]]) -> float:
    return statistics.median(max(steps) for steps in rounds)
