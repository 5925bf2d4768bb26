"""What a person types: `woolly demo`, `woolly up`, `woolly generate` and the others.

This file assembles the commands and turns every expected failure into one line on standard error. A command imports
what it needs when it is called: `woolly --help` loads neither Numba nor a web framework.

Exit codes: 0 done; 1 it failed (no server, a job that failed); 2 the caller can fix it (a wrong option, a missing or
broken model file); 130 interrupted; 141 nobody reads the text any more.
"""

import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from woolly_api.cli import bench, cluster, generate, inspect, jobs, serve, timeline
from woolly_api.cli.common import Failure, say
from woolly_worker.contract.errors import ModelFileError, RequestError, WoollyError

EXIT_NOBODY_READS = 141  # as a shell says of a program that SIGPIPE ended


class Commands(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        """`woolly ... | head` is a quiet end."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError as error:
            # What is still buffered goes nowhere, or Python would complain of it at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(EXIT_NOBODY_READS) from error
        return result


app = typer.Typer(
    name="woolly",
    cls=Commands,
    help="Run GGUF language models on CPUs, as a queue of jobs.",
    epilog="Start with: woolly demo",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"woolly {version('woolly')}")
        raise typer.Exit


@app.callback()
def woolly(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


cluster.register(app)
serve.register(app)
generate.register(app)
inspect.register(app)
bench.register(app)
jobs.register(app)
timeline.register(app)


def main() -> None:
    """The entry point: every expected failure is one line on standard error, without a traceback."""
    try:
        app(prog_name="woolly")
    except Failure as failure:
        say(str(failure))
        sys.exit(failure.exit_code)
    except WoollyError as error:
        say(error.message)
        sys.exit(2 if isinstance(error, RequestError | ModelFileError) else 1)
