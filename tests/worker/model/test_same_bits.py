"""Same request, same bits: its logits depend on the model and its tokens, not on what happens around them."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import shaped_gguf
from gguf import GGMLQuantizationType as Type
from step_harness import Bench, Piece

from woolly_worker.memory.kv_cache import KVType

Floats = npt.NDArray[np.float32]
LENGTH = 75  # three KV blocks, the last not full
MODELS = ("stories260K-Q8_0", "babyllama-wide-Q4_K_M", "babyllama-wide-Q4_0", "babyllama-tok361-F16")


def ids_of(seed: int, n: int, n_vocab: int) -> list[int]:
    return np.random.default_rng(seed).integers(0, n_vocab, n).tolist()


class Subject:
    """A model file, and the logits of one sequence run alone in a single step: what all other ways must give."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.bench = Bench(path)
        self.ids = ids_of(0, LENGTH, self.bench.config.n_vocab)
        self.expected = self.bench.logits(self.ids)
        assert np.isfinite(self.expected).all()
        assert self.expected.std() > 0.01  # a model that always answers the same would prove nothing

    def assert_same(self, logits: Floats) -> None:
        different = [
            i for i, (a, b) in enumerate(zip(logits, self.expected, strict=True)) if a.tobytes() != b.tobytes()
        ]
        assert not different, f"logits differ at positions {different}"


@pytest.fixture(scope="module", params=list(shaped_gguf.SHAPES), ids=lambda kind: kind.name)
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
    path = shaped_gguf.write(tmp_path_factory.mktemp("shaped") / f"{request.param.name}.gguf", request.param)
    subject = Subject(path)
    yield subject
    subject.bench.close()


def in_company(rng: np.random.Generator, lengths: list[int]) -> list[list[Piece]]:
    """Steps that bring all sequences to their end in random pieces: long chunks, short ones and single tokens."""
    left = dict(enumerate(lengths))
    steps = []
    while left:
        order = rng.permutation(list(left))
        chosen = order[: rng.integers(1, len(order) + 1)]
        pieces = []
        for sequence in chosen.tolist():
            n = int(min(left[sequence], rng.choice([1, 1, 2, 5, 17, 40])))
            left[sequence] -= n
            pieces.append((sequence, n))
            if left[sequence] == 0:
                del left[sequence]
        steps.append(pieces)
    return steps


@pytest.mark.parametrize("chunk", [1, 3, 7, 32])
def test_prefill_in_chunks(subject: Subject, chunk: int) -> None:
    subject.assert_same(subject.bench.logits(subject.ids, chunk))


def test_decoding_after_a_prompt(subject: Subject) -> None:
    steps = [[(0, 20)], *[[(0, 1)] for _ in range(LENGTH - 20)]]
    subject.assert_same(subject.bench.run([subject.ids], steps)[0])


@pytest.mark.parametrize("place", [0, 3, 7])
def test_in_a_batch_of_eight(subject: Subject, place: int) -> None:
    """All eight prompts in one step, ours anywhere among them; some share its first half."""
    n_vocab = subject.bench.config.n_vocab
    others = [ids_of(seed, 10 + 7 * seed, n_vocab) for seed in range(1, 8)]
    others[2] = subject.ids[: LENGTH // 2] + others[2]
    sequences = [*others[:place], subject.ids, *others[place:]]
    logits = subject.bench.run(sequences, [[(i, len(ids)) for i, ids in enumerate(sequences)]])
    subject.assert_same(logits[place])


@pytest.mark.parametrize("seed", range(3))
def test_prefill_and_decode_mixed(subject: Subject, seed: int) -> None:
    rng = np.random.default_rng(seed)
    n_vocab = subject.bench.config.n_vocab
    sequences = [subject.ids, *(ids_of(100 + i, int(rng.integers(1, 90)), n_vocab) for i in range(7))]
    subject.bench.place_blocks(seed)
    logits = subject.bench.run(sequences, in_company(rng, [len(ids) for ids in sequences]))
    subject.bench.place_blocks()
    subject.assert_same(logits[0])


def test_blocks_anywhere_and_full_of_old_content(subject: Subject) -> None:
    for seed in range(3):
        subject.bench.place_blocks(seed)
        subject.assert_same(subject.bench.logits(subject.ids, 32))
    subject.bench.place_blocks()


@pytest.mark.parametrize("n_threads", [2, 3])
def test_other_teams(subject: Subject, n_threads: int) -> None:
    with Bench(subject.path, n_threads=n_threads) as bench:
        subject.assert_same(bench.logits(subject.ids))
        subject.assert_same(bench.logits(subject.ids, 1))
        rng = np.random.default_rng(n_threads)
        others = [ids_of(i, 40, bench.config.n_vocab) for i in range(1, 4)]
        sequences = [subject.ids, *others]
        subject.assert_same(bench.run(sequences, in_company(rng, [len(ids) for ids in sequences]))[0])


def test_other_buffers(subject: Subject) -> None:
    """Buffers of another size, fewer slots, a longer context: other addresses, and another table of angles."""
    with Bench(subject.path, max_step_tokens=80, max_slots=1, n_ctx=LENGTH) as bench:
        subject.assert_same(bench.logits(subject.ids))


def test_logits_of_some_tokens_only(subject: Subject) -> None:
    """The rows that are wanted, in the order wanted; also one alone, which takes another way through the matrix."""
    bench = subject.bench
    batch = bench.transformer.batch
    for wanted in ([LENGTH - 1], [5], [LENGTH - 1, 0, 7, 7], []):
        batch.n_tokens, batch.n_logit_rows = LENGTH, len(wanted)
        batch.token_ids[:LENGTH], batch.positions[:LENGTH] = subject.ids, np.arange(LENGTH)
        batch.slots[:LENGTH] = 0
        batch.logit_rows[: len(wanted)] = wanted
        logits = bench.transformer.step()
        assert logits.shape == (len(wanted), bench.config.n_vocab)
        assert logits.tobytes() == subject.expected[wanted].tobytes()


@pytest.mark.parametrize(("kv_dtype", "difference"), [("f32", 0.05), ("q8_0", 0.05), ("q4_0", 0.3)])
def test_other_keys_and_values(subject: Subject, kv_dtype: KVType, difference: float) -> None:
    """Another type has other bits, but it is as true to itself. The difference is a share of the logits' spread."""
    with Bench(subject.path, kv_dtype=kv_dtype, n_threads=2) as bench:
        expected = bench.logits(subject.ids)
        assert np.abs(expected - subject.expected).mean() < difference * subject.expected.std()
        assert bench.logits(subject.ids, 1).tobytes() == expected.tobytes()
        assert bench.logits(subject.ids, 7).tobytes() == expected.tobytes()


FORMS = {"attn_q": Type.Q8_0, "attn_v": Type.F16, "ffn_down": Type.Q6_K, "output": Type.BF16, "ffn_up": Type.F32}
BLOCKS_OF_256 = {"attn_q": Type.IQ4_XS, "attn_v": Type.Q2_K, "ffn_down": Type.Q3_K, "output": Type.Q5_K}
TERNARY = {"ffn_up": Type.TQ1_0, "ffn_gate": Type.TQ2_0}


@pytest.mark.parametrize("mixed", [FORMS, BLOCKS_OF_256 | TERNARY], ids=["forms", "blocks of 256"])
def test_a_mix_of_types_in_one_file(mixed: dict[str, Type], tmp_path: Path) -> None:
    """Layers that read their activations in several forms at once; and one form in many types."""
    path = shaped_gguf.write(tmp_path / "mixed.gguf", Type.Q4_K, mixed=mixed)
    subject = Subject(path)
    subject.assert_same(subject.bench.logits(subject.ids, 7))
    with Bench(path, n_threads=2) as bench:
        subject.assert_same(bench.logits(subject.ids, 1))
    subject.bench.close()


@pytest.mark.parametrize("name", MODELS)
def test_trained_models(name: str, shared_data: Path) -> None:
    subject = Subject(shared_data / "models" / f"{name}.gguf")
    for chunk in (1, 7, 32):
        subject.assert_same(subject.bench.logits(subject.ids, chunk))
    rng = np.random.default_rng(4)
    sequences = [subject.ids, *(ids_of(i, 60, subject.bench.config.n_vocab) for i in range(1, 8))]
    subject.assert_same(subject.bench.run(sequences, in_company(rng, [len(ids) for ids in sequences]))[0])
    with Bench(subject.path, n_threads=2) as bench:
        subject.assert_same(bench.logits(subject.ids, 32))
    subject.bench.close()


@pytest.mark.parametrize("kind", [Type.Q8_0, Type.Q4_K], ids=lambda kind: kind.name)
def test_a_mixture_of_experts(kind: Type, tmp_path: Path) -> None:
    """Which tokens share an expert depends on the company; gate reads quantised rows, up f32 ones."""
    mixed = {"ffn_up_exps": Type.F16, "ffn_down_exps": Type.Q6_K}
    path = shaped_gguf.write(tmp_path / "mixture.gguf", kind, shaped_gguf.MIXTURE, mixed=mixed)
    subject = Subject(path)
    for chunk in (1, 3, 7, 32):
        subject.assert_same(subject.bench.logits(subject.ids, chunk))
    others = [ids_of(seed, 10 + 7 * seed, subject.bench.config.n_vocab) for seed in range(1, 8)]
    sequences = [*others[:3], subject.ids, *others[3:]]
    together = subject.bench.run(sequences, [[(i, len(ids)) for i, ids in enumerate(sequences)]])
    subject.assert_same(together[3])
    subject.bench.place_blocks(2)
    mixed_steps = in_company(np.random.default_rng(2), [len(ids) for ids in sequences])
    subject.assert_same(subject.bench.run(sequences, mixed_steps)[3])
    for n_threads in (2, 3):
        with Bench(path, n_threads=n_threads) as bench:
            subject.assert_same(bench.logits(subject.ids))
            subject.assert_same(bench.logits(subject.ids, 1))
            subject.assert_same(bench.run(sequences, mixed_steps)[3])
    subject.bench.close()


def test_a_step_that_one_thread_runs_alone(subject: Subject) -> None:
    """The same team, alone and shared in turn: a step too small to share has the bits of a shared one."""
    with Bench(subject.path, n_threads=2) as bench:
        for alone_below in (10**18, 0, 10**18):
            bench.transformer._alone_below = alone_below
            subject.assert_same(bench.logits(subject.ids, 3))
