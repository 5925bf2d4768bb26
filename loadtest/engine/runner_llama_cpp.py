"""The same commands as `runner_woolly.py`, run by llama.cpp through llama-cpp-python (`pip install llama-cpp-python`).

Runs in any Python that has it; nothing of Woolly is imported.
"""

import argparse
import json
import random
import statistics
import sys
import time

import llama_cpp


class Runner:
    def __init__(self, path: str, n_threads: int, n_ctx: int, max_batch: int) -> None:
        model_options = llama_cpp.llama_model_default_params()
        self.model = llama_cpp.llama_model_load_from_file(path.encode(), model_options)
        if not self.model:
            raise SystemExit(f"llama.cpp does not load {path}")
        options = llama_cpp.llama_context_default_params()
        options.n_ctx = n_ctx * max_batch
        options.n_batch = options.n_ubatch = 512
        options.n_seq_max = max_batch
        options.n_threads = options.n_threads_batch = n_threads
        self.context = llama_cpp.llama_init_from_model(self.model, options)
        self.n_vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.batch = llama_cpp.llama_batch_init(512, 0, 1)
        self.random = random.Random(7)

    def _forget(self) -> None:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), False)

    def _run(self, tokens: list[tuple[int, int, bool]]) -> None:
        """(position, sequence, whether logits are wanted) for each token."""
        self.batch.n_tokens = len(tokens)
        for i, (position, sequence, wanted) in enumerate(tokens):
            self.batch.token[i] = self.random.randrange(3, self.n_vocab)
            self.batch.pos[i] = position
            self.batch.n_seq_id[i] = 1
            self.batch.seq_id[i][0] = sequence
            self.batch.logits[i] = wanted
        status = llama_cpp.llama_decode(self.context, self.batch)
        if status:
            raise SystemExit(f"llama_decode returned {status}")
        llama_cpp.llama_get_logits(self.context)  # waits for the result

    def prefill(self, n: int) -> float:
        self._forget()
        start = time.perf_counter()
        for first in range(0, n, 512):
            last = min(first + 512, n)
            self._run([(position, 0, position == n - 1) for position in range(first, last)])
        return time.perf_counter() - start

    def decode(self, n: int, depth: int, batch: int) -> float:
        self._forget()
        for sequence in range(batch):
            for first in range(0, depth, 512):
                last = min(first + 512, depth)
                self._run([(position, sequence, position == last - 1) for position in range(first, last)])
        seconds = []
        for i in range(n):
            start = time.perf_counter()
            self._run([(depth + i, sequence, True) for sequence in range(batch)])
            seconds.append(time.perf_counter() - start)
        return statistics.median(seconds)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--n-ctx", type=int, default=2048)
    parser.add_argument("--max-batch", type=int, default=16)
    options = parser.parse_args()
    quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(quiet, None)
    runner = Runner(options.model, options.threads, options.n_ctx, options.max_batch)
    print(json.dumps({"ready": "llama.cpp"}), flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        print(json.dumps({"value": getattr(runner, command.pop("do"))(**command)}), flush=True)


if __name__ == "__main__":
    main()
