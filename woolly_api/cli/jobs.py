"""`woolly submit|watch|jobs|cancel`: jobs, through a running API."""

import json
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from woolly_api.cli.common import (
    JOBS_PANEL,
    Failure,
    check_chat_options,
    connected,
    messages_of,
    printable,
    rate,
    read_prompt,
    say,
    seconds_or_ms,
)
from woolly_api.cli.options import (
    DEFAULT_API_URL,
    ApiUrl,
    AsJson,
    Chat,
    FrequencyPenalty,
    IgnoreEos,
    LogitBias,
    MaxTokens,
    MinP,
    PresencePenalty,
    Prompt,
    RepetitionPenalty,
    Seed,
    Stop,
    System,
    Temperature,
    TopK,
    TopP,
    sampling_params,
)
from woolly_worker.contract.errors import InvalidRequest
from woolly_worker.contract.events import DoneEvent, FailedEvent, TokenEvent
from woolly_worker.contract.jobs import JobMetrics, JobRequest, Usage
from woolly_worker.contract.states import JobState

if TYPE_CHECKING:
    from woolly_api.client import WoollyClient

WIDTH = 160  # of the table where there is no terminal

JobId = Annotated[str, typer.Argument(metavar="ID", help="As `woolly submit` printed it.", show_default=False)]


def register(app: typer.Typer) -> None:
    for command in (submit, watch, jobs, cancel):
        app.command(rich_help_panel=JOBS_PANEL)(command)


def submit(
    prompt: Prompt,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", metavar="NAME", help="Needed if the API serves several models.", show_default=False
        ),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Stream the text instead of printing the id.")] = False,
    chat: Chat = False,
    system: System = None,
    priority: Annotated[int, typer.Option("--priority", min=0, max=9, help="0 is served first.")] = 5,
    tenant: Annotated[str, typer.Option("--tenant", metavar="NAME", help="Tenants are served in turn.")] = "default",
    deadline: Annotated[
        float | None, typer.Option("--deadline", metavar="SECONDS", help="Past it the job ends as expired.")
    ] = None,
    metadata: Annotated[
        list[str] | None, typer.Option("--metadata", metavar="KEY=TEXT", help="Returned as given; may be repeated.")
    ] = None,
    idempotency_key: Annotated[
        str | None,
        typer.Option(
            "--idempotency-key",
            metavar="KEY",
            help="The same key again is the same job; a fresh one by default.",
            show_default=False,
        ),
    ] = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    min_p: MinP = None,
    repetition_penalty: RepetitionPenalty = None,
    presence_penalty: PresencePenalty = None,
    frequency_penalty: FrequencyPenalty = None,
    logit_bias: LogitBias = None,
    seed: Seed = None,
    stop: Stop = None,
    ignore_eos: IgnoreEos = False,
    api: ApiUrl = DEFAULT_API_URL,
) -> None:
    """Hand in a job and print its id. It will run, also if this terminal closes.

    [dim]woolly submit "Tell me a story about a fox." --max-tokens 100[/dim]
    [dim]woolly submit --chat --watch "What is 2 + 3?" --temperature 0[/dim]
    """
    check_chat_options(chat, system)
    text = read_prompt(prompt)
    sampling = sampling_params(
        max_tokens=max_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        presence_penalty=presence_penalty,
        frequency_penalty=frequency_penalty,
        logit_bias=logit_bias,
        seed=seed,
        stop=stop,
        ignore_eos=ignore_eos or None,
    )
    pairs = dict(_key_and_text(item) for item in metadata or [])
    with connected(api) as client:
        content: dict[str, Any] = {"messages": messages_of(text, system)} if chat else {"prompt": text}
        request = _request(
            model=_model(client, model),
            sampling=sampling,
            priority=priority,
            tenant=tenant,
            deadline_seconds=deadline,
            metadata=pairs,
            **content,
        )
        view = client.submit(request, idempotency_key=idempotency_key)
        if watch:
            say(f"job {view.id}")
            follow(client, view.id)
        else:
            print(view.id)


def watch(
    job_id: JobId,
    as_json: Annotated[bool, typer.Option("--json", help="Print the events, a line of JSON each.")] = False,
    api: ApiUrl = DEFAULT_API_URL,
) -> None:
    """Stream a job's text from its beginning, whether it waits, runs, or has ended. Ctrl-C leaves the job alone.

    [dim]woolly watch f4757544a109456fb4d18353bf1844ce[/dim]
    """
    with connected(api) as client:
        client.get(job_id)  # an unknown job, or no API: told at once
        follow(client, job_id, as_json=as_json)


def jobs(
    state: Annotated[
        JobState | None, typer.Option("--state", help="Only jobs in this state.", show_default=False)
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", metavar="NAME", help="Only jobs for this model.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=500, metavar="N", help="The most to show.")] = 20,
    as_json: AsJson = False,
    api: ApiUrl = DEFAULT_API_URL,
) -> None:
    """List jobs, the newest first.

    [dim]woolly jobs --state running[/dim]
    """
    with connected(api) as client:
        found = client.jobs(state=state, model=model, limit=limit)
    if as_json:
        print(json.dumps([view.model_dump(mode="json") for view in found], indent=2))
        return
    if not found:
        say("no jobs")
        return
    from rich.console import Console

    from woolly_api.cli.job_table import table_of

    console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
    console.print(table_of(found, now=time.time(), width=console.width))


def cancel(job_ids: Annotated[list[str], typer.Argument(metavar="ID...")], api: ApiUrl = DEFAULT_API_URL) -> None:
    """Cancel jobs. A waiting one ends at once, a running one within a step of its worker.

    [dim]woolly cancel f4757544a109456fb4d18353bf1844ce[/dim]
    """
    with connected(api) as client:
        for job_id in job_ids:
            view = client.cancel(job_id)
            pending = view.state in (JobState.QUEUED, JobState.RUNNING)
            print(f"{job_id} {'cancelling' if pending else view.state.value}")


def follow(client: "WoollyClient", job_id: str, *, as_json: bool = False, end_line: bool | None = None) -> DoneEvent:
    """Print the job's text as it comes, then a line about how it went. Raises Failure if it did not succeed.

    `end_line`: close the text with a newline; by default on a terminal, so that a file gets the text alone.
    """
    end_line = sys.stdout.isatty() if end_line is None else end_line
    said = ""
    for event in client.events(job_id):
        if as_json:
            print(event.model_dump_json(exclude_none=True), flush=True)
        elif isinstance(event, TokenEvent | DoneEvent):
            sys.stdout.write(event.text)
            sys.stdout.flush()
            said = event.text or said
        if isinstance(event, DoneEvent | FailedEvent):
            if end_line and not as_json and not said.endswith("\n"):
                print(flush=True)
            # A job that failed before it began has nothing to tell.
            if event.usage.completion_tokens or isinstance(event, DoneEvent):
                say(summary(event.usage, event.metrics))
            if isinstance(event, FailedEvent):
                raise Failure(f"job {job_id} {event.state.value}: {event.error.message}")
            return event
    raise Failure(f"the stream of job {job_id} ended without an end: its record is gone")


def summary(usage: Usage, metrics: JobMetrics) -> str:
    """How a job went, in a line. Only what was measured is told."""
    first, speed = metrics.time_to_first_token_seconds, metrics.decode_tokens_per_second
    parts = [
        f"{usage.prompt_tokens} + {usage.completion_tokens} tokens",
        f"first after {seconds_or_ms(first)}" if first else "",
        f"{rate(speed)} tokens/s" if speed else "",
        f"{usage.cached_tokens} from the prefix cache" if usage.cached_tokens else "",
        f"{metrics.attempts} attempts" if metrics.attempts > 1 else "",
    ]
    return ", ".join(part for part in parts if part)


def _model(client: "WoollyClient", wanted: str | None) -> str:
    """The model to ask: the one wanted, or the only one with a worker, or the only one there is."""
    models = client.models()
    served = [model for model in models if model.workers]
    if wanted is None:
        if not models:
            raise Failure("no worker has announced a model yet; start one with `woolly worker --model FILE`")
        choice = served or models
        if len(choice) > 1:
            names = ", ".join(printable(model.id) for model in choice)
            raise Failure(f"several models are served, choose with --model: {names}", 2)
        wanted = choice[0].id
    if wanted in {model.id for model in models} - {model.id for model in served}:
        say(f"no worker serves {printable(wanted)} at the moment; the job waits for one")
    return wanted


def _request(**fields: Any) -> JobRequest:
    from pydantic import ValidationError

    try:
        return JobRequest(**fields)
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidRequest(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def _key_and_text(item: str) -> tuple[str, str]:
    key, separator, text = item.partition("=")
    if not separator or not key:
        raise Failure(f"--metadata: '{printable(item)}' is not of the form KEY=TEXT", 2)
    return key, text
