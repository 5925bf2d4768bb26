"""`woolly up` and `woolly demo`: everything on this machine, supervised, in one terminal."""

import os
import shutil
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from woolly_api.cli.common import CLUSTER_PANEL, Failure, check_text, say
from woolly_api.cli.environment import forget_unknown_settings
from woolly_api.cli.options import (
    KVDtype,
    LogFormatOfAll,
    ModelFile,
    ModelName,
    NCtx,
    Optimized,
    Slots,
    Threads,
    check_redis_url,
    model_path,
    settings_failure,
)
from woolly_api.cli.progress import Progress
from woolly_worker.contract.errors import WoollyError

if TYPE_CHECKING:
    from woolly_api.programs import Cluster

API_PORT = 8080
FLOWER_PORT = 5555
LOG_FORMATS = ("WOOLLY_LOG_FORMAT", "WOOLLY_API_LOG_FORMAT")  # the worker's and the API's settings
DEMO_PROMPT = "Tell me a story about a fox."


def register(app: typer.Typer) -> None:
    app.command(rich_help_panel=CLUSTER_PANEL)(demo)
    app.command(rich_help_panel=CLUSTER_PANEL)(up)


def up(
    model: ModelFile,
    name: ModelName = None,
    n_ctx: NCtx = None,
    slots: Slots = None,
    threads: Threads = None,
    kv_dtype: KVDtype = None,
    optimized: Optimized = None,
    host: Annotated[str, typer.Option("--host", metavar="ADDRESS", help="Where the API listens.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", "-p", metavar="PORT", help="The API's port.")] = API_PORT,
    flower_port: Annotated[
        int, typer.Option("--flower-port", metavar="PORT", help="Flower's, on loopback.")
    ] = FLOWER_PORT,
    flower: Annotated[bool, typer.Option("--flower/--no-flower", help="Run the dashboard.")] = True,
    redis: Annotated[
        str | None,
        typer.Option(
            "--redis", envvar="WOOLLY_REDIS_URL", metavar="URL", help="A server of yours instead of an embedded one."
        ),
    ] = None,
    state_dir: Annotated[
        Path | None,
        typer.Option("--state-dir", metavar="DIR", help="Where jobs are kept.", show_default="~/.local/state/woolly"),
    ] = None,
    appendfsync: Annotated[
        Literal["everysec", "always"] | None,
        typer.Option(
            "--appendfsync",
            help="When the embedded server waits for the disk: a machine that stops at once costs the last second, or "
            "nothing.",
            show_default="everysec",
        ),
    ] = None,
    log_format: LogFormatOfAll = None,
) -> None:
    """Serve a model: a worker, the API, Flower and, without --redis, an embedded server. Stays until Ctrl-C.

    A part that dies is started again. Jobs survive a restart: they are kept in the state folder.

    [dim]woolly up --model model.gguf --port 8000[/dim]
    """
    from woolly_api.cli.cluster_log import ClusterLog, JsonClusterLog
    from woolly_api.cli.running import running
    from woolly_api.programs import (
        CannotListen,
        Cluster,
        StateDirBusy,
        choose_port,
        default_state_dir,
        locked_state_dir,
    )
    from woolly_worker.ledger.address import RedisAddress
    from woolly_worker.ledger.server import DEFAULT_APPENDFSYNC

    path = model_path(model)
    if redis is not None:
        check_redis_url(redis)
        if appendfsync is not None:
            raise Failure("--appendfsync is for the embedded server; with --redis, that server's own setting holds", 2)
    folder = state_dir or default_state_dir()
    drain_seconds, api_grace_seconds = grace_seconds(path, name, n_ctx, slots, threads)
    forget_unknown_settings()
    try:
        cluster = Cluster(
            model=path,
            state_dir=folder,
            api_host=host,
            api_port=choose_port(port, host=host, exact=True),
            flower_port=choose_port(flower_port, exact=True) if flower else None,
            redis_url=redis,
            redis_port=choose_port(0, exact=True),
            appendfsync=appendfsync or DEFAULT_APPENDFSYNC,
            worker_options=worker_options(name, n_ctx, slots, threads, kv_dtype, optimized),
            env={} if log_format is None else dict.fromkeys(LOG_FORMATS, log_format),
            drain_seconds=drain_seconds,
            api_grace_seconds=api_grace_seconds,
        )
    except CannotListen as error:
        raise Failure(f"{error}; choose another with --port or --flower-port", 2) from error
    with Progress(quiet=log_format == "json") as progress:
        log = JsonClusterLog() if log_format == "json" else ClusterLog(progress)
        try:
            with locked_state_dir(folder), running(cluster, log, progress) as supervisor:
                log.notice(f"API     {cluster.api_url}  (documentation: {cluster.api_url}/docs)")
                if cluster.flower_url:
                    log.notice(f"Flower  {cluster.flower_url}")
                log.notice(f"Redis   {RedisAddress.parse(cluster.broker_url).shown}")
                log.notice("ready; Ctrl-C stops")
                supervisor.run()
        except StateDirBusy as error:
            raise log.failure(str(error)) from error


def demo(
    prompt: Annotated[str, typer.Argument(metavar="[PROMPT]", help="What to ask the model.")] = DEMO_PROMPT,
    once: Annotated[bool, typer.Option("--once", help="Exit after the job; the exit code tells how it went.")] = False,
    max_tokens: Annotated[int, typer.Option("--max-tokens", "-n", min=1, metavar="N", help="The most tokens.")] = 256,
    temperature: Annotated[float, typer.Option("--temperature", "-t", min=0, max=10, help="0 is greedy.")] = 0.0,
    model: Annotated[
        Path,
        typer.Option("--model", "-m", metavar="FILE", help="A GGUF file; 'demo' is the one that ships with Woolly."),
    ] = Path("demo"),
) -> None:
    """See it work: everything on loopback with the model that ships with Woolly, one streamed job, and its metrics.

    Ports 8080 (API) and 5555 (Flower) are taken if they are free. Nothing is kept.

    [dim]woolly demo --once "What is the capital of France?"[/dim]
    """
    from woolly_api.cli.cluster_log import ClusterLog
    from woolly_api.cli.running import running
    from woolly_api.programs import Cluster, choose_port

    path = model_path(model)
    check_text(prompt, "the prompt")
    drain_seconds, api_grace_seconds = grace_seconds(path)
    forget_unknown_settings()
    with tempfile.TemporaryDirectory(prefix="woolly-demo-") as folder, Progress() as progress:
        cluster = Cluster(
            model=path,
            state_dir=Path(folder),
            api_host="127.0.0.1",
            api_port=choose_port(API_PORT, exact=False),
            flower_port=choose_port(FLOWER_PORT, exact=False),
            redis_url=None,
            redis_port=choose_port(0, exact=True),
            drain_seconds=drain_seconds,
            api_grace_seconds=api_grace_seconds,
        )
        log = ClusterLog(progress, Path(folder) / "woolly.log")
        try:
            with running(cluster, log, progress) as supervisor:
                addresses = f"\nAPI     {cluster.api_url}/docs\nFlower  {cluster.flower_url}"
                if once:  # afterwards they lead nowhere
                    print(addresses, flush=True)
                # The job has a thread of its own, because the children must be watched by this one.
                job = DemoJob(cluster, prompt, max_tokens, temperature)
                job.start()
                supervisor.run(until=lambda: not job.is_alive())
                if job.is_alive():
                    raise typer.Exit(130)
                if job.failure is not None:
                    raise job.failure
                if not once:
                    print(addresses)
                    print("\nCtrl-C stops. Until then, for example: " + another_job(cluster), flush=True)
                    supervisor.run()
        finally:
            log.close()


def another_job(cluster: "Cluster") -> str:
    """A command to try, as it can be typed here: `make demo` works where the environment is not on PATH."""
    program = "woolly"
    if shutil.which(program) is None:
        program = os.path.relpath(Path(sys.executable).with_name(program))
    api = "" if cluster.api_port == API_PORT else f" --api {cluster.api_url}"
    return f'{program} submit --watch "Once upon a time"{api}'


class DemoJob(threading.Thread):
    """One job, the way any client would do it: over HTTP, streamed. `failure` says what went wrong, if anything."""

    def __init__(self, cluster: "Cluster", prompt: str, max_tokens: int, temperature: float) -> None:
        super().__init__(name="demo-job", daemon=True)
        self._cluster = cluster
        self._prompt = prompt
        self._max_tokens = max_tokens
        self._temperature = temperature
        self.failure: Exception | None = None

    def run(self) -> None:
        try:
            self._run()
        except (Failure, WoollyError, BrokenPipeError) as error:
            self.failure = error

    def _run(self) -> None:
        from woolly_api.cli.jobs import follow
        from woolly_api.client import WoollyClient
        from woolly_worker.contract.jobs import ChatMessage, JobRequest, SamplingParams

        with WoollyClient(self._cluster.api_url) as client:
            model = next(model for model in client.models() if model.workers)
            content: dict[str, Any] = {"prompt": self._prompt}
            if model.woolly.get("chat"):
                content = {"messages": (ChatMessage(role="user", content=self._prompt),)}
            sampling = SamplingParams(max_tokens=self._max_tokens, temperature=self._temperature)
            view = client.submit(JobRequest(model=model.id, sampling=sampling, **content))
            say(f"job {view.id}, model {model.id}")
            print(f"\n> {self._prompt}\n", flush=True)
            done = follow(client, view.id, end_line=True)
            print()
            show_metrics(done.usage.model_dump(), done.metrics.model_dump())


def show_metrics(*groups: dict[str, Any]) -> None:
    """Every number that was measured, by its name in the API."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for group in groups:
        for name, value in group.items():
            if value is not None:
                table.add_row(name, f"{value:,.4g}" if isinstance(value, float) else f"{value:,}")
    Console(soft_wrap=True, highlight=False).print(table)


def worker_options(
    name: str | None,
    n_ctx: int | None,
    slots: int | None,
    threads: int | None,
    kv_dtype: str | None,
    optimized: bool | None,
) -> tuple[str, ...]:
    given = {"--name": name, "--ctx": n_ctx, "--slots": slots, "--threads": threads, "--kv": kv_dtype}
    words = tuple(word for option, value in given.items() if value is not None for word in (option, str(value)))
    if optimized is None:
        return words
    return (*words, "--use-optimized-inference" if optimized else "--baseline")


def grace_seconds(
    model: Path, name: str | None = None, n_ctx: int | None = None, slots: int | None = None, threads: int | None = None
) -> tuple[float, float]:
    """How long the worker and the API, which read the same environment, let running work end. Raises Failure."""
    from pydantic import ValidationError

    from woolly_api.settings import ApiSettings
    from woolly_worker.settings import WorkerSettings

    given: dict[str, Any] = {"model": model, "model_name": name, "n_ctx": n_ctx, "slots": slots}
    given["threads"] = threads or 1  # their default takes long to find out, and is not asked for here
    try:
        worker = WorkerSettings(**{key: value for key, value in given.items() if value is not None})
    except ValidationError as error:
        raise settings_failure(error, WorkerSettings) from error
    try:
        api = ApiSettings()
    except ValidationError as error:
        raise settings_failure(error, ApiSettings) from error
    return worker.drain_seconds, float(api.shutdown_grace_seconds)
