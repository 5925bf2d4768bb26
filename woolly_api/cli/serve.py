"""`woolly worker`, `woolly api`, `woolly flower`: one part of a cluster each, in this process."""

import gc
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

import woolly_worker
from woolly_api.cli.common import CLUSTER_PANEL, Failure
from woolly_api.cli.environment import forget_unknown_settings
from woolly_api.cli.options import (
    KVDtype,
    LogFormat,
    ModelFile,
    ModelName,
    NCtx,
    Optimized,
    RedisUrl,
    Slots,
    Threads,
    baseline_setting,
    check_redis_url,
    model_path,
    settings_failure,
)


def register(app: typer.Typer) -> None:
    for command in (worker, api, flower):
        app.command(rich_help_panel=CLUSTER_PANEL)(command)


def worker(
    model: ModelFile,
    name: ModelName = None,
    n_ctx: NCtx = None,
    slots: Slots = None,
    threads: Threads = None,
    kv_dtype: KVDtype = None,
    optimized: Optimized = None,
    redis: RedisUrl = None,
    log_format: LogFormat = None,
) -> None:
    """Serve a model to the jobs in Redis. Every setting is also an environment variable, WOOLLY_<NAME>.

    SIGTERM or Ctrl-C drains: running jobs get some time to end, then go back to the queue.

    [dim]woolly worker --model model.gguf --redis redis://10.0.0.1:6379/0 --slots 8[/dim]
    """
    path = model_path(model)
    if log_format is not None:
        os.environ["WOOLLY_LOG_FORMAT"] = log_format  # also for the line of the parent
    from woolly_worker.queue.parent import fork_worker

    introduce = fork_worker(redis)  # before anything large is loaded: a parent is left, which waits for us
    gc.disable()  # modules come to stay: looking for garbage among them takes a twentieth of the start
    from pydantic import ValidationError

    from woolly_worker.queue.worker import run
    from woolly_worker.settings import WorkerSettings

    gc.enable()
    gc.freeze()
    given: dict[str, Any] = {"model": path, "model_name": name, "n_ctx": n_ctx, "slots": slots, "threads": threads}
    given |= {"redis_url": redis, "kv_dtype": kv_dtype, "baseline": baseline_setting(optimized)}
    try:
        settings = WorkerSettings(**{key: value for key, value in given.items() if value is not None})
    except ValidationError as error:
        raise settings_failure(error, WorkerSettings) from error
    forget_unknown_settings()
    check_redis_url(settings.redis_url)
    raise typer.Exit(run(settings, introduce=introduce))


def api(
    host: Annotated[str | None, typer.Option("--host", metavar="ADDRESS", help="Default: 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option("--port", "-p", metavar="PORT", help="Default: 8080.")] = None,
    redis: RedisUrl = None,
    log_format: LogFormat = None,
    optimized: Annotated[bool | None, typer.Option("--use-optimized-inference/--baseline", hidden=True)] = None,
) -> None:
    """Serve HTTP. Every setting is also an environment variable, WOOLLY_API_<NAME>.

    [dim]woolly api --host 0.0.0.0 --port 8000 --redis redis://10.0.0.1:6379/0[/dim]
    """
    if optimized is not None:
        option = "--use-optimized-inference" if optimized else "--baseline"
        raise Failure(f"{option}: the API computes nothing; give it to 'woolly worker' or 'woolly up'", 2)
    from pydantic import ValidationError

    from woolly_api.server import serve
    from woolly_api.settings import ApiSettings

    given: dict[str, Any] = {"host": host, "port": port, "redis_url": redis, "log_format": log_format}
    try:
        settings = ApiSettings(**{key: value for key, value in given.items() if value is not None})
    except ValidationError as error:
        raise settings_failure(error, ApiSettings) from error
    forget_unknown_settings()
    check_redis_url(settings.redis_url)
    _check_port(settings.host, settings.port)
    serve(settings)


def flower(
    host: Annotated[str, typer.Option("--host", metavar="ADDRESS", help="Flower asks for no password.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", "-p", metavar="PORT")] = 5555,
    redis: RedisUrl = None,
) -> None:
    """Show the dashboard: workers, tasks with their timings, and Prometheus metrics. Prompts are not in it.

    FLOWER_* environment variables set Flower's own options, for example FLOWER_BASIC_AUTH=user:password.

    [dim]woolly flower --port 5556 --redis redis://10.0.0.1:6379/0[/dim]
    """
    if redis is not None:
        check_redis_url(redis)
        os.environ["WOOLLY_REDIS_URL"] = redis
    _check_port(host, port)
    config = Path(woolly_worker.__file__).parent / "queue" / "flower_config.py"
    celery = [sys.executable, "-m", "celery", "-A", "woolly_worker.queue.app", "--quiet"]
    os.execv(
        sys.executable,
        [*celery, "flower", f"--conf={config}", f"--address={host}", f"--port={port}"],
    )


def _check_port(host: str, port: int) -> None:
    """Told in one line here, because servers tell it in a traceback, or between lines about starting and stopping."""
    from woolly_api.programs import CannotListen, choose_port

    try:
        choose_port(port, host=host, exact=True)
    except CannotListen as error:
        raise Failure(f"{error}; choose another with --port") from error
