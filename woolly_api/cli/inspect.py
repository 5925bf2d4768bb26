"""`woolly inspect FILE`: what a model file holds, and whether this version can run it. Loads nothing but the header."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from woolly_api.cli.common import ALONE_PANEL, human_bytes, printable
from woolly_api.cli.options import AsJson, model_path
from woolly_worker.contract.errors import ModelFileError

if TYPE_CHECKING:
    from woolly_worker.gguf.reader import GGUFFile


@dataclass(frozen=True, slots=True)
class TensorGroup:
    """All tensors of one type."""

    type: str
    n_tensors: int
    n_elements: int
    n_bytes: int
    supported: bool


@dataclass(frozen=True, slots=True)
class Report:
    path: str
    file_bytes: int
    gguf_version: int
    architecture: str
    file_type: str | None  # the writer's name for its mix of tensor types
    name: str
    n_params: int
    sizes: dict[str, int]
    rope_scaling: str
    tensors: list[TensorGroup]
    tokenizer: dict[str, Any]
    chat_template: bool
    kv_cache: dict[str, Any] | None
    runs: bool
    reason: str | None  # why it does not run here


def register(app: typer.Typer) -> None:
    app.command(name="inspect", rich_help_panel=ALONE_PANEL)(inspect)


def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A GGUF file.", show_default=False)],
    n_ctx: Annotated[
        int | None,
        typer.Option("--ctx", "-c", min=1, metavar="N", help="Context to plan memory for; default: the model's own."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a model file holds: sizes, tensor types, tokenizer, chat template, and the memory it needs.

    [dim]woolly inspect model.gguf --ctx 8192[/dim]
    """
    from woolly_worker.gguf.reader import GGUFFile

    gguf = GGUFFile(model_path(file))
    try:
        report = describe(gguf, n_ctx)
    finally:
        gguf.close()
    if as_json:
        print(json.dumps(asdict(report), indent=2))
    else:
        show(report)


def describe(file: "GGUFFile", n_ctx: int | None) -> Report:
    from woolly_worker.gguf.types import FILE_TYPE_NAMES

    metadata = file.metadata
    architecture = metadata.text("general.architecture", "unknown")
    sizes = _sizes(metadata, architecture)
    file_type = metadata.get("general.file_type")
    reason = why_it_does_not_run(file)
    return Report(
        path=str(file.path),
        file_bytes=file.n_bytes,
        gguf_version=file.version,
        architecture=architecture,
        file_type=FILE_TYPE_NAMES.get(file_type) if isinstance(file_type, int) else None,
        name=metadata.text("general.name", file.path.stem),
        n_params=sum(tensor.n_elements for tensor in file.tensors.values()),
        sizes=sizes,
        rope_scaling=str(metadata.get(f"{architecture}.rope.scaling.type", "none")),
        tensors=_tensor_groups(file),
        tokenizer=_tokenizer(metadata),
        chat_template="tokenizer.chat_template" in metadata,
        kv_cache=_kv_cache(sizes, n_ctx),
        runs=reason is None,
        reason=reason,
    )


def why_it_does_not_run(file: "GGUFFile") -> str | None:
    """The first obstacle, as the worker would tell it, or None. Goes the way of loading without allocating for it."""
    from woolly_worker.model.chat import ChatTemplate
    from woolly_worker.model.config import ModelConfig
    from woolly_worker.model.tokenizer import Tokenizer
    from woolly_worker.model.weights import load_weights

    try:
        load_weights(file, ModelConfig.from_gguf(file))
        ChatTemplate.from_gguf(file, Tokenizer.from_gguf(file))
    except ModelFileError as error:
        return error.message
    return None


_SIZE_KEYS = {
    "n_layer": "block_count",
    "n_embd": "embedding_length",
    "n_head": "attention.head_count",
    "n_head_kv": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "n_ff": "feed_forward_length",
    "n_ctx_train": "context_length",
    "n_expert": "expert_count",
}


def _sizes(metadata: Mapping[str, Any], architecture: str) -> dict[str, int]:
    """What the file says, also for an architecture that Woolly does not run."""
    sizes: dict[str, int] = {}
    for name, key in _SIZE_KEYS.items():
        value = metadata.get(f"{architecture}.{key}")
        if isinstance(value, int) and not isinstance(value, bool):
            sizes[name] = value
    if "n_head" in sizes:
        sizes.setdefault("n_head_kv", sizes["n_head"])
        if "head_dim" not in sizes and sizes["n_head"] > 0 and "n_embd" in sizes:
            sizes["head_dim"] = sizes["n_embd"] // sizes["n_head"]
    tokens = metadata.get("tokenizer.ggml.tokens")
    if isinstance(tokens, list):
        sizes["n_vocab"] = len(tokens)
    return sizes


def _tensor_groups(file: "GGUFFile") -> list[TensorGroup]:
    from woolly_worker.gguf.types import SUPPORTED_TYPES

    groups: dict[Any, list[Any]] = {}
    for tensor in file.tensors.values():
        groups.setdefault(tensor.type, []).append(tensor)
    rows = [
        TensorGroup(
            type=kind.name,
            n_tensors=len(members),
            n_elements=sum(tensor.n_elements for tensor in members),
            n_bytes=sum(tensor.n_bytes for tensor in members),
            supported=kind in SUPPORTED_TYPES,
        )
        for kind, members in groups.items()
    ]
    return sorted(rows, key=lambda row: -row.n_bytes)


def _tokenizer(metadata: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, key in (("model", "model"), ("pre", "pre"), ("bos_id", "bos_token_id"), ("eos_id", "eos_token_id")):
        value = metadata.get(f"tokenizer.ggml.{key}")
        if isinstance(value, str | int):
            found[name] = value
    for name in ("tokens", "merges"):
        value = metadata.get(f"tokenizer.ggml.{name}")
        if isinstance(value, list):
            found[f"n_{name}"] = len(value)
    return found


def _kv_cache(sizes: Mapping[str, int], n_ctx: int | None) -> dict[str, Any] | None:
    """Bytes of keys and values for one sequence that fills the context, in whole KV blocks as the worker counts."""
    from woolly_worker.memory.kv_cache import KV_TYPES, KVLayout, blocks_for, padded_head_dim

    n_ctx = n_ctx or sizes.get("n_ctx_train")
    if n_ctx is None or not {"n_layer", "n_head_kv", "head_dim"} <= sizes.keys():
        return None
    n_bytes = {}
    for dtype in KV_TYPES:
        padded = padded_head_dim(sizes["head_dim"], dtype)
        layout = KVLayout(sizes["n_layer"], sizes["n_head_kv"], padded, dtype)
        n_bytes[f"bytes_{dtype}"] = blocks_for(n_ctx) * layout.block_bytes
    return {"n_ctx": n_ctx, **n_bytes}


def show(report: Report) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    facts = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    tokenizer = ", ".join(f"{name} {printable(str(value))}" for name, value in report.tokenizer.items())
    rows = {
        "file": f"{report.path} ({human_bytes(report.file_bytes)}, GGUF v{report.gguf_version})",
        "name": report.name,
        "architecture": report.architecture + (f", {report.file_type}" if report.file_type else ""),
        "parameters": f"{report.n_params:,}",
        "sizes": ", ".join(f"{name} {value:,}" for name, value in report.sizes.items()),
        "rope scaling": report.rope_scaling,
        "tokenizer": tokenizer or "none",
        "chat template": "yes" if report.chat_template else "no",
    }
    if report.kv_cache:
        kv = report.kv_cache
        rows["KV cache"] = (
            ", ".join(f"{human_bytes(kv[f'bytes_{dtype}'])} as {dtype}" for dtype in ("f16", "q8_0", "q4_0", "f32"))
            + f", for one sequence of {kv['n_ctx']:,} tokens"
        )
    rows["runs here"] = "yes" if report.runs else f"no: {report.reason}"
    for name, value in rows.items():
        facts.add_row(Text(name, style="bold"), Text(printable(value)))
    console.print(facts)

    tensors = Table(box=box.SIMPLE_HEAD, title_justify="left")
    for heading in ("tensor type", "tensors", "elements", "bytes", "share", "supported"):
        tensors.add_column(heading, justify="left" if heading == "tensor type" else "right")
    total = sum(group.n_bytes for group in report.tensors) or 1
    for group in report.tensors:
        tensors.add_row(
            group.type,
            f"{group.n_tensors:,}",
            f"{group.n_elements:,}",
            human_bytes(group.n_bytes),
            f"{group.n_bytes / total:.1%}",
            "yes" if group.supported else "no",
        )
    console.print(tensors)
