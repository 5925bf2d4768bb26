"""Options that several commands take, and their way into the contract's types. Help texts of sampling parameters are
those of the contract."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from woolly_api.cli.common import Failure
from woolly_api.cli.environment import variables_of
from woolly_worker.contract.jobs import SamplingParams

DEFAULT_API_URL = "http://127.0.0.1:8080"

ModelFile = Annotated[
    Path,
    typer.Option(
        "--model",
        "-m",
        metavar="FILE",
        help="The model, a GGUF file; 'demo' is the one that ships with Woolly.",
        show_default=False,
    ),
]
ApiUrl = Annotated[str, typer.Option("--api", envvar="WOOLLY_API_URL", metavar="URL", help="Where the API listens.")]
Chat = Annotated[bool, typer.Option("--chat", help="Put the prompt through the model's own chat template.")]
System = Annotated[str | None, typer.Option("--system", metavar="TEXT", help="With --chat: the system message.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Prompt = Annotated[str, typer.Argument(metavar="PROMPT", help="The prompt; - reads it from standard input.")]


RedisUrl = Annotated[
    str | None,
    typer.Option(
        "--redis", envvar="WOOLLY_REDIS_URL", metavar="URL", help="Redis or Valkey >= 6.2.", show_default=False
    ),
]
NCtx = Annotated[int | None, typer.Option("--ctx", "-c", min=1, metavar="N", help="Tokens per sequence.")]
Slots = Annotated[int | None, typer.Option("--slots", min=1, metavar="N", help="Sequences that run together.")]
Threads = Annotated[int | None, typer.Option("--threads", min=1, metavar="N", help="CPU threads of the engine.")]
KVDtype = Annotated[
    Literal["f16", "f32", "q8_0", "q4_0"] | None,
    typer.Option("--kv", help="How keys and values are stored; the shorter, the less exact.", show_default=False),
]
Optimized = Annotated[
    bool | None,
    typer.Option(
        "--use-optimized-inference/--baseline",
        help="Compute with the kernels, or with the naive loops that they are measured against.",
        show_default=False,
    ),
]
LogFormat = Annotated[
    Literal["console", "json"] | None,
    typer.Option(
        "--log-format", help="How it logs; json: each line of standard error is an object.", show_default=False
    ),
]
LogFormatOfAll = Annotated[
    Literal["console", "json"] | None,
    typer.Option(
        "--log-format", help="How all of them log; json: each line of standard error is an object.", show_default=False
    ),
]
ModelName = Annotated[
    str | None, typer.Option("--name", metavar="NAME", help="The model's name for clients; default: from the file.")
]


def model_path(model: Path) -> Path:
    """The file, or for `demo` the one that ships with Woolly. Fails at once when there is none: see the error."""
    if str(model) == "demo" and not model.exists():
        from woolly_worker.demo import DEMO_MODEL

        model = DEMO_MODEL
    if not model.is_file():
        raise Failure(f"no model file {model}" if not model.exists() else f"{model} is not a file", 2)
    return model


def baseline_setting(optimized: bool | None) -> bool | None:
    """None when nothing was said: then the environment decides."""
    return None if optimized is None else not optimized


def _help(name: str) -> str:
    text = SamplingParams.model_fields[name].description
    assert text is not None
    return text[0].upper() + text[1:] + "."


_PANEL: dict[str, Any] = {"rich_help_panel": "Sampling", "show_default": False}

MaxTokens = Annotated[
    int | None,
    typer.Option(
        "--max-tokens",
        "-n",
        min=1,
        metavar="N",
        help="The most tokens to generate; default: up to the context.",
        **_PANEL,
    ),
]
Temperature = Annotated[
    float | None,
    typer.Option("--temperature", "-t", min=0, max=10, metavar="X", help="0 is greedy; default 1.", **_PANEL),
]
TopK = Annotated[int | None, typer.Option("--top-k", min=0, metavar="N", help=_help("top_k"), **_PANEL)]
TopP = Annotated[float | None, typer.Option("--top-p", metavar="X", help=_help("top_p"), **_PANEL)]
MinP = Annotated[float | None, typer.Option("--min-p", min=0, max=1, metavar="X", help=_help("min_p"), **_PANEL)]
RepetitionPenalty = Annotated[
    float | None, typer.Option("--repetition-penalty", metavar="X", help=_help("repetition_penalty"), **_PANEL)
]
PresencePenalty = Annotated[
    float | None,
    typer.Option("--presence-penalty", min=-2, max=2, metavar="X", help=_help("presence_penalty"), **_PANEL),
]
FrequencyPenalty = Annotated[
    float | None,
    typer.Option("--frequency-penalty", min=-2, max=2, metavar="X", help=_help("frequency_penalty"), **_PANEL),
]
LogitBias = Annotated[
    list[str] | None,
    typer.Option("--logit-bias", metavar="TOKEN_ID=X", help="Added to a token's logit; may be repeated.", **_PANEL),
]
Seed = Annotated[int | None, typer.Option("--seed", min=0, metavar="N", help="Same seed, same text.", **_PANEL)]
Stop = Annotated[
    list[str] | None, typer.Option("--stop", metavar="TEXT", help="End before this text; may be repeated.", **_PANEL)
]
IgnoreEos = Annotated[
    bool, typer.Option("--ignore-eos", help="Go on where the model would end, to --max-tokens.", **_PANEL)
]


def sampling_params(*, logit_bias: list[str] | None, stop: list[str] | None, **given: Any) -> SamplingParams:
    """What was given on the command line, checked by the contract itself; the rest keeps the contract's defaults."""
    from pydantic import ValidationError

    values: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if stop:
        values["stop"] = tuple(stop)
    if logit_bias:
        values["logit_bias"] = dict(_bias(item) for item in logit_bias)
    try:
        return SamplingParams(**values)
    except ValidationError as error:
        first = error.errors()[0]
        option = "--" + str(first["loc"][0]).replace("_", "-")
        raise Failure(f"{option}: {first['msg']}", 2) from error


def _bias(item: str) -> tuple[int, float]:
    token_id, separator, bias = item.partition("=")
    try:
        if separator:
            return int(token_id), float(bias)
    except ValueError:
        pass
    raise Failure(f"--logit-bias: '{item}' is not of the form TOKEN_ID=X", 2)


def check_redis_url(url: str) -> None:
    from woolly_worker.ledger.connection import connect

    try:
        connect(url).close()  # connects to nothing yet
    except ValueError as error:
        raise Failure(f"WOOLLY_REDIS_URL: {error}", 2) from error


def settings_failure(error: Any, settings_class: Any) -> Failure:
    """pydantic's first complaint, naming the environment variable."""
    first = error.errors()[0]
    if not first["loc"]:  # about several that do not fit together
        return Failure(first["msg"].removeprefix("Value error, "), 2)
    field = str(first["loc"][0])  # or the variable itself
    return Failure(f"{variables_of(settings_class).get(field, field)}: {first['msg']}", 2)
