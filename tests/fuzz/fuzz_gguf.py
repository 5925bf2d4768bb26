"""Coverage-guided fuzzing of model files, for a time: `make fuzz SECONDS=60`, or this file with a folder to keep.

    python tests/fuzz/fuzz_gguf.py CORPUS_FOLDER -max_total_time=60

What libFuzzer finds it writes into the folder it runs in, as crash-*, timeout-* or oom-*. A finding becomes a small
file in findings/, which the short test reads at every run.
"""

import struct
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "worker"), str(HERE.parents[1])]

import atheris  # noqa: E402

INSTRUMENTED = ["woolly_worker.gguf", "woolly_worker.model", "woolly_api.cli.inspect"]
MAX_BYTES = 20_000  # of a head, vocabulary included
# Above what libFuzzer, NumPy and the tokenizers need, and far below what a length field may claim.
LIMITS = ["-rss_limit_mb=1500", "-malloc_limit_mb=256", "-timeout=10", f"-max_len={MAX_BYTES}"]

with atheris.instrument_imports(include=INSTRUMENTED):
    from gguf_target import PADDED_BYTES, Scratch, exercise


def main() -> None:
    """Half of the mutations are libFuzzer's own, guided by coverage; half change what a whole file says."""
    import numpy as np
    import seeds

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        if seed % 2:
            try:
                return seeds.with_changed_values(data, np.random.default_rng(seed))[:max_size]
            except (ValueError, struct.error, LookupError, OverflowError):
                pass  # damaged already: bytes are all that can be changed
        return bytes(atheris.Mutate(data, max_size))

    with tempfile.TemporaryDirectory() as folder:
        corpus = next((word for word in sys.argv[1:] if not word.startswith("-")), folder)
        Path(corpus).mkdir(parents=True, exist_ok=True)
        for path in seeds.files(Path(folder)):
            (Path(corpus) / path.name).write_bytes(seeds.head(path))
        for path in (HERE / "findings").glob("*.bin"):
            (Path(corpus) / path.name).write_bytes(path.read_bytes())
        scratch = Scratch()
        options = [word for word in sys.argv[1:] if word.startswith("-")]
        atheris.Setup(
            [sys.argv[0], *LIMITS, *options, corpus],
            lambda data: exercise(scratch.write(data, PADDED_BYTES)),
            custom_mutator=mutate,
        )
        atheris.Fuzz()


if __name__ == "__main__":
    main()
