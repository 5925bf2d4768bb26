"""`woolly generate`: one completion in this process. No queue, no server: the text alone on standard output."""

import secrets
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import typer

from woolly_api.cli.common import ALONE_PANEL, Failure, check_chat_options, messages_of, read_prompt, say
from woolly_api.cli.environment import forget_unknown_settings
from woolly_api.cli.options import (
    Chat,
    FrequencyPenalty,
    IgnoreEos,
    KVDtype,
    LogitBias,
    MaxTokens,
    MinP,
    ModelFile,
    NCtx,
    Optimized,
    PresencePenalty,
    Prompt,
    RepetitionPenalty,
    Seed,
    Stop,
    System,
    Temperature,
    Threads,
    TopK,
    TopP,
    baseline_setting,
    model_path,
    sampling_params,
    settings_failure,
)
from woolly_api.cli.progress import Progress
from woolly_worker.contract.jobs import MAX_SEED, JobRequest, SamplingParams

if TYPE_CHECKING:
    from pathlib import Path

    from woolly_worker.engine.events import EngineEvent, SequenceDone, SequenceFailed
    from woolly_worker.queue.loading import LoadedModel


def register(app: typer.Typer) -> None:
    app.command(rich_help_panel=ALONE_PANEL)(generate)


def generate(
    prompt: Prompt,
    model: ModelFile,
    chat: Chat = False,
    system: System = None,
    n_ctx: NCtx = None,
    threads: Threads = None,
    kv_dtype: KVDtype = None,
    optimized: Optimized = None,
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
) -> None:
    """Continue a prompt, in this process: the text goes to standard output as it comes, all else to standard error.

    [dim]woolly generate -m model.gguf "Once upon a time" --temperature 0 --max-tokens 64[/dim]
    [dim]woolly generate -m model.gguf --chat "What is 2 + 3?" > answer.txt[/dim]
    """
    check_chat_options(chat, system)
    path = model_path(model)
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
    content: dict[str, Any] = {"messages": tuple(messages_of(text, system))} if chat else {"prompt": text}
    with Progress() as progress:
        printer = Printer(progress)
        loaded = _load(path, n_ctx, threads, kv_dtype, optimized, printer)
        try:
            _run(loaded, JobRequest(model=loaded.name, sampling=sampling, **content), printer)
        finally:
            loaded.close()


class Printer:
    """Takes the engine's events: prints text as it comes, shows what takes long, and keeps the ending."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._endings: list[SequenceDone | SequenceFailed] = []
        self.broken: BrokenPipeError | None = None  # whoever read the text has enough of it

    @property
    def ending(self) -> "SequenceDone | SequenceFailed | None":
        return self._endings[0] if self._endings else None

    def remark(self, text: str) -> None:
        self._progress.line(f"woolly: {text}")

    def on_stage(self, stage: str, share: float | None) -> None:
        self._progress.update(f"{stage} ..." if share is None else f"{stage} {share:.0%}", topic=stage)

    def on_events(self, events: "Sequence[EngineEvent]") -> None:
        from woolly_worker.engine.events import PrefillProgress, SequenceDone, SequenceFailed, TokenOut

        for event in events:
            if isinstance(event, PrefillProgress):
                self.on_stage("reading the prompt", event.n_done / event.n_total)
                continue
            if isinstance(event, TokenOut | SequenceDone):
                self._progress.done()
                self._print(event.text)
            if isinstance(event, SequenceDone | SequenceFailed):
                self._endings.append(event)

    def _print(self, text: str) -> None:
        """The engine takes no exception from here: it would make up for the event instead of ending."""
        if self.broken is not None:
            return
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except BrokenPipeError as error:
            self.broken = error


def _run(loaded: "LoadedModel", request: JobRequest, printer: Printer) -> None:
    from woolly_worker.engine.events import EngineRequest, SequenceFailed
    from woolly_worker.queue.prompts import prompt_ids

    seed = request.sampling.seed if request.sampling.seed is not None else secrets.randbelow(MAX_SEED + 1)
    ids = prompt_ids(request, loaded.tokenizer, loaded.chat, created_at=time.time())
    sampling = request.sampling.model_copy(update={"seed": seed})
    loaded.engine.submit(EngineRequest(job_id="generate", fence=1, prompt_ids=ids, sampling=sampling))
    while (ending := printer.ending) is None:
        loaded.engine.step()
        if printer.broken is not None:
            raise printer.broken
    if sys.stdout.isatty():
        print()
    if isinstance(ending, SequenceFailed):
        raise Failure(ending.error.message)
    if sys.stderr.isatty():
        say(_summary(ending, seed, sampling))


def _load(
    path: "Path",
    n_ctx: int | None,
    threads: int | None,
    kv_dtype: str | None,
    optimized: bool | None,
    printer: Printer,
) -> "LoadedModel":
    from pydantic import ValidationError

    from woolly_worker.queue.loading import load_model
    from woolly_worker.settings import WorkerSettings

    given: dict[str, Any] = {"model": path, "n_ctx": n_ctx, "threads": threads, "kv_dtype": kv_dtype, "slots": 1}
    given["baseline"] = baseline_setting(optimized)
    try:
        settings = WorkerSettings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        raise settings_failure(error, WorkerSettings) from error
    forget_unknown_settings()
    return load_model(settings, printer.on_events, printer.on_stage, printer.remark)


def _summary(ending: "SequenceDone", seed: int, sampling: SamplingParams) -> str:
    usage = ending.usage
    rate = ending.metrics.decode_tokens_per_second
    parts = [f"{usage.prompt_tokens} + {usage.completion_tokens} tokens", f"ended by {ending.finish_reason}"]
    if rate is not None:
        parts.append(f"{rate:,.1f} tokens/s")
    if sampling.temperature > 0:
        parts.append(f"seed {seed}")
    return ", ".join(parts)
