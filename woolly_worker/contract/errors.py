"""Everything that can go wrong, drawn once.

    WoollyError
    ├── RequestError            the caller can fix it; never retried
    │   ├── InvalidRequest          400  a parameter is unknown, unsupported or out of range
    │   ├── InvalidBenchmarkType    400  there is no benchmark of this name
    │   ├── ContextOverflow         400  prompt + max_tokens do not fit into n_ctx
    │   ├── IdempotencyKeyReused    422  the same Idempotency-Key came with another body
    │   ├── ModelNotFound           404  no worker has ever announced this model
    │   └── JobNotFound             404  no such job, or its retention time is over
    ├── CapacityError           later may work; retryable
    │   ├── QueueFull               429  the backlog is above its limit
    │   ├── PoolExhausted           503  no KV blocks or slots, and none will become free
    │   ├── LedgerUnavailable       503  Redis does not answer
    │   ├── LedgerFull              503  Redis has no memory for more jobs
    │   ├── LedgerVersionMismatch   503  Redis holds the ledger of another version of Woolly
    │   ├── NoWorker                503  no live worker could do it
    │   ├── BenchmarkRunning        429  the worker runs a benchmark already
    │   └── BenchmarkTimeout        504  the worker did not answer in time
    ├── Interrupted             it ended, nothing broke
    │   ├── JobCancelled            499  somebody asked for it
    │   ├── DeadlineExceeded        504  its deadline passed before it was done
    │   └── ModelReplaced           409  no worker has the weights any more that it began with
    ├── ModelFileError          the file is wrong; stop at boot
    │   ├── GGUFFormatError         500  the bytes break the GGUF specification or point outside the file
    │   ├── UnsupportedArchitecture 500  a good file for a model Woolly does not know
    │   └── UnsupportedQuantization 500  a good file with a tensor type Woolly does not read
    ├── KernelMismatch          500  compiled code computes something else than its definition; stop at boot
    └── InternalError           500  our bug: traceback in our log, only a code for the client
        └── PoisonJob               500  the job took down its worker too many times

`code` is stable and meant for machines; `http_status` is a hint for the API; `retryable` says whether the same
request may succeed later. Messages name the two numbers that disagree. They never quote a prompt.
"""

from typing import Any, ClassVar


class WoollyError(Exception):
    """Base of the tree. `param` names the offending field of the request; of one that is a job already, or about to be,
    its path in JobRequest. `details` is JSON for machines."""

    code: ClassVar[str] = "woolly_error"
    http_status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, param: str | None = None, details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.details = details or {}


class RequestError(WoollyError):
    code = "invalid_request"
    http_status = 400


class InvalidRequest(RequestError):
    pass


class InvalidBenchmarkType(RequestError):
    code = "INVALID_BENCHMARK_TYPE"  # in capitals, as the earlier program has it


class ContextOverflow(RequestError):
    code = "context_length_exceeded"


class IdempotencyKeyReused(RequestError):
    code = "idempotency_key_reused"
    http_status = 422


class ModelNotFound(RequestError):
    code = "model_not_found"
    http_status = 404


class JobNotFound(RequestError):
    code = "job_not_found"
    http_status = 404


class CapacityError(WoollyError):
    """Base of what may work later. `retry_after_seconds` becomes the HTTP header."""

    code = "overloaded"
    http_status = 503
    retryable = True

    def __init__(self, message: str, *, retry_after_seconds: float = 1.0, **rest: Any) -> None:
        super().__init__(message, **rest)
        self.retry_after_seconds = retry_after_seconds


class QueueFull(CapacityError):
    code = "queue_full"
    http_status = 429


class PoolExhausted(CapacityError):
    code = "pool_exhausted"


class LedgerUnavailable(CapacityError):
    code = "ledger_unavailable"


class LedgerFull(CapacityError):
    code = "ledger_full"


class LedgerVersionMismatch(CapacityError):
    code = "ledger_version"


class NoWorker(CapacityError):
    code = "no_worker"


class BenchmarkRunning(CapacityError):
    code = "benchmark_running"
    http_status = 429


class BenchmarkTimeout(CapacityError):
    code = "benchmark_timeout"
    http_status = 504


class Interrupted(WoollyError):
    code = "interrupted"


class JobCancelled(Interrupted):
    code = "cancelled"
    http_status = 499


class DeadlineExceeded(Interrupted):
    code = "deadline_exceeded"
    http_status = 504


class ModelReplaced(Interrupted):
    code = "model_replaced"
    http_status = 409
    retryable = True  # from the beginning, with the weights that are served now


class ModelFileError(WoollyError):
    code = "model_file_error"


class GGUFFormatError(ModelFileError):
    code = "gguf_format_error"


class UnsupportedArchitecture(ModelFileError):
    code = "unsupported_architecture"


class UnsupportedQuantization(ModelFileError):
    code = "unsupported_quantization"


class KernelMismatch(WoollyError):
    code = "kernel_mismatch"


class InternalError(WoollyError):
    code = "internal_error"


class PoisonJob(InternalError):
    code = "poison_job"


def no_chat_template() -> InvalidRequest:
    """Told by the API at submit, and by the worker that has the file."""
    return InvalidRequest("this model's file carries no chat template; send a prompt", param="messages")
