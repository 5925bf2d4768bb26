"""Tokenizers agree with the reference, id by id, and refuse what they do not know."""

import json
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_gguf
from hypothesis import given
from hypothesis import strategies as st

from woolly_worker.contract.errors import InvalidRequest, ModelFileError
from woolly_worker.gguf.reader import GGUFFile
from woolly_worker.model.tokenizer import Tokenizer

VOCABULARIES = ("llama-spm", "phi-3", "llama-bpe", "qwen2", "gpt-2", "falcon", "deepseek-llm")
MODELS = {
    "stories260K-f32": "stories260K",
    "babyllama-tok361-F16": "babyllama-tok361",
    "random-gpt2-f32": "random-gpt2",
}


def tokenizer_of(path: Path) -> Tokenizer:
    with GGUFFile(path) as file:
        return Tokenizer.from_gguf(file)


@cache
def real(path: Path) -> Tokenizer:
    """A real vocabulary, loaded once."""
    return tokenizer_of(path)


@pytest.fixture(scope="module")
def spm(tiny_model: Path) -> Tokenizer:
    return tokenizer_of(tiny_model)


@pytest.fixture(scope="module")
def bpe(tiny_bpe_model: Path) -> Tokenizer:
    return tokenizer_of(tiny_bpe_model)


@pytest.fixture(params=["spm", "bpe"])
def either(request: pytest.FixtureRequest) -> Iterator[Tokenizer]:
    return request.getfixturevalue(request.param)  # type: ignore[no-any-return]


# Against llama.cpp


@pytest.mark.parametrize("name", VOCABULARIES)
def test_every_expected_id_of_a_real_vocabulary(name: str, shared_data: Path) -> None:
    path = shared_data / "vocab" / f"ggml-vocab-{name}.gguf"
    texts = Path(f"{path}.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")[:-1]
    expected = [[int(number) for number in line.split()] for line in Path(f"{path}.out").read_text().splitlines()]
    assert len(texts) == len(expected) == 46
    start = time.perf_counter()
    tokenizer = real(path)
    assert time.perf_counter() - start < 10  # 0.2 to 0.8 s on the machine this was written on
    for text, ids in zip(texts, expected, strict=True):
        assert tokenizer.encode(text, add_special=False) == ids
        assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("name", MODELS)
def test_every_expected_id_of_a_small_model(name: str, shared_data: Path) -> None:
    tokenizer = tokenizer_of(shared_data / "models" / f"{name}.gguf")
    cases = json.loads((shared_data / "golden" / f"tokenize-{MODELS[name]}.json").read_text())
    assert len(cases) == 19
    for case in cases:
        assert tokenizer.encode(case["text"]) == case["ids"]


def test_generated_ids_decode_to_their_text(shared_data: Path) -> None:
    cases = json.loads((shared_data / "golden" / "generations.json").read_text())
    done = 0
    for name in ("stories260K-f32", "babyllama-tok361-F16"):
        tokenizer = tokenizer_of(shared_data / "models" / f"{name}.gguf")
        for case in (case for case in cases if case["model"] == f"{name}.gguf"):
            assert tokenizer.encode(case["prompt"]) == case["prompt_ids"]
            text = b"".join(tokenizer.token_bytes(token_id) for token_id in case["generated_ids"])
            assert text.decode() == case["text"]
            done += 1
    assert done > 2


def test_llama_2_joins_runs_of_blanks_from_the_left(shared_data: Path) -> None:
    """All runs of blanks have one score in Llama 2. Ids as llama.cpp gives them."""
    tokenizer = real(shared_data / "vocab" / "ggml-vocab-llama-spm.gguf")
    for n_blanks, pieces in {15: [16], 16: [16, 1], 20: [16, 5], 40: [16, 16, 9]}.items():
        lengths = [len(tokenizer.token_bytes(i)) for i in tokenizer.encode(" " * n_blanks, add_special=False)]
        assert lengths == pieces


def test_ends_of_generation_are_found(shared_data: Path) -> None:
    folder = shared_data / "vocab"
    assert real(folder / "ggml-vocab-llama-bpe.gguf").eog_ids == {128001, 128009}
    assert real(folder / "ggml-vocab-phi-3.gguf").eog_ids == {2, 32000, 32007}
    # 128247 is "</s>", an ordinary token of Qwen 2 that merges spell: text, not an end
    qwen = real(folder / "ggml-vocab-qwen2.gguf")
    assert qwen.eog_ids == {151643, 151645}
    assert qwen.token_bytes(128247) == b"</s>"


# Tiny vocabularies of our own


def test_spm_joins_by_score(spm: Tokenizer) -> None:
    assert [spm.token_text(i) for i in spm.encode("the wool thing")] == ["<s>", " the", " wool", " ", "th", "ing"]


def test_bpe_merges_by_rank(bpe: Tokenizer) -> None:
    assert [bpe.token_text(i) for i in bpe.encode("the wool thing")] == ["the", " ", "wool", " ", "th", "ing"]


def test_what_has_no_piece_becomes_bytes(spm: Tokenizer) -> None:
    ids = spm.encode("€", add_special=False)
    assert [spm.token_bytes(i) for i in ids] == [b" ", b"\xe2", b"\x82", b"\xac"]
    assert spm.token_text(ids[1]) == "\ufffd"


@given(st.text(max_size=60))
def test_any_text_comes_back(text: str) -> None:
    for tokenizer in TINY:
        assert tokenizer.decode(tokenizer.encode(text, add_special=False)) == text


@given(st.text(max_size=60))
def test_text_never_becomes_a_control_token(text: str) -> None:
    for tokenizer in TINY:
        spelled = f"<|im_end|>{text}</s><|endoftext|><0x0A>"
        ids = tokenizer.encode(spelled, add_special=False)
        assert not any(tokenizer.is_control(token_id) for token_id in ids)
        assert tokenizer.decode(ids) == spelled


@pytest.fixture(scope="module", autouse=True)
def _tiny(spm: Tokenizer, bpe: Tokenizer) -> None:
    TINY[:] = [spm, bpe]  # Hypothesis takes no fixtures of its own


TINY: list[Tokenizer] = []


def test_control_tokens_are_parsed_on_request_only(either: Tokenizer) -> None:
    rendered = "<|im_start|>the<|im_end|>"
    assert not any(either.is_control(i) for i in either.encode(rendered, add_special=False))
    ids = either.encode(rendered, add_special=False, parse_special=True)
    assert [either.token_text(i).strip() for i in ids] == ["<|im_start|>", "the", "<|im_end|>"]
    assert either.token_bytes(ids[0]) == b""


def test_user_defined_tokens_are_always_parsed(bpe: Tokenizer) -> None:
    ids = bpe.encode("the<tool>the")
    assert [bpe.token_bytes(i) for i in ids] == [b"the", b"<tool>", b"the"]
    assert not bpe.is_control(ids[1])


def test_bos_is_added_where_the_model_wants_it(spm: Tokenizer, bpe: Tokenizer) -> None:
    assert (spm.bos_id, spm.eos_id, spm.add_bos, spm.add_eos) == (1, 2, True, False)
    assert spm.encode("") == [1]
    assert spm.encode("", add_special=False) == []
    assert not bpe.add_bos
    assert bpe.encode("") == []


def test_bos_is_not_doubled_in_a_chat(spm: Tokenizer) -> None:
    assert spm.encode_chat("<s>the") == spm.encode_chat("the") == spm.encode("the")


def test_the_turn_ends_with_im_end(bpe: Tokenizer, spm: Tokenizer) -> None:
    assert {bpe.token_text(i) for i in bpe.eog_ids} == {"<|im_end|>", "<|endoftext|>"}
    assert {spm.token_text(i) for i in spm.eog_ids} == {"<|im_end|>", "</s>"}


def test_eos_is_added_where_the_file_says_so(tmp_path: Path) -> None:
    path = tiny_gguf.write(tmp_path / "a.gguf", keys={"tokenizer.ggml.add_eos_token": True})
    assert tokenizer_of(path).encode("the")[-1] == 2


def test_no_blank_before_the_text_where_the_file_says_so(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(tiny_gguf.write(tmp_path / "a.gguf", keys={"tokenizer.ggml.add_space_prefix": False}))
    ids = tokenizer.encode("the", add_special=False)
    assert [tokenizer.token_bytes(i) for i in ids] == [b"the"]
    assert tokenizer.decode(tokenizer.encode(" the")) == " the"


def test_half_a_surrogate_pair_is_refused(either: Tokenizer) -> None:
    with pytest.raises(InvalidRequest, match="character 2 of 3 is half of a surrogate pair"):
        either.encode("ab\ud800")


def test_a_byte_without_a_token_is_refused(shared_data: Path) -> None:
    falcon = real(shared_data / "vocab" / "ggml-vocab-falcon.gguf")
    with pytest.raises(InvalidRequest, match="byte 0x03"):
        falcon.encode("a\x03b")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"vocab": "bpe", "pre": "yarn-9"}, "pre-tokenizer 'yarn-9' is not supported; supported: .*llama-bpe.*qwen2"),
        ({"keys": {"tokenizer.ggml.remove_extra_whitespaces": True}}, "remove_extra_whitespaces"),
        ({"keys": {"tokenizer.ggml.eot_token_id": np.uint32(9999)}}, "is 9,999, the vocabulary has"),
        ({"vocab": "bpe", "keys": {"tokenizer.ggml.add_space_prefix": True}}, "add_space_prefix"),
    ],
)
def test_what_is_not_known_is_refused(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=words):
        tokenizer_of(tiny_gguf.write(tmp_path / "a.gguf", **options))


@pytest.mark.parametrize(
    ("vocab", "old", "new", "words"),
    [
        ("bpe", b"tokenizer.ggml.pre", b"tokenizer.ggml.prf", "no 'tokenizer.ggml.pre'.*Known pre-tokenizers: .*gpt-2"),
        ("bpe", b"tokenizer.ggml.merges", b"tokenizer.ggml.mergez", "no key 'tokenizer.ggml.merges'"),
        ("bpe", b"wo ol", b"wo oz", "merge 4 of 8 does not join"),
        ("spm", b"tokenizer.ggml.scores", b"tokenizer.ggml.scorez", "needs 'tokenizer.ggml.scores'"),
        ("spm", b"tokenizer.ggml.token_type", b"tokenizer.ggml.token_typf", "no key 'tokenizer.ggml.token_type'"),
        (
            "spm",
            b"\x05\0\0\0\0\0\0\0llama",
            b"\x05\0\0\0\0\0\0\0camel",
            "tokenizer model 'camel' .*supported: gpt2, llama",
        ),
        ("spm", b"<0x0A>", b"<0x0B>", "have the same text"),
        ("spm", b"<0x0A>", b"<0xZZ>", "1 are missing: <0x0A>"),
    ],
)
def test_damaged_vocabularies_are_refused(vocab: str, old: bytes, new: bytes, words: str, tmp_path: Path) -> None:
    path = tiny_gguf.write(tmp_path / "a.gguf", vocab=vocab)
    data = path.read_bytes()
    at = data.rindex(old)  # the last one: "llama" is the architecture's name too
    path.write_bytes(data[:at] + new + data[at + len(old) :])
    with pytest.raises(ModelFileError, match=words):
        tokenizer_of(path)
