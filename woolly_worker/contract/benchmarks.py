"""A benchmark that a worker runs on request, beside its jobs: what may be asked for, and what comes back."""

from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

from woolly_worker.contract.errors import InvalidBenchmarkType, InvalidRequest
from woolly_worker.contract.jobs import ErrorInfo


class BenchmarkType(StrEnum):
    TOKEN_GENERATION = "token_generation"  # the model's forward pass, token by token, beside the naive one
    MATRIX_MULTIPLICATION = "matrix_multiplication"  # one matrix of the model, by the kernels and by the naive loop
    MEMORY_ALLOCATION = "memory_allocation"  # a buffer from the pool, and one from NumPy, both touched


# So that a benchmark takes seconds, and running jobs are slowed down no longer than that.
DEFAULT_ITERATIONS = {
    BenchmarkType.TOKEN_GENERATION: 16,
    BenchmarkType.MATRIX_MULTIPLICATION: 50,
    BenchmarkType.MEMORY_ALLOCATION: 1000,
}
MOST_ITERATIONS = {
    BenchmarkType.TOKEN_GENERATION: 64,
    BenchmarkType.MATRIX_MULTIPLICATION: 1000,
    BenchmarkType.MEMORY_ALLOCATION: 10_000,
}


class BenchmarkRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    test_type: str = Field(description="one of " + ", ".join(BenchmarkType), examples=["token_generation"])
    iterations: int | None = Field(None, ge=1, description="default and limit depend on test_type")
    model: str | None = Field(None, description="measured by a worker that serves it; default: any live worker")

    def checked(self) -> tuple[BenchmarkType, int]:
        """Type and iterations. Raises InvalidBenchmarkType, or InvalidRequest that names the limit."""
        try:
            kind = BenchmarkType(self.test_type)
        except ValueError:
            known = ", ".join(BenchmarkType)
            raise InvalidBenchmarkType(f"test_type is none of {known}", param="test_type") from None
        iterations, most = self.iterations or DEFAULT_ITERATIONS[kind], MOST_ITERATIONS[kind]
        if iterations > most:
            raise InvalidRequest(
                f"iterations is {iterations}, {kind} takes at most {most}",
                param="iterations",
                details={"limit": most},
            )
        return kind, iterations


class BenchmarkResult(BaseModel):
    """Measured by a live worker, all of it. The baseline is measured in the same call, as briefly as makes sense."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    test_type: BenchmarkType
    iterations: int
    total_time_ms: float
    average_time_ms: float
    tokens_per_second: float | None = Field(description="of token_generation; the others make no tokens")
    speedup_vs_baseline: float = Field(description="the baseline's average time over ours")
    baseline_iterations: int
    baseline_average_time_ms: float
    measured: str = Field(description="what exactly was measured, and beside what")
    model: str
    worker_id: str
    threads: int


class BenchmarkAnswer(BaseModel):
    """What a worker leaves for the API: one of the two."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    result: BenchmarkResult | None = None
    error: ErrorInfo | None = None
