"""ModelConfig: the sizes and constants of a model, read from GGUF metadata.

Tensors are not looked at here, apart from counting parameters; `model/weights.py` compares them with this. Values the
engine could not honour are refused by name, never ignored.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from woolly_worker.contract.errors import ModelFileError, UnsupportedArchitecture
from woolly_worker.gguf.metadata import Metadata
from woolly_worker.gguf.reader import GGUFFile, TensorInfo, errors_naming
from woolly_worker.gguf.types import FILE_TYPE_NAMES
from woolly_worker.model.architectures import ARCHITECTURES
from woolly_worker.model.architectures.description import Architecture

_MAX_SIZE = 2**31 - 1  # any dimension of a model; kernels count in 32-bit integers
_ROPE_SCALING_TYPES = ("none", "linear", "yarn")


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """How positions are rotated. The meaning of the yarn fields is that of llama.cpp's `rope_yarn`:

    factor  context extension; angles of linear scaling are divided by it (1 for "none")
    attn_factor  multiplies sin and cos, before yarn's own 1 + 0.1 ln(factor)
    ext_factor  share of yarn's extrapolation: 1 for "yarn", 0 otherwise
    """

    freq_base: float
    dimension_count: int
    scaling_type: str
    factor: float
    original_context_length: int
    attn_factor: float
    beta_fast: float
    beta_slow: float
    ext_factor: float
    neox: bool


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Names as in llama.cpp.

    n_ff           of one expert, where there are several
    n_expert       0 for a dense model
    n_expert_used  experts that compute a token; 0 for a dense model
    n_ctx_train    the context the model was trained for, not the one it runs with
    """

    architecture: str
    name: str
    n_layer: int
    n_embd: int
    n_head: int
    n_head_kv: int
    head_dim: int
    n_ff: int
    n_expert: int
    n_expert_used: int
    n_vocab: int
    n_ctx_train: int
    rms_eps: float
    rope: RopeConfig
    file_type: str
    n_params: int

    @property
    def q_width(self) -> int:
        return self.n_head * self.head_dim

    @property
    def kv_width(self) -> int:
        return self.n_head_kv * self.head_dim

    @property
    def rope_pairs(self) -> int:
        return self.rope.dimension_count // 2

    @classmethod
    def from_gguf(cls, file: GGUFFile) -> "ModelConfig":
        """Raises UnsupportedArchitecture or ModelFileError, naming the key and the numbers that disagree."""
        with errors_naming(file.path):
            return cls._read(file)

    @classmethod
    def _read(cls, file: GGUFFile) -> "ModelConfig":
        metadata = file.metadata
        architecture = find_architecture(metadata)
        keys = _Keys(metadata, architecture.name)
        for key, meaning in architecture.refused_keys:
            keys.refuse(key, meaning)
        n_embd = keys.size("embedding_length")
        n_head = keys.per_layer_size("attention.head_count")
        n_head_kv = keys.per_layer_size("attention.head_count_kv", n_head)
        if n_head % n_head_kv:
            raise ModelFileError(f"{n_head} attention heads cannot share {n_head_kv} key/value heads evenly")
        head_dim = keys.head_dim(n_embd, n_head)
        n_ctx_train = keys.size("context_length")
        n_expert, n_expert_used = keys.experts(architecture)
        return cls(
            architecture=architecture.name,
            name=metadata.text("general.name", file.path.stem),
            n_layer=keys.size("block_count"),
            n_embd=n_embd,
            n_head=n_head,
            n_head_kv=n_head_kv,
            head_dim=head_dim,
            n_ff=keys.per_layer_size("feed_forward_length"),
            n_expert=n_expert,
            n_expert_used=n_expert_used,
            n_vocab=keys.n_vocab(),
            n_ctx_train=n_ctx_train,
            rms_eps=keys.positive("attention.layer_norm_rms_epsilon"),
            rope=_rope(keys, architecture, head_dim, n_ctx_train),
            file_type=_file_type(metadata, file.tensors),
            n_params=sum(tensor.n_elements for tensor in file.tensors.values()),
        )


def find_architecture(metadata: Metadata) -> Architecture:
    name = metadata.text("general.architecture")
    if name not in ARCHITECTURES:
        known = ", ".join(sorted(ARCHITECTURES))
        raise UnsupportedArchitecture(f"the architecture '{name[:80]}' is not supported; supported: {known}")
    return ARCHITECTURES[name]


class _Keys:
    """The metadata below `<architecture>.`, with the checks that every size shares."""

    def __init__(self, metadata: Metadata, prefix: str) -> None:
        self.metadata = metadata
        self.prefix = prefix

    def full(self, key: str) -> str:
        return f"{self.prefix}.{key}"

    def has(self, key: str) -> bool:
        return self.full(key) in self.metadata

    def refuse(self, key: str, meaning: str) -> None:
        if self.has(key) and self.metadata.integer(self.full(key)) != 0:
            raise UnsupportedArchitecture(
                f"'{self.full(key)}' is {self.metadata.integer(self.full(key))}: "
                f"{self.prefix} with {meaning} is not supported, only without"
            )

    def size(self, key: str, default: int | None = None) -> int:
        value = self.metadata.integer(self.full(key), default)
        return self._in_range(key, value)

    def per_layer_size(self, key: str, default: int | None = None) -> int:
        """A size that some writers give once per layer: accepted as long as all layers agree."""
        value: Any = self.metadata.get(self.full(key))
        if not isinstance(value, np.ndarray):
            return self.size(key, default)
        values = {int(number) for number in self.metadata.numbers(self.full(key))}
        if len(values) != 1:
            raise UnsupportedArchitecture(
                f"'{self.full(key)}' differs between layers ({len(values)} values); supported is one for all layers"
            )
        return self._in_range(key, values.pop())

    def _in_range(self, key: str, value: int) -> int:
        if not 1 <= value <= _MAX_SIZE:
            raise ModelFileError(f"'{self.full(key)}' is {value:,}, it must be 1 to {_MAX_SIZE:,}")
        return value

    def positive(self, key: str, default: float | None = None) -> float:
        value = self.metadata.number(self.full(key), default)
        if not (math.isfinite(value) and value > 0):
            raise ModelFileError(f"'{self.full(key)}' is {value}, it must be a positive number")
        return value

    def head_dim(self, n_embd: int, n_head: int) -> int:
        if not self.has("attention.key_length") and n_embd % n_head:
            raise ModelFileError(f"{n_embd} embedding dimensions cannot be divided among {n_head} attention heads")
        default = n_embd // n_head if n_embd % n_head == 0 else None
        head_dim = self.size("attention.key_length", default)
        value_length = self.size("attention.value_length", head_dim)
        if value_length != head_dim:
            raise UnsupportedArchitecture(
                f"keys have {head_dim} dimensions and values {value_length}; supported are equal ones"
            )
        if head_dim % 2:
            raise ModelFileError(f"attention heads have {head_dim} dimensions, rotary positions need an even number")
        return head_dim

    def experts(self, architecture: Architecture) -> tuple[int, int]:
        """How many there are, and how many of them compute a token. A count of 0 says the same as none."""
        if not architecture.expert_tensors:
            self.refuse("expert_count", "a mixture of experts")
        if self.metadata.integer(self.full("expert_count"), 0) == 0:
            return 0, 0
        n_expert, n_used = self.size("expert_count"), self.size("expert_used_count")
        if n_used > n_expert:
            raise ModelFileError(f"a token is to be computed by {n_used:,} experts, and there are {n_expert:,}")
        return n_expert, n_used

    def n_vocab(self) -> int:
        """The vocabulary is what counts; `vocab_size` stands in where a file carries no tokenizer."""
        if "tokenizer.ggml.tokens" in self.metadata:
            n_vocab = len(self.metadata.strings("tokenizer.ggml.tokens"))
            if n_vocab == 0:
                raise ModelFileError("'tokenizer.ggml.tokens' is empty")
            return n_vocab
        return self.size("vocab_size")


def _rope(keys: _Keys, architecture: Architecture, head_dim: int, n_ctx_train: int) -> RopeConfig:
    dimension_count = keys.size("rope.dimension_count", head_dim)
    if dimension_count != head_dim:
        raise UnsupportedArchitecture(
            f"'{keys.full('rope.dimension_count')}' is {dimension_count}, the heads have {head_dim} dimensions; "
            f"{architecture.name} rotates all of them"
        )
    # llama.cpp's default is "linear", which with a factor of 1 is none; 0 stands for "not scaled" in old files.
    factor_key = "rope.scale_linear" if keys.has("rope.scale_linear") else "rope.scaling.factor"
    if keys.has("rope.scaling.factor"):
        factor_key = "rope.scaling.factor"
    factor = keys.metadata.number(keys.full(factor_key), 1.0)
    factor = keys.positive(factor_key, 1.0) if factor != 0 else 1.0
    scaling_type = keys.metadata.text(keys.full("rope.scaling.type"), "linear")
    if scaling_type not in _ROPE_SCALING_TYPES:
        raise UnsupportedArchitecture(
            f"the rope scaling '{scaling_type[:80]}' is not supported; supported: {', '.join(_ROPE_SCALING_TYPES)}"
        )
    if scaling_type == "none" or (scaling_type == "linear" and factor == 1.0):
        scaling_type, factor = "none", 1.0
    return RopeConfig(
        freq_base=keys.positive("rope.freq_base", 10000.0),
        dimension_count=dimension_count,
        scaling_type=scaling_type,
        factor=factor,
        original_context_length=keys.size("rope.scaling.original_context_length", n_ctx_train),
        attn_factor=keys.positive("rope.scaling.attn_factor", 1.0),
        beta_fast=keys.positive("rope.scaling.yarn_beta_fast", 32.0),
        beta_slow=keys.positive("rope.scaling.yarn_beta_slow", 1.0),
        ext_factor=keys.positive("rope.scaling.yarn_ext_factor", 1.0) if scaling_type == "yarn" else 0.0,
        neox=architecture.rope_neox,
    )


def _file_type(metadata: Metadata, tensors: Mapping[str, TensorInfo]) -> str:
    """What the writer says, else the type that most bytes of the file have."""
    if "general.file_type" in metadata:
        number = metadata.integer("general.file_type")
        return FILE_TYPE_NAMES.get(number, f"type {number}")
    n_bytes: dict[str, int] = {}
    for tensor in tensors.values():
        n_bytes[tensor.type.name] = n_bytes.get(tensor.type.name, 0) + tensor.n_bytes
    return max(n_bytes, key=lambda kind: n_bytes[kind]) if n_bytes else "no tensors"
