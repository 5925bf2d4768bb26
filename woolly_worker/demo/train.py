"""Train the demo model on the generated corpus, on a CPU: `python -m woolly_worker.demo.train --out FILE`.

Needs PyTorch, which Woolly itself does not. With the same seed, steps, PyTorch and machine the same file comes out.
An interrupted run leaves its last checkpoint (FILE.checkpoint), which `woolly_worker.demo.export` turns into a GGUF.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from woolly_worker.demo.checkpoint import save_checkpoint
from woolly_worker.demo.corpus import copying_documents, documents
from woolly_worker.demo.export import export_checkpoint
from woolly_worker.demo.model import Parameters, Shape, forward, initial_parameters, rope_table
from woolly_worker.demo.packing import batches
from woolly_worker.demo.vocabulary import CONTROL_TOKENS, train_vocabulary

N_VOCAB = 2048
N_VOCABULARY_DOCUMENTS = 20_000
# (rows, tokens) of a step. Copying comes first, in small steps. Then short rows, which are cheaper; the last part of
# the run teaches the full context length.
COPYING_STEPS, COPYING_ROWS = 250, (8, 192)
SHORT_ROWS = (8, 320)
LONG_ROWS, LONG_SHARE = (5, 512), 0.12
WARMUP_STEPS = 100
MATRIX_RATE, VECTOR_RATE = 0.01, 3e-3
REPORT_EVERY, SAVE_EVERY = 50, 250
VALIDATION_SEED_OFFSET = 1_000_003


def rate(step: int, n_steps: int) -> float:
    """Linear warm-up, then a cosine down to a hundredth."""
    if step < WARMUP_STEPS:
        return (step + 1) / WARMUP_STEPS
    done = (step - WARMUP_STEPS) / max(1, n_steps - WARMUP_STEPS)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done))


def loss_of(p: Parameters, inputs: Tensor, targets: Tensor, documents: Tensor, shape: Shape, table: Tensor) -> Tensor:
    """Mean cross-entropy over what the model should say; products in bfloat16, sums in float32."""
    with torch.autocast("cpu", torch.bfloat16):
        logits = forward(p, inputs, documents, shape, table)
    return functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten())


def optimizers(p: Parameters) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for the embedding and the norms."""
    matrices = [value for name, value in p.items() if name.startswith("blk.") and value.dim() == 2]
    others = [value for name, value in p.items() if not (name.startswith("blk.") and value.dim() == 2)]
    muon = torch.optim.Muon(matrices, lr=MATRIX_RATE, weight_decay=0.02, momentum=0.95)
    return [muon, torch.optim.AdamW(others, lr=VECTOR_RATE, betas=(0.9, 0.98), weight_decay=0.0)]


def texts_for_vocabulary(seed: int) -> Iterable[str]:
    for document in islice(documents(seed), N_VOCABULARY_DOCUMENTS):
        for piece in document:
            text = piece.text
            for token in CONTROL_TOKENS:
                text = text.replace(token, "\n")
            yield text.strip()


def train(out: Path, *, seed: int, n_steps: int, n_threads: int, shape: Shape | None = None) -> None:
    torch.set_num_threads(n_threads)
    torch.manual_seed(seed)
    shape = shape or Shape(n_vocab=N_VOCAB)
    vocabulary = train_vocabulary(texts_for_vocabulary(seed), shape.n_vocab)
    tokenizer = vocabulary.tokenizer()
    p, table = initial_parameters(shape, seed), rope_table(shape, shape.n_ctx)
    opts = optimizers(p)
    full_rates = [opt.param_groups[0]["lr"] for opt in opts]
    step_loss = torch.compile(loss_of, dynamic=False)
    corpus = documents(seed + 1)
    copying = batches(copying_documents(seed + 2), tokenizer, *COPYING_ROWS)
    short, long = batches(corpus, tokenizer, *SHORT_ROWS), batches(corpus, tokenizer, *LONG_ROWS)
    checked = batches(documents(seed + VALIDATION_SEED_OFFSET), tokenizer, *SHORT_ROWS)
    checks = [tuple(torch.from_numpy(x) for x in batch) for batch in islice(checked, 4)]
    checkpoint = out.with_name(out.name + ".checkpoint")
    print(f"{shape.n_params:,} parameters, {n_steps} steps, {n_threads} threads", flush=True)

    began, n_tokens, recent = time.monotonic(), 0, 0.0
    for step in range(n_steps):
        rows = copying if step < COPYING_STEPS else long if step >= n_steps * (1 - LONG_SHARE) else short
        inputs, targets, numbers = (torch.from_numpy(x) for x in next(rows))
        loss = step_loss(p, inputs, targets, numbers, shape, table)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(p.values()), 1.0)
        for opt, full in zip(opts, full_rates, strict=True):
            for group in opt.param_groups:
                group["lr"] = full * rate(step, n_steps)
            opt.step()
            opt.zero_grad(set_to_none=True)
        n_tokens += inputs.numel()
        recent += loss.item()
        if (step + 1) % REPORT_EVERY == 0:
            seconds = time.monotonic() - began
            print(
                f"step {step + 1} loss {recent / REPORT_EVERY:.4f} tokens {n_tokens:,} "
                f"seconds {seconds:.0f} tokens/s {n_tokens / seconds:.0f}",
                flush=True,
            )
            recent = 0.0
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == n_steps:
            with torch.no_grad():
                validation = sum(step_loss(p, *batch, shape, table).item() for batch in checks) / len(checks)
            print(f"step {step + 1} validation loss {validation:.4f}", flush=True)
            save_checkpoint(checkpoint, p, shape, vocabulary)
    export_checkpoint(checkpoint, out)
    print(f"wrote {out}, {out.stat().st_size:,} bytes", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the GGUF file to write")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=2600)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    train(options.out, seed=options.seed, n_steps=options.steps, n_threads=options.threads)


if __name__ == "__main__":
    main()
