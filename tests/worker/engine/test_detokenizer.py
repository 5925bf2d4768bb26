"""The detokenizer: pieces equal the whole, no stop string leaks, whatever the tokens cut through."""

from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from woolly_worker.engine.detokenizer import Detokenizer


@dataclass
class Pieces:
    """A tokenizer whose token i is the i-th of the given byte strings."""

    pieces: list[bytes]

    def token_bytes(self, token_id: int) -> bytes:
        return self.pieces[token_id]


def run(pieces: list[bytes], stop: tuple[str, ...] = ()) -> tuple[list[str], bool]:
    """What each push hands out, then what flush does; and whether a stop string ended it."""
    detokenizer = Detokenizer(Pieces(pieces), stop)
    out = []
    for token_id in range(len(pieces)):
        text, stopped = detokenizer.push(token_id)
        out.append(text)
        if stopped:
            assert detokenizer.flush() == ""
            return out, True
    return [*out, detokenizer.flush()], detokenizer.stopped


def expected(data: bytes, stop: tuple[str, ...]) -> tuple[str, bool]:
    """The definition: decode everything, cut before the stop string that ends first."""
    text = data.decode(errors="replace")
    found = [(text.index(s) + len(s), text.index(s)) for s in stop if s in text]
    return (text[: min(found)[1]], True) if found else (text, False)


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(c, len(data)) for c in cuts), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


# Few different characters, so that stop strings are met often; of one to four bytes each.
texts = st.text(alphabet="abä€🧶\n", max_size=24)
stops = st.lists(st.text(alphabet="abä€🧶\n", min_size=1, max_size=4), max_size=3).map(tuple)
cuts = st.lists(st.integers(0, 60), max_size=12)


@given(texts, stops, cuts)
def test_pieces_equal_the_whole_up_to_the_stop(text: str, stop: tuple[str, ...], cuts: list[int]) -> None:
    out, stopped = run(cut(text.encode(), cuts), stop)
    assert ("".join(out), stopped) == expected(text.encode(), stop)


@given(st.binary(max_size=32), stops | st.just(("\ufffd",)), cuts)
def test_bytes_that_are_no_text_decode_as_the_whole_would(data: bytes, stop: tuple[str, ...], cuts: list[int]) -> None:
    out, stopped = run(cut(data, cuts), stop)
    assert ("".join(out), stopped) == expected(data, stop)


@given(texts, stops, cuts)
def test_no_stop_string_ever_leaks(text: str, stop: tuple[str, ...], cuts: list[int]) -> None:
    out, _ = run(cut(text.encode(), cuts), stop)
    assert not any(s in "".join(out) for s in stop)


@given(texts, stops, cuts, st.integers(0, 12))
def test_a_replay_gives_the_same_pieces(text: str, stop: tuple[str, ...], cuts: list[int], resume_at: int) -> None:
    # Given a run that was interrupted somewhere
    pieces = cut(text.encode(), cuts)
    first, _ = run(pieces, stop)
    # When a new detokenizer is fed the ids before the interruption, then the rest
    again = Detokenizer(Pieces(pieces), stop)
    replayed = [again.push(token_id)[0] for token_id in range(min(resume_at, len(pieces)))]
    # Then the pieces are those of the first run
    assert replayed[: len(first)] == first[: len(replayed)]


def test_text_is_handed_out_at_once_when_nothing_is_in_doubt() -> None:
    assert run([b"Hello", b" ", b"world"], ("###",))[0] == ["Hello", " ", "world", ""]


def test_a_split_character_is_held_back() -> None:
    yarn = "🧶".encode()
    assert run([yarn[:1], yarn[1:3], yarn[3:] + b"!"])[0] == ["", "", "🧶!", ""]


def test_a_possible_stop_is_held_back_and_released() -> None:
    assert run([b"a#", b"#", b"b"], ("###",))[0] == ["a", "", "##b", ""]


def test_a_stop_over_three_tokens_never_shows() -> None:
    assert run([b"a#", b"#", b"#b", b"c"], ("###",)) == (["a", "", ""], True)


def test_the_beginning_of_a_stop_at_the_end_is_text() -> None:
    assert run([b"a#"], ("###",)) == (["a", "#"], False)


def test_the_stop_that_ends_first_wins() -> None:
    assert run([b"xabcd"], ("abcd", "bc")) == (["xa"], True)
    assert run([b"xabc"], ("abc", "bc")) == (["x"], True)


def test_the_leading_blank_stays() -> None:
    assert run([b" park", b"."])[0] == [" park", ".", ""]


def test_nothing_comes_after_a_stop() -> None:
    detokenizer = Detokenizer(Pieces([b"a.", b"b"]), (".",))
    assert detokenizer.push(0) == ("a", True)
    assert detokenizer.push(1) == ("", True)
    assert detokenizer.flush() == ""


@pytest.mark.parametrize("final", [b"\xf0\x9f", b"\xc3"])
def test_an_incomplete_character_at_the_end_is_replaced(final: bytes) -> None:
    assert run([b"a", final])[0] == ["a", "", "\ufffd"]
