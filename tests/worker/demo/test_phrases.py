"""The template language of the corpus."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from woolly_worker.demo.phrases import a, expand, listing, sentences

WORD = st.text("abcdefgh ", min_size=0, max_size=8)


@given(st.lists(WORD, min_size=1, max_size=5), st.integers())
def test_a_choice_is_one_of_its_words(words: list[str], seed: int) -> None:
    assert expand(f"<[{'|'.join(words)}]>", {}, random.Random(seed))[1:-1] in words


def test_choices_nest_and_all_of_them_come_up() -> None:
    rng = random.Random(0)
    assert {expand("[a[b|c]|d]{e}", {"e": "!"}, rng) for _ in range(100)} == {"ab!", "ac!", "d!"}


def test_what_is_filled_in_is_not_read_again() -> None:
    assert expand("{x}", {"x": "[a|b]{y}"}, random.Random(0)) == "[a|b]{y}"


def test_an_unknown_slot_is_an_error() -> None:
    with pytest.raises(KeyError, match="nobody"):
        expand("Hello, {nobody}", {}, random.Random(0))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the fox ran. it  fell.", "The fox ran. It fell."),
        ('"where is it?" he asked. "it is lost!"', '"Where is it?" he asked. "It is lost!"'),
        ('"no," said Tom, "it is mine."', '"No," said Tom, "it is mine."'),
    ],
)
def test_capitals_begin_sentences_and_quotations(text: str, expected: str) -> None:
    assert sentences(text) == expected


def test_articles_and_lists() -> None:
    assert (a("owl"), a("fox"), a("Orange kite")) == ("an owl", "a fox", "an Orange kite")
    assert (listing(["x"]), listing(["x", "y", "z"])) == ("x", "x, y and z")
