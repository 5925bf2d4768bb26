"""Logs of a worker: events with fields, and one canonical line per job that tells its whole story. Never a prompt.

Exceptions are logged by type and place, because a message may quote what it choked on.
"""

import logging
import sys
import traceback
from typing import Any

import structlog

from woolly_worker.contract.errors import WoollyError
from woolly_worker.contract.jobs import JobResult
from woolly_worker.contract.states import JobState
from woolly_worker.ledger.timings import summary_fields

log: structlog.stdlib.BoundLogger = structlog.get_logger("woolly.worker")

# Celery's own lines per task would only repeat ours.
_QUIET_LOGGERS = ("celery.worker.strategy", "celery.app.trace", "kombu", "amqp")


def configure_logging(level: str, form: str) -> None:
    """structlog's and the standard library's lines to standard error, as "console" or "json". For entry points only."""
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    tail: list[structlog.types.Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if form == "json":
        tail += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        # The plain formatter: the default one prints local variables, and with them prompts.
        formatter = structlog.dev.plain_traceback
        tail.append(structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=formatter))
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=tail))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.getLevelNamesMapping()[level.upper()])
    if level != "debug":
        for name in _QUIET_LOGGERS:
            logging.getLogger(name).setLevel(logging.WARNING)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )


def log_job(job_id: str, state: JobState, result: JobResult) -> None:
    """The one line of a job that ended here: time queued, tokens, rates, reason."""
    log.info("job", **summary_fields(job_id, state, result))


def log_lost(job_id: str, worker_id: str, attempt: int) -> None:
    """The one line of a lost lease, by whoever noticed. How that worker ended is in the job's history."""
    log.warning("worker lost", job_id=job_id, worker_id=worker_id, attempt=attempt)


def log_bug(what: str, error: BaseException, **fields: Any) -> None:
    """An exception that should not have happened: its type and where it came from. The message stays out."""
    frames = traceback.extract_tb(error.__traceback__)
    log.error(
        what,
        error=type(error).__name__,
        message=error.message if isinstance(error, WoollyError) else None,  # ours never quote a prompt
        where=[f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames[-12:]],
        **fields,
    )
