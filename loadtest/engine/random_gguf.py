"""Write a GGUF with random weights in a real model's shape, for speed comparisons and load tests.

The numbers mean nothing, but they are finite, deterministic (`--seed`) and scaled so that activations stay near unit
size; llama.cpp loads the file too. A usable tokenizer is inside: a generated SentencePiece-like vocabulary of letter
groups, or that of another GGUF (`--vocab`). Tensors are streamed to disk in pieces, so a 7B file needs little memory.

    python loadtest/engine/random_gguf.py OUT.gguf 1b Q4_K_M

It does not train, quantise or convert anything.
"""

import argparse
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice, product
from pathlib import Path
from string import ascii_lowercase, digits, printable

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

from woolly_worker.gguf.reader import GGUFFile

PIECE_BYTES = 16 << 20  # how much of a tensor is made at a time
SPACE = "\u2581"  # SentencePiece's mark for a blank


@dataclass(frozen=True)
class Shape:
    n_embd: int
    n_layer: int
    n_head: int
    n_head_kv: int
    n_ff: int  # of one expert, where there are several
    n_ctx: int
    n_expert: int = 0  # 0: one dense network
    n_expert_used: int = 0


SHAPES = {
    "15m": Shape(288, 6, 6, 6, 768, 256),  # llama2.c stories15M
    "160m": Shape(768, 12, 12, 12, 3072, 2048),  # JackFram/llama-160m
    "1b": Shape(2048, 22, 32, 4, 5632, 4096),  # TinyLlama 1.1B
    "3b": Shape(3072, 28, 24, 8, 8192, 8192),  # Llama 3.2 3B
    "7b": Shape(4096, 32, 32, 32, 11008, 4096),  # Llama 2 7B
    "8b": Shape(4096, 32, 32, 8, 14336, 8192),  # Llama 3 8B
    "moe": Shape(2048, 16, 16, 4, 1024, 4096, n_expert=8, n_expert_used=2),  # small, in Mixtral's shape
}


@dataclass(frozen=True)
class Quant:
    """The mix of tensor types: `more` is for the matrices that llama-quantize gives more bits, see `tensors_of`.

    Where llama-quantize has more than two types for the layers (Q3_K_M, Q2_K), the most frequent two stand here.
    """

    base: Type
    more: Type
    output: Type
    file_type: gguf.LlamaFileType
    embedding: Type | None = None  # None: as `base`


def plain(base: Type, output: Type, file_type: gguf.LlamaFileType) -> Quant:
    """All layers alike."""
    return Quant(base, base, output, file_type)


Mostly = gguf.LlamaFileType
QUANTS = {
    "F16": plain(Type.F16, Type.F16, Mostly.MOSTLY_F16),
    "BF16": plain(Type.BF16, Type.BF16, Mostly.MOSTLY_BF16),
    "Q8_0": plain(Type.Q8_0, Type.Q8_0, Mostly.MOSTLY_Q8_0),
    "Q5_0": plain(Type.Q5_0, Type.Q6_K, Mostly.MOSTLY_Q5_0),
    "Q5_1": plain(Type.Q5_1, Type.Q6_K, Mostly.MOSTLY_Q5_1),
    "Q4_0": plain(Type.Q4_0, Type.Q6_K, Mostly.MOSTLY_Q4_0),
    "Q4_1": plain(Type.Q4_1, Type.Q6_K, Mostly.MOSTLY_Q4_1),
    "IQ4_NL": plain(Type.IQ4_NL, Type.Q6_K, Mostly.MOSTLY_IQ4_NL),
    "MXFP4": plain(Type.MXFP4, Type.Q8_0, Mostly.MOSTLY_MXFP4_MOE),
    "Q6_K": plain(Type.Q6_K, Type.Q6_K, Mostly.MOSTLY_Q6_K),
    "Q5_K_M": Quant(Type.Q5_K, Type.Q6_K, Type.Q6_K, Mostly.MOSTLY_Q5_K_M),
    "Q4_K_M": Quant(Type.Q4_K, Type.Q6_K, Type.Q6_K, Mostly.MOSTLY_Q4_K_M),
    "Q3_K_M": Quant(Type.Q3_K, Type.Q4_K, Type.Q6_K, Mostly.MOSTLY_Q3_K_M),
    "Q2_K": Quant(Type.Q2_K, Type.Q3_K, Type.Q6_K, Mostly.MOSTLY_Q2_K),
    "IQ4_XS": plain(Type.IQ4_XS, Type.Q6_K, Mostly.MOSTLY_IQ4_XS),
    "TQ2_0": Quant(Type.TQ2_0, Type.TQ2_0, Type.Q6_K, Mostly.MOSTLY_TQ2_0, embedding=Type.Q4_K),
    "TQ1_0": plain(Type.TQ1_0, Type.Q6_K, Mostly.MOSTLY_TQ1_0),
    # llama-quantize gives the embedding and some matrices of every layer more bits; here all have the name's type.
    "IQ3_S": plain(Type.IQ3_S, Type.Q6_K, Mostly.MOSTLY_IQ3_S),
    "IQ3_XXS": plain(Type.IQ3_XXS, Type.Q6_K, Mostly.MOSTLY_IQ3_XXS),
    "IQ2_S": plain(Type.IQ2_S, Type.Q6_K, Mostly.MOSTLY_IQ2_S),
    "IQ2_XS": plain(Type.IQ2_XS, Type.Q6_K, Mostly.MOSTLY_IQ2_XS),
    "IQ2_XXS": plain(Type.IQ2_XXS, Type.Q6_K, Mostly.MOSTLY_IQ2_XXS),
    "IQ1_M": plain(Type.IQ1_M, Type.Q6_K, Mostly.MOSTLY_IQ1_M),
    "IQ1_S": plain(Type.IQ1_S, Type.Q6_K, Mostly.MOSTLY_IQ1_S),
}


@dataclass(frozen=True)
class BlockLayout:
    """Where a random quant block keeps its f16 scales. All other bytes are uniform random.

    unit_std   the standard deviation of a weight when d = 1, of uniform integers: computed with gguf's dequantisation
    m_at       where the second f16 lies, and
    m_ratio    what it is for d = 1, so that weights have the mean 0: `- m` in K-quants, `+ m` in Q4_1 and Q5_1
    e8m0       the scale is one byte instead, an exponent: d = 2 ** (byte - 128)
    ternary    two bits are 0, 1 or 2, never 3
    d_in_nibbles  four bits of d, the lowest first, in the high nibble of every second byte from d_at on
    """

    d_at: int
    unit_std: float
    m_at: int | None = None
    m_ratio: float = 0.0
    e8m0: bool = False
    ternary: bool = False
    d_in_nibbles: bool = False


LAYOUTS = {
    Type.Q8_0: BlockLayout(d_at=0, unit_std=73.9),
    Type.Q5_0: BlockLayout(d_at=0, unit_std=9.25),
    Type.Q5_1: BlockLayout(d_at=0, unit_std=9.23, m_at=2, m_ratio=-15.5),
    Type.Q4_0: BlockLayout(d_at=0, unit_std=4.64),
    Type.Q4_1: BlockLayout(d_at=0, unit_std=4.61, m_at=2, m_ratio=-7.5),
    Type.IQ4_NL: BlockLayout(d_at=0, unit_std=67.2),
    Type.MXFP4: BlockLayout(d_at=0, unit_std=5.85, e8m0=True),
    Type.Q6_K: BlockLayout(d_at=208, unit_std=73.9 * 18.48),
    Type.Q5_K: BlockLayout(d_at=0, unit_std=528.0, m_at=2, m_ratio=15.5),
    Type.Q4_K: BlockLayout(d_at=0, unit_std=258.0, m_at=2, m_ratio=7.5),
    Type.Q3_K: BlockLayout(d_at=108, unit_std=43.3),
    Type.Q2_K: BlockLayout(d_at=80, unit_std=13.9, m_at=82, m_ratio=1.5),
    Type.IQ4_XS: BlockLayout(d_at=0, unit_std=1246.0),
    Type.TQ2_0: BlockLayout(d_at=64, unit_std=0.707, ternary=True),
    Type.IQ3_S: BlockLayout(d_at=0, unit_std=140.2),
    Type.IQ3_XXS: BlockLayout(d_at=0, unit_std=142.4),
    Type.IQ2_S: BlockLayout(d_at=0, unit_std=56.4),
    Type.IQ2_XS: BlockLayout(d_at=0, unit_std=55.9),
    Type.IQ2_XXS: BlockLayout(d_at=0, unit_std=53.4),
    Type.IQ1_M: BlockLayout(d_at=49, unit_std=7.2, d_in_nibbles=True),
    Type.IQ1_S: BlockLayout(d_at=0, unit_std=7.2),
    Type.TQ1_0: BlockLayout(d_at=52, unit_std=0.82),
}


@dataclass(frozen=True)
class Tensor:
    name: str
    shape: tuple[int, ...]  # rows first, as NumPy has it
    type: Type

    @property
    def n_bytes(self) -> int:
        block, block_bytes = gguf.GGML_QUANT_SIZES[self.type]
        return int(np.prod(self.shape)) // block * block_bytes


def tensors_of(shape: Shape, quant: Quant, n_vocab: int) -> Iterator[Tensor]:
    """Every tensor of the model, in file order."""

    def matrix(name: str, rows: int, cols: int, kind: Type) -> Tensor:
        # Rows that are no multiple of the block fall back to a smaller block, as in llama-quantize.
        for candidate in (kind, Type.Q8_0, Type.F16):
            if cols % gguf.GGML_QUANT_SIZES[candidate][0] == 0:
                return Tensor(name, (rows, cols), candidate)
        raise AssertionError(name)

    def network(name: str, rows: int, cols: int, kind: Type) -> Tensor:
        """A matrix of the feed-forward network, or those of all experts, one after the other."""
        if not shape.n_expert:
            return matrix(f"{name}.weight", rows, cols, kind)
        one = matrix(f"{name}_exps.weight", rows, cols, kind)
        return Tensor(one.name, (shape.n_expert, *one.shape), one.type)

    def vector(name: str) -> Tensor:
        return Tensor(name, (shape.n_embd,), Type.F32)

    n_layer, kv_width = shape.n_layer, shape.n_embd // shape.n_head * shape.n_head_kv
    yield matrix("token_embd.weight", n_vocab, shape.n_embd, quant.embedding or quant.base)
    for i in range(n_layer):
        # llama-quantize's rule for the _M mixes: first and last eighth, and every third layer between.
        more = i < n_layer // 8 or i >= 7 * n_layer // 8 or (i - n_layer // 8) % 3 == 2
        kind = quant.more if more else quant.base
        layer = f"blk.{i}."
        yield vector(layer + "attn_norm.weight")
        yield matrix(layer + "attn_q.weight", shape.n_embd, shape.n_embd, quant.base)
        yield matrix(layer + "attn_k.weight", kv_width, shape.n_embd, quant.base)
        yield matrix(layer + "attn_v.weight", kv_width, shape.n_embd, kind)
        yield matrix(layer + "attn_output.weight", shape.n_embd, shape.n_embd, quant.base)
        yield vector(layer + "ffn_norm.weight")
        if shape.n_expert:
            yield Tensor(layer + "ffn_gate_inp.weight", (shape.n_expert, shape.n_embd), Type.F32)
        yield network(layer + "ffn_gate", shape.n_ff, shape.n_embd, quant.base)
        yield network(layer + "ffn_up", shape.n_ff, shape.n_embd, quant.base)
        yield network(layer + "ffn_down", shape.n_embd, shape.n_ff, kind)
    yield vector("output_norm.weight")
    yield matrix("output.weight", n_vocab, shape.n_embd, quant.output)


def tensor_pieces(rng: np.random.Generator, tensor: Tensor) -> Iterator[bytes]:
    """The tensor's bytes, some MiB at a time. Weights have the variance 1 / columns; norms are one."""
    if len(tensor.shape) == 1:
        yield np.ones(tensor.shape, np.float32).tobytes()
        return
    std = tensor.shape[-1] ** -0.5
    _, block_bytes = gguf.GGML_QUANT_SIZES[tensor.type]
    left = tensor.n_bytes // block_bytes
    while left:
        n_blocks = min(left, PIECE_BYTES // block_bytes)
        left -= n_blocks
        if tensor.type in (Type.F32, Type.F16, Type.BF16):
            yield random_floats(rng, tensor.type, n_blocks, std)
        else:
            yield random_blocks(rng, LAYOUTS[tensor.type], n_blocks, block_bytes, std)


def random_floats(rng: np.random.Generator, kind: Type, n: int, std: float) -> bytes:
    values = rng.standard_normal(n, np.float32) * np.float32(std)
    if kind is Type.BF16:
        return (values.view(np.uint32) >> 16).astype("<u2").tobytes()
    return values.astype("<f4" if kind is Type.F32 else "<f2").tobytes()


def random_blocks(rng: np.random.Generator, layout: BlockLayout, n_blocks: int, block_bytes: int, std: float) -> bytes:
    blocks = np.frombuffer(bytearray(rng.bytes(n_blocks * block_bytes)), np.uint8).reshape(n_blocks, block_bytes)
    if layout.ternary:
        q = blocks[:, : layout.d_at]
        q ^= (q & (q >> 1) & 0x55) << 1  # 3 becomes 1
    if layout.e8m0:
        blocks[:, layout.d_at] = 128 + round(math.log2(std / layout.unit_std))
        return blocks.tobytes()
    d = (0.5 + rng.random(n_blocks, np.float32)) * np.float32(std / layout.unit_std)
    if layout.d_in_nibbles:
        nibbles = (d.astype("<f2").view("<u2")[:, None] >> np.array([0, 4, 8, 12], "<u2")) & 15
        places = blocks[:, layout.d_at : layout.d_at + 8 : 2]
        places[:] = (places & 15) | (nibbles << 4).astype(np.uint8)
    else:
        blocks[:, layout.d_at : layout.d_at + 2] = halves(d)
    if layout.m_at is not None:
        blocks[:, layout.m_at : layout.m_at + 2] = halves(d * np.float32(layout.m_ratio))
    return blocks.tobytes()


def halves(values: np.ndarray) -> np.ndarray:
    """(n,) floats as (n, 2) bytes of f16."""
    return values.astype("<f2").view(np.uint8).reshape(len(values), 2)


def generated_pieces(n_vocab: int) -> list[str]:
    """Single characters, then groups of two, three and four letters with and without a blank before them."""
    letters = ascii_lowercase
    singles = [SPACE, *(c for c in printable if c not in " \t\n\r\x0b\x0c")]
    groups = chain(
        (SPACE + c for c in letters + letters.upper() + digits),
        ("".join(pair) for pair in product(letters, repeat=2)),
        (SPACE + "".join(pair) for pair in product(letters, repeat=2)),
        ("".join(three) for three in product(letters, repeat=3)),
        (SPACE + "".join(three) for three in product(letters, repeat=3)),
        ("".join(four) for four in product(letters, repeat=4)),
    )
    pieces = [*singles, *islice(groups, n_vocab - len(singles))]
    if len(pieces) != n_vocab:
        raise SystemExit(f"n_vocab must be {259 + len(singles)} to {259 + len(pieces)}")
    return pieces


def add_generated_vocab(writer: gguf.GGUFWriter, n_vocab: int) -> int:
    kinds = gguf.TokenType
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    types = [kinds.UNKNOWN, kinds.CONTROL, kinds.CONTROL, *[kinds.BYTE] * 256]
    pieces = generated_pieces(n_vocab - len(tokens))
    scores = [0.0] * len(tokens) + [-float(rank) for rank in range(len(pieces))]
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens + pieces)
    writer.add_token_scores(scores)
    writer.add_token_types([*types, *[kinds.NORMAL] * len(pieces)])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    return n_vocab


def copy_vocab(writer: gguf.GGUFWriter, path: Path) -> int:
    with GGUFFile(path) as source:
        for key, value in source.metadata.items():
            if not key.startswith("tokenizer."):
                continue
            if isinstance(value, np.ndarray):
                writer.add_array(key, value.tolist())
            elif isinstance(value, list):
                writer.add_array(key, value)
            elif isinstance(value, bool):
                writer.add_bool(key, value)
            elif isinstance(value, int):
                writer.add_uint32(key, value)
            elif isinstance(value, float):
                writer.add_float32(key, value)
            else:
                writer.add_string(key, value)
        return len(source.metadata.strings("tokenizer.ggml.tokens"))


def write(
    out: Path,
    shape_name: str,
    quant_name: str,
    *,
    n_vocab: int = 32000,
    n_layer: int | None = None,
    vocab: Path | None = None,
    seed: int = 66,
) -> None:
    """Write the file beside its name and rename it, so that `out` is whole whenever it exists."""
    shape, quant = SHAPES[shape_name], QUANTS[quant_name]
    if n_layer is not None:
        shape = replace(shape, n_layer=n_layer)
    part = out.with_name(out.name + ".part")
    writer = gguf.GGUFWriter(part, "llama")
    writer.add_name(f"random-{shape_name}-{quant_name}")
    writer.add_file_type(quant.file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(shape.n_ctx)
    writer.add_embedding_length(shape.n_embd)
    writer.add_block_count(shape.n_layer)
    writer.add_feed_forward_length(shape.n_ff)
    writer.add_head_count(shape.n_head)
    writer.add_head_count_kv(shape.n_head_kv)
    if shape.n_expert:
        writer.add_expert_count(shape.n_expert)
        writer.add_expert_used_count(shape.n_expert_used)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(shape.n_embd // shape.n_head)
    writer.add_rope_freq_base(10000.0)
    n_vocab = copy_vocab(writer, vocab) if vocab else add_generated_vocab(writer, n_vocab)
    writer.add_vocab_size(n_vocab)
    tensors = list(tensors_of(shape, quant, n_vocab))
    for tensor in tensors:
        writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), tensor.n_bytes, tensor.type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    rng = np.random.default_rng(seed)
    file = writer.fout[0]
    for tensor in tensors:
        writer.write_padding(file, file.tell())
        for piece in tensor_pieces(rng, tensor):
            file.write(piece)
    writer.write_padding(file, file.tell())
    writer.close()
    os.replace(part, out)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a GGUF with random weights in a real model's shape.")
    parser.add_argument("out", type=Path)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("quant", choices=QUANTS)
    parser.add_argument("--vocab", type=Path, help="a GGUF whose tokenizer to copy")
    parser.add_argument("--n-vocab", type=int, default=32000, help="size of the generated vocabulary")
    parser.add_argument("--layers", type=int, help="fewer or more layers than the shape has")
    parser.add_argument("--seed", type=int, default=66)
    args = parser.parse_args()
    write(
        args.out,
        args.shape,
        args.quant,
        n_vocab=args.n_vocab,
        n_layer=args.layers,
        vocab=args.vocab,
        seed=args.seed,
    )
    print(f"{args.out}: {args.out.stat().st_size / 1e6:,.1f} MB")


if __name__ == "__main__":
    main()
