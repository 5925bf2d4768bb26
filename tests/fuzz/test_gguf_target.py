"""A short and repeatable part of the fuzzing of model files: kept findings, and the same mutations at every run."""

import time
import tracemalloc
from pathlib import Path

import gguf_target
import pytest
import seeds

FINDINGS = sorted((Path(__file__).parent / "findings").glob("*.bin"))
N_MUTATIONS = 50  # of each kind and seed
MAX_SECONDS = 5.0  # a millisecond or two are usual; the rest is for busy machines
MAX_BYTES = 64 << 20  # what a length field may claim is far more


def heads(folder: Path) -> dict[str, bytes]:
    return {path.name: seeds.head(path) for path in seeds.files(folder)}


def check(data: bytes, scratch: gguf_target.Scratch) -> None:
    started = time.perf_counter()
    gguf_target.exercise(scratch.write(data, gguf_target.PADDED_BYTES))
    assert time.perf_counter() - started < MAX_SECONDS


@pytest.fixture(scope="module")
def scratch() -> gguf_target.Scratch:
    return gguf_target.Scratch()


def test_the_seeds_are_good(tmp_path: Path, scratch: gguf_target.Scratch) -> None:
    for name, data in heads(tmp_path).items():
        with gguf_target.GGUFFile(scratch.write(data, gguf_target.PADDED_BYTES)) as file:
            assert gguf_target.Tokenizer.from_gguf(file).encode("wool"), name


@pytest.mark.parametrize("path", FINDINGS, ids=lambda path: path.stem)
def test_a_finding_stays_fixed(path: Path, scratch: gguf_target.Scratch) -> None:
    check(path.read_bytes(), scratch)


def test_damaged_copies_of_every_seed(tmp_path: Path, scratch: gguf_target.Scratch) -> None:
    tracemalloc.start()
    try:
        for data in heads(tmp_path).values():
            for damaged in seeds.mutations(data, seed=20, n=N_MUTATIONS):
                check(damaged, scratch)
            for damaged in seeds.changed_values(data, seed=21, n=N_MUTATIONS):
                check(damaged, scratch)
        assert tracemalloc.get_traced_memory()[1] < MAX_BYTES
    finally:
        tracemalloc.stop()
