"""What each type of keys and values costs in perplexity.

    python loadtest/engine/kv_perplexity.py TEXT.txt MODEL.gguf [MODEL.gguf ...]

Perplexity as llama.cpp's tool defines it: the text's ids in chunks of n_ctx, each run alone behind a BOS; the second
half of a chunk is scored, every position predicting the next id. All types score the same positions, so their
difference is far more exact than either number: beside it stands the standard error of the mean of the paired
differences. KL is the mean divergence from the distributions with f32 keys and values, in thousandths of a nat; `same`
counts positions whose most likely token stays the same.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from woolly_worker.memory.kv_cache import KVCache, KVType, blocks_for
from woolly_worker.model.tokenizer import Tokenizer
from woolly_worker.model.transformer import Transformer, kv_layout
from woolly_worker.model.weights import open_model

TYPES: tuple[KVType, ...] = ("f32", "f16", "q8_0", "q4_0")
Doubles = npt.NDArray[np.float64]


def chunks(ids: list[int], n_ctx: int, bos: int, n_most: int) -> list[list[int]]:
    starts = range(0, len(ids) - n_ctx + 1, n_ctx)[:n_most]
    return [[bos, *ids[start + 1 : start + n_ctx]] for start in starts]


def log_probabilities(path: Path, dtype: KVType, texts: list[list[int]], n_threads: int) -> Iterator[Doubles]:
    """(n_ctx / 2 - 1, n_vocab) for every chunk: of the scored positions."""
    n_ctx = len(texts[0])
    config, weights = open_model(path)
    kv = KVCache(kv_layout(config, dtype), blocks_for(n_ctx))
    scored = np.arange(n_ctx // 2, n_ctx - 1)
    transformer = Transformer(
        config,
        weights,
        kv,
        n_threads=n_threads,
        max_step_tokens=n_ctx,
        max_logit_rows=len(scored),
        max_slots=1,
        n_ctx=n_ctx,
    )
    batch = transformer.batch
    batch.block_tables[0] = np.arange(kv.n_blocks)
    for ids in texts:
        batch.n_tokens, batch.n_logit_rows = n_ctx, len(scored)
        batch.token_ids[:], batch.positions[:], batch.slots[:] = ids, np.arange(n_ctx), 0
        batch.logit_rows[:] = scored
        logits = transformer.step().astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        yield logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    transformer.close()
    weights.file.close()


def compare(path: Path, text: str, n_ctx: int, n_chunks: int, n_threads: int) -> None:
    _, weights = open_model(path)
    tokenizer = Tokenizer.from_gguf(weights.file)
    assert tokenizer.bos_id is not None, "the definition wants a BOS"
    texts = chunks(tokenizer.encode(text), n_ctx, tokenizer.bos_id, n_chunks)
    if not texts:
        raise SystemExit(f"the text has fewer than {n_ctx} tokens")
    targets = np.concatenate([ids[n_ctx // 2 + 1 :] for ids in texts])
    weights.file.close()
    exact = np.concatenate(list(log_probabilities(path, TYPES[0], texts, n_threads)))
    row = np.arange(len(targets))
    for dtype in TYPES:
        got = np.concatenate(list(log_probabilities(path, dtype, texts, n_threads)))
        loss, difference = -got[row, targets], exact[row, targets] - got[row, targets]
        error = difference.std() / np.sqrt(len(difference))
        divergence = (np.exp(exact) * (exact - got)).sum(axis=1).mean()
        same = (exact.argmax(axis=1) == got.argmax(axis=1)).mean()
        print(
            f"| {path.stem} | {n_ctx} | {dtype} | {np.exp(loss.mean()):.4f} "
            f"| {np.expm1(difference.mean()):+.3%} +- {error:.3%} | {1000 * divergence:.3f} | {same:.2%} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--n-ctx", type=int, default=256)
    parser.add_argument("--chunks", type=int, default=200, help="at most so many")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    text = options.text.read_text()
    print("| model | n_ctx | KV | perplexity | against f32 | KL / 1000 | same |\n|---|---|---|---|---|---|---|")
    for path in options.models:
        compare(path, text, options.n_ctx, options.chunks, options.threads)


if __name__ == "__main__":
    main()
