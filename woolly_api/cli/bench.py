"""`woolly bench`: how fast a model runs here, beside the machine's limits and, where it is installed, llama.cpp."""

import json
from pathlib import Path
from typing import Annotated

import typer

from woolly_api.cli.common import ALONE_PANEL, Failure, say
from woolly_api.cli.options import AsJson, ModelFile, Threads, model_path
from woolly_api.cli.progress import Progress

NONE = "none"


def register(app: typer.Typer) -> None:
    app.command(rich_help_panel=ALONE_PANEL)(bench)


def bench(
    context: typer.Context,
    model: ModelFile,
    prefill: Annotated[str, typer.Option("--prefill", metavar="N,N", help="Tokens of the prompts.")] = "128,512,2048",
    decode: Annotated[int, typer.Option("--decode", min=1, metavar="N", help="Steps of a decode.")] = 32,
    batch: Annotated[str, typer.Option("--batch", metavar="N,N", help="Sequences that decode.")] = "1,2,4,8,16",
    depth: Annotated[
        str, typer.Option("--depth", metavar="N,N", help="Tokens before a single sequence's decode.")
    ] = "0,4096,16384",
    mixed: Annotated[
        bool, typer.Option("--mixed/--no-mixed", help="8 sequences that decode while a prompt comes in.")
    ] = True,
    threads: Threads = None,
    rounds: Annotated[int, typer.Option("--rounds", min=1, metavar="N", help="Medians are over so many.")] = 5,
    peer: Annotated[bool, typer.Option("--peer/--no-peer", help="Measure llama.cpp too, if it is found.")] = True,
    peer_python: Annotated[
        str | None,
        typer.Option(
            "--peer-python",
            envvar="WOOLLY_BENCH_PEER",
            metavar="PYTHON",
            help="A Python that has llama-cpp-python; default: this one.",
            show_default=False,
        ),
    ] = None,
    peer_program: Annotated[
        Path | None,
        typer.Option(
            "--peer-program",
            metavar="FILE",
            help="llama-batched-bench of ik_llama.cpp, to be measured instead.",
            show_default=False,
        ),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE.png", help="Draw a roofline; needs matplotlib.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure the forward pass: prompts, decoding, batches and long contexts, in turns with llama.cpp.

    'none' leaves a kind of work out. Rounds take turns because machines are noisy: compare numbers of one run only.

    [dim]woolly bench -m model.gguf --prefill 512 --decode 64 --batch 1,8 --depth none --threads 2 --json[/dim]
    """
    path = model_path(model)
    source = context.get_parameter_source("peer_python")  # that of WOOLLY_BENCH_PEER may stand
    if peer_program is not None and source is not None and source.name == "COMMANDLINE":
        raise Failure("--peer-program and --peer-python name two peers, and one is measured: choose one of them", 2)
    from woolly_worker.bench.comparison import compare
    from woolly_worker.bench.peer import PeerFailed, find_peer_python
    from woolly_worker.bench.plan import make_plan
    from woolly_worker.bench.roofline import NoMatplotlib, draw, pyplot
    from woolly_worker.bench.runner import affordable
    from woolly_worker.kernels.cpu import allowed_cpus

    plan = make_plan(
        prefill=_numbers("--prefill", prefill, least=1),
        decode_steps=decode,
        batches=_numbers("--batch", batch, least=1),
        depths=_numbers("--depth", depth, least=0),
        mixed=mixed,
    )
    if plot is not None:
        try:
            pyplot()  # said before minutes of measuring, not after
        except NoMatplotlib as error:
            raise Failure(str(error), 2) from error
    with Progress() as progress:
        try:
            python = find_peer_python(peer_python) if peer and peer_program is None else None
            program = peer_program if peer else None
            kept = affordable(path, plan, with_peer=python is not None or program is not None)
            for work in plan:
                if work not in kept:
                    progress.line(f"woolly: left out, too little memory is free: {work.name}")
            if not kept:
                raise Failure("there is nothing to measure", 2)
            report = compare(
                path,
                kept,
                n_threads=threads or allowed_cpus(),
                n_rounds=rounds,
                peer_python=python,
                peer_program=program,
                progress=lambda what, share: progress.update(f"{share:4.0%}  {what}", topic="measuring"),
            )
        except PeerFailed as error:
            raise Failure(str(error)) from error
    if plot is not None:
        try:
            draw(report, plot)
        except (OSError, ValueError) as error:  # no such folder, or no such format
            say(f"no plot: {error}")
    if as_json:
        print(json.dumps(report.as_dict(), indent=1))
        return
    from rich.console import Console

    from woolly_worker.bench.report import print_report

    print_report(report, Console(soft_wrap=True, highlight=False))


def _numbers(option: str, text: str, *, least: int) -> list[int]:
    """ "128,512" -> [128, 512]; 'none' -> []."""
    if text == NONE:
        return []
    try:
        numbers = [int(word) for word in text.split(",")]
    except ValueError:
        raise Failure(f"{option}: '{text}' is not a list of numbers such as 1,8, nor 'none'", 2) from None
    if min(numbers) < least:
        raise Failure(f"{option}: {min(numbers)} is less than {least}", 2)
    return numbers
