"""Typed views over the tensors of a mapped file: every one the architecture names is there, with the expected shape
and a type the kernels read.

Matrices stay in the file; only vectors (norms, a few KB) are converted to f32. A tensor nobody would read is an error:
it belongs to a variant of the architecture whose output would be wrong without it.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from woolly_worker.contract.errors import ModelFileError, UnsupportedQuantization
from woolly_worker.gguf.reader import GGUFFile, TensorInfo, errors_naming
from woolly_worker.gguf.types import SUPPORTED_TYPES, GGMLType
from woolly_worker.model.architectures import ARCHITECTURES
from woolly_worker.model.architectures.description import MatrixSpec, VectorSpec
from woolly_worker.model.config import ModelConfig

Vector = npt.NDArray[np.float32]

# Left by old converters; the same numbers follow from the config.
_REDUNDANT_SUFFIXES = (".attn_rot_embd.weight", ".attention.rotary_emb.inv_freq")


@dataclass(frozen=True, slots=True)
class Matrix:
    """A matrix inside the mapped file, row by row. Valid while the file is open.

    n_experts  matrices of this shape lie here one after the other, `n_bytes` in all; `address` is that of the first
    """

    name: str
    type: GGMLType
    n_rows: int
    n_cols: int
    address: int
    row_bytes: int
    n_bytes: int
    n_experts: int = 1

    def expert(self, number: int) -> "Matrix":
        n_bytes = self.n_rows * self.row_bytes
        return replace(self, address=self.address + number * n_bytes, n_bytes=n_bytes, n_experts=1)


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """`ffn_router` is there where the three matrices behind it are those of several experts."""

    attn_norm: Vector
    attn_q: Matrix
    attn_k: Matrix
    attn_v: Matrix
    attn_output: Matrix
    ffn_norm: Vector
    ffn_gate: Matrix
    ffn_up: Matrix
    ffn_down: Matrix
    ffn_router: Matrix | None = None

    def matrices(self) -> tuple[Matrix, ...]:
        router = () if self.ffn_router is None else (self.ffn_router,)
        return (
            self.attn_q,
            self.attn_k,
            self.attn_v,
            self.attn_output,
            *router,
            self.ffn_gate,
            self.ffn_up,
            self.ffn_down,
        )

    def products_per_token(self, n_expert_used: int) -> int:
        """Multiply-adds of one token with these matrices; it meets `n_expert_used` of several experts."""
        return sum(m.n_rows * m.n_cols * (n_expert_used if m.n_experts > 1 else 1) for m in self.matrices())


@dataclass(frozen=True, slots=True)
class Weights:
    """`output` is `token_embd` itself when the model ties the two; `rope_freqs` divides the rope frequencies."""

    token_embd: Matrix
    layers: tuple[LayerWeights, ...]
    output_norm: Vector
    output: Matrix
    rope_freqs: Vector | None
    file: GGUFFile


def open_model(path: Path | str) -> tuple[ModelConfig, Weights]:
    """Open, check and describe a model file. The caller closes `weights.file`."""
    file = GGUFFile(path)
    try:
        config = ModelConfig.from_gguf(file)
        return config, load_weights(file, config)
    except BaseException:
        file.close()
        raise


def load_weights(
    file: GGUFFile, config: ModelConfig, supported_types: frozenset[GGMLType] = SUPPORTED_TYPES
) -> Weights:
    """Raises ModelFileError for a missing, surplus or misshapen tensor, UnsupportedQuantization for its type."""
    architecture = ARCHITECTURES[config.architecture]
    loader = _Loader(file, config, supported_types)
    with errors_naming(file.path):
        whole = loader.load(architecture.model_tensors)
        tensors = architecture.expert_tensors if config.n_expert else architecture.layer_tensors
        layers = [LayerWeights(**loader.load(tensors, layer)) for layer in range(config.n_layer)]
        loader.refuse_unread()
    return Weights(layers=tuple(layers), file=file, **whole)


class _Loader:
    def __init__(self, file: GGUFFile, config: ModelConfig, supported_types: frozenset[GGMLType]) -> None:
        self.file = file
        self.config = config
        self.supported_types = supported_types
        self.read: set[str] = set()

    def load(self, specs: tuple[MatrixSpec | VectorSpec, ...], layer: int | None = None) -> dict[str, Any]:
        """The tensors of `specs` by field name."""
        loaded: dict[str, Any] = {}
        for spec in specs:
            name = spec.name.format(i=layer)
            if name not in self.file.tensors:
                if isinstance(spec, MatrixSpec) and spec.tied_to is not None:
                    loaded[spec.field] = loaded[spec.tied_to]
                    continue
                if isinstance(spec, VectorSpec) and not spec.required:
                    loaded[spec.field] = None
                    continue
                raise ModelFileError(f"the tensor '{name}' is missing")
            self.read.add(name)
            info = self.file.tensors[name]
            loaded[spec.field] = self._matrix(info, spec) if isinstance(spec, MatrixSpec) else self._vector(info, spec)
        return loaded

    def refuse_unread(self) -> None:
        surplus = sorted(name for name in set(self.file.tensors) - self.read if not name.endswith(_REDUNDANT_SUFFIXES))
        if surplus:
            raise ModelFileError(
                f"{len(surplus)} tensors have no place in a {self.config.architecture} model "
                f"of {self.config.n_layer} layers as Woolly computes it, the first is '{surplus[0]}'"
            )

    def _matrix(self, info: TensorInfo, spec: MatrixSpec) -> Matrix:
        n_rows: int = getattr(self.config, spec.rows)
        n_cols: int = getattr(self.config, spec.cols)
        self._check(info, (n_cols, n_rows, self.config.n_expert) if spec.stacked else (n_cols, n_rows))
        return Matrix(
            name=info.name,
            type=info.type,
            n_rows=n_rows,
            n_cols=n_cols,
            address=self.file.tensor_address(info.name),
            row_bytes=info.type.row_bytes(n_cols),
            n_bytes=info.n_bytes,
            n_experts=self.config.n_expert if spec.stacked else 1,
        )

    def _vector(self, info: TensorInfo, spec: VectorSpec) -> Vector:
        self._check(info, (getattr(self.config, spec.size),))
        raw = self.file.tensor_bytes(info.name)
        if info.type is GGMLType.F32:
            return raw.view(np.float32).copy()
        if info.type is GGMLType.F16:
            return raw.view(np.float16).astype(np.float32)
        if info.type is GGMLType.BF16:
            return (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        raise UnsupportedQuantization(f"the vector '{info.name}' is {info.type.name}; supported are F32, F16 and BF16")

    def _check(self, info: TensorInfo, expected: tuple[int, ...]) -> None:
        # Trailing dimensions of 1 say nothing; some writers add them.
        shape = info.shape
        while len(shape) > len(expected) and shape[-1] == 1:
            shape = shape[:-1]
        if shape != expected:
            raise ModelFileError(
                f"the tensor '{info.name}' has the shape {info.shape}, expected is {expected} "
                f"(columns first), from the sizes in the metadata"
            )
        if info.type not in self.supported_types:
            known = ", ".join(kind.name for kind in sorted(self.supported_types))
            raise UnsupportedQuantization(f"the tensor '{info.name}' is {info.type.name}; supported are {known}")
