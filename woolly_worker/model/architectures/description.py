"""What one needs to say about an architecture: its name in GGUF, its rope order, and which tensors it has.

Shapes are given by the names of the config's fields, so a description is data and reads as a table. The forward pass
is not described here.
"""

from dataclasses import dataclass
from typing import Literal

Size = Literal["n_embd", "n_vocab", "n_ff", "q_width", "kv_width", "rope_pairs", "n_expert"]
"""The name of a ModelConfig attribute that is a tensor's dimension."""


@dataclass(frozen=True, slots=True)
class MatrixSpec:
    """A weight matrix of `rows` x `cols`, kept in the file. `{i}` in the name stands for the layer."""

    field: str
    name: str
    rows: Size
    cols: Size
    tied_to: str | None = None  # the field whose tensor is used when the file has none of this name
    stacked: bool = False  # one matrix for each expert, one after the other in one tensor


@dataclass(frozen=True, slots=True)
class VectorSpec:
    """A vector of `size` numbers, converted to f32 at load."""

    field: str
    name: str
    size: Size
    required: bool = True


@dataclass(frozen=True, slots=True)
class Architecture:
    """One family of models.

    expert_tensors  what a layer of a mixture of experts has instead of `layer_tensors`; empty: there are no mixtures
    refused_keys    metadata keys whose presence means a variant that is not supported
    """

    name: str
    rope_neox: bool  # rotate (x[i], x[i + d/2]) instead of (x[2i], x[2i + 1])
    model_tensors: tuple[MatrixSpec | VectorSpec, ...]
    layer_tensors: tuple[MatrixSpec | VectorSpec, ...]
    expert_tensors: tuple[MatrixSpec | VectorSpec, ...] = ()
    refused_keys: tuple[tuple[str, str], ...] = ()  # key after the architecture's name, and what it would mean
