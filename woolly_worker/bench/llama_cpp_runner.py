"""The commands of `plan.py`, run by llama.cpp through llama-cpp-python. Runs in any Python that has it, as a script:
nothing of Woolly is imported.

    python llama_cpp_runner.py MODEL.gguf --threads 2

One command as JSON per line on standard input, {"do": "prepare" or "run", "work": {...}}; for each {"steps":
[seconds, ...]} on standard output. The first line there is {"ready": version}.

llama.cpp is used as its own benchmark uses it: one call per step, physical batches of 512 tokens, default KV type and
flash attention as it chooses. Contexts are made and filled by "prepare", and kept.
"""

import argparse
import ctypes
import json
import random
import sys
import time
from typing import Any

import llama_cpp

STEP_TOKENS = 512
FIRST_TOKEN = 3
WAKE_SECONDS = 0.02

Token = tuple[int, int, bool]  # its sequence, its position, whether logits are wanted


class Context:
    """One llama.cpp context, and the batch that its steps are written into."""

    def __init__(self, model: Any, n_ctx: int, n_seq: int, n_threads: int, *, unified: bool) -> None:
        options = llama_cpp.llama_context_default_params()
        options.n_ctx = n_ctx
        options.n_batch = options.n_ubatch = STEP_TOKENS
        options.n_seq_max = n_seq
        options.n_threads = options.n_threads_batch = n_threads
        options.kv_unified = unified
        self.handle = llama_cpp.llama_init_from_model(model, options)
        if not self.handle:
            raise SystemExit(f"llama.cpp makes no context of {n_ctx} tokens")
        self.memory = llama_cpp.llama_get_memory(self.handle)
        self._batch = llama_cpp.llama_batch_init(STEP_TOKENS, 0, 1)
        self._n_vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
        self._random = random.Random(7)

    def step(self, tokens: list[Token]) -> float:
        """Seconds of one llama_decode, result included."""
        batch = self._batch
        batch.n_tokens = len(tokens)
        for i, (sequence, position, wanted) in enumerate(tokens):
            batch.token[i] = self._random.randrange(FIRST_TOKEN, self._n_vocab)
            batch.pos[i] = position
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = sequence
            batch.logits[i] = wanted
        start = time.perf_counter()
        status = llama_cpp.llama_decode(self.handle, batch)
        if status:
            raise SystemExit(f"llama_decode returned {status}")
        llama_cpp.llama_synchronize(self.handle)
        return time.perf_counter() - start

    def rewind(self, depth: int) -> None:
        """Forget everything but the first `depth` tokens of sequence 0."""
        if depth:
            llama_cpp.llama_memory_seq_rm(self.memory, 0, depth, -1)
        else:
            llama_cpp.llama_memory_clear(self.memory, False)

    def wake(self, depth: int) -> None:
        """Steps that do not count: threads that have slept need milliseconds to come."""
        self.rewind(depth)
        seconds = 0.0
        while seconds < WAKE_SECONDS:
            seconds += self.step([(0, depth, True)])
            self.rewind(depth)

    def fill(self, depth: int) -> None:
        """Give sequence 0 `depth` tokens: compute the first ones, copy them as often as needed, and move each copy to
        its place. (A prefill of 16,384 tokens would take minutes, and its time is no part of any number.)"""
        piece = min(depth, STEP_TOKENS)
        self.step([(0, position, position == piece - 1) for position in range(piece)])
        size = llama_cpp.llama_state_seq_get_size(self.handle, 0)
        state = (ctypes.c_uint8 * size)()
        llama_cpp.llama_state_seq_get_data(self.handle, state, size, 0)
        for first in range(piece, depth, piece):
            if llama_cpp.llama_state_seq_set_data(self.handle, state, size, 1) == 0:
                raise SystemExit("llama.cpp does not take its own state back")
            llama_cpp.llama_memory_seq_rm(self.memory, 1, depth - first, -1)
            llama_cpp.llama_memory_seq_add(self.memory, 1, 0, -1, first)
            llama_cpp.llama_memory_seq_cp(self.memory, 1, 0, -1, -1)
            llama_cpp.llama_memory_seq_rm(self.memory, 1, -1, -1)
        if llama_cpp.llama_memory_seq_pos_max(self.memory, 0) != depth - 1:
            raise SystemExit(f"llama.cpp's sequence does not reach {depth} tokens")
        self.wake(depth)  # carries out the moves


class Runner:
    """A context for each work, made by `prepare`, at its depth already; so that its time is part of no number."""

    def __init__(self, path: str, n_threads: int) -> None:
        self.model = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
        if not self.model:
            raise SystemExit(f"llama.cpp does not load {path}")
        self.n_threads = n_threads
        self._contexts: dict[str, Context] = {}

    def prepare(self, work: dict[str, Any]) -> list[float]:
        key = json.dumps(work, sort_keys=True)
        if key not in self._contexts:
            self._contexts[key] = self._make(work)
        return []

    def _make(self, work: dict[str, Any]) -> Context:
        if work["do"] == "prefill":
            return self._context(work["n_tokens"], 1, unified=False)
        if work["do"] == "mixed":  # sequences of very different lengths share one buffer, as in llama.cpp's server
            n_steps = -(-work["n_prompt"] // work["chunk"])
            return self._context(work["n_prompt"] + work["batch"] * n_steps, work["batch"] + 1, unified=True)
        if not work["depth"]:
            return self._context(work["batch"] * work["n_steps"], work["batch"], unified=False)
        # A copy has to find a place before it is cut and moved.
        context = self._context(work["depth"] + work["n_steps"] + STEP_TOKENS, 2, unified=True)
        context.fill(work["depth"])
        return context

    def _context(self, n_ctx: int, n_seq: int, *, unified: bool) -> Context:
        return Context(self.model, n_ctx, n_seq, self.n_threads, unified=unified)

    def run(self, work: dict[str, Any]) -> list[float]:
        """Seconds of every step."""
        self.prepare(work)
        context = self._contexts[json.dumps(work, sort_keys=True)]
        context.wake(work.get("depth", 0))
        arguments = {name: value for name, value in work.items() if name != "do"}
        steps: list[float] = getattr(self, "_" + work["do"])(context, **arguments)
        return steps

    @staticmethod
    def _prefill(context: Context, n_tokens: int) -> list[float]:
        seconds = []
        for first in range(0, n_tokens, STEP_TOKENS):
            last = min(first + STEP_TOKENS, n_tokens)
            seconds.append(context.step([(0, p, p == n_tokens - 1) for p in range(first, last)]))
        return seconds

    @staticmethod
    def _decode(context: Context, n_steps: int, batch: int, depth: int) -> list[float]:
        return [context.step([(s, depth + i, True) for s in range(batch)]) for i in range(n_steps)]

    @staticmethod
    def _mixed(context: Context, batch: int, n_prompt: int, chunk: int) -> list[float]:
        seconds = []
        for i, first in enumerate(range(0, n_prompt, chunk)):
            last = min(first + chunk, n_prompt)
            prompt = [(batch, p, p == n_prompt - 1) for p in range(first, last)]
            seconds.append(context.step(prompt + [(s, i, True) for s in range(batch)]))
        return seconds


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(quiet, None)
    runner = Runner(options.model, options.threads)
    print(json.dumps({"ready": f"llama-cpp-python {llama_cpp.__version__}"}), flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        print(json.dumps({"steps": getattr(runner, command["do"])(command["work"])}), flush=True)


if __name__ == "__main__":
    main()
