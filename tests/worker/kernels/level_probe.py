"""Run as a program: computes with every kernel that is asked for and prints a digest of the bits, with the CPU level.

    python level_probe.py FORMAT ... | halves | FILE.gguf ...

`WOOLLY_CPU` in the environment decides what it is compiled for. Two levels agree when they print the same digests.
"""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import verb_kernels
from kernel_memory import Region
from quant_blocks import columns_to_try
from step_harness import Bench
from test_matmul import Product
from test_simd_conversion import ALL_HALVES, floats_to_try

from woolly_worker.kernels.cpu import CPU
from woolly_worker.kernels.formats.registry import FORMATS
from woolly_worker.memory.kv_cache import KVType

KEYS_AND_VALUES: tuple[KVType, ...] = ("f16", "q8_0", "q4_0")


def digest(*arrays: np.ndarray) -> str:
    total = hashlib.sha256()
    for array in arrays:
        total.update(array.tobytes())
    return total.hexdigest()


def of_format(name: str) -> str:
    """Row dots, panels with every tile size, many tokens, and the rows as floats."""
    products = [Product(name, 37, columns_to_try(FORMATS[name])[-1], n) for n in (1, 7, 15, 47)]
    results = [result for product in products for result in (product.one_by_one(), product.at_once())]
    numbers = Region(np.zeros(products[0].n_cols), np.float32)
    for row in products[0].rows:
        FORMATS[name].dequantize(Region(row, np.uint8).address, products[0].n_cols, numbers.address)
        results.append(numbers.values)
    return digest(*results)


def of_halves() -> str:
    """Conversions both ways. NaN stays NaN, but which one is left open: they are made equal first."""
    wide = Region(np.zeros((2, 65536)), np.float32)
    verb_kernels.halves_to_floats(Region(ALL_HALVES, np.uint16).address, 65536, wide.address)
    values = floats_to_try()
    narrow = Region(np.zeros((2, len(values))), np.float16)
    verb_kernels.floats_to_halves(Region(values, np.float32).address, len(values), narrow.address)
    results = [wide.values, narrow.values]
    return digest(*(np.where(np.isnan(x), x.dtype.type(np.nan), x) for x in results))


def of_model(path: Path) -> str:
    """Logits of a prompt in one step, of decoding, and of a chunk beside another sequence, with keys and values as
    floats, as bytes and as nibbles."""
    logits = []
    for dtype in KEYS_AND_VALUES:
        with Bench(path, kv_dtype=dtype) as bench:
            ids = np.random.default_rng(0).integers(0, bench.config.n_vocab, 50).tolist()
            mixed = bench.run([ids, ids[:20]], [[(0, 9), (1, 3)], [(1, 1), (0, 30)], [(0, 1)], [(1, 16), (0, 10)]])
            logits += [bench.logits(ids), bench.logits(ids[:10], 1), *mixed]
    return digest(*logits)


def probe(wanted: str) -> str:
    if wanted == "halves":
        return of_halves()
    return of_format(wanted) if wanted in FORMATS else of_model(Path(wanted))


if __name__ == "__main__":
    print(json.dumps({"level": CPU.level, "digests": {wanted: probe(wanted) for wanted in sys.argv[1:]}}))
