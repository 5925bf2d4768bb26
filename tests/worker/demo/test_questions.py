"""The questions of the corpus: the answers are right, and what is held out stays out."""

import random
import re
from itertools import islice

import pytest

from woolly_worker.demo import facts
from woolly_worker.demo.asking import Question
from woolly_worker.demo.corpus import documents, training_question
from woolly_worker.demo.questions import KINDS, question


def drawn(n: int, seed: int = 1) -> list[Question]:
    rng = random.Random(seed)
    return [question(rng) for _ in range(n)]


def test_the_same_seed_asks_the_same_questions() -> None:
    assert drawn(50, seed=3) == drawn(50, seed=3) != drawn(50, seed=4)


def test_every_kind_of_question_is_well_formed() -> None:
    rng = random.Random(2)
    for make in KINDS:
        for asked in (make(rng) for _ in range(100)):
            for text in (asked.text, asked.answer):
                assert text == text.strip()
                assert not re.search(r"[\[\]{}|]|  ", text), text
            assert asked.answer[-1] in ".!?" or asked.kind == "echo"


def test_every_sum_and_difference_in_an_answer_is_right() -> None:
    checked = 0
    for asked in drawn(4000):
        for x, sign, y, z in re.findall(r"(\d+) ([+-]) (\d+) = (\d+)", asked.answer):
            assert int(z) == (int(x) + int(y) if sign == "+" else int(x) - int(y)), asked
            checked += 1
    assert checked > 500


def test_a_word_sum_is_about_the_numbers_of_its_text() -> None:
    for asked in drawn(4000):
        if asked.kind == "word sums":
            before, after = re.findall(r"\d+", asked.text)
            assert re.findall(r"\d+", asked.answer)[:2] == [before, after]


def test_the_answer_to_a_little_text_is_in_the_text() -> None:
    texts = [asked for asked in drawn(4000) if asked.kind == "little texts"]
    assert len(texts) > 100
    for asked in texts:
        told = re.split(r"(?<=\.) ", asked.text)[:-1]
        names_and_things = set(re.findall(r"\w+", asked.answer)) - {"The", "is", "the", "a", "an"}
        assert any(names_and_things <= set(re.findall(r"\w+", sentence)) for sentence in told), asked


def test_about_a_tenth_is_held_out_and_never_taught() -> None:
    everything = drawn(5000)
    assert 0.05 < sum(asked.held_out for asked in everything) / len(everything) < 0.15
    rng = random.Random(5)
    assert not any(training_question(rng).held_out for _ in range(2000))


def test_a_held_out_pair_is_held_out_in_every_wording() -> None:
    by_pair: dict[tuple[int, ...], set[bool]] = {}
    for asked in drawn(8000):
        if "+" in asked.answer:
            x, y = sorted(int(n) for n in re.findall(r"\d+", asked.answer)[:2])
            by_pair.setdefault((x, y), set()).add(asked.held_out)
    assert len(by_pair) > 150
    assert all(len(answers) == 1 for answers in by_pair.values())


@pytest.mark.parametrize("pair", ["7 + 9", "9 + 7", "seven plus nine"])
def test_a_held_out_sum_is_nowhere_in_the_corpus(pair: str) -> None:
    for document in islice(documents(2), 5000):
        for piece in document:
            assert re.search(rf"\b{re.escape(pair)}\b", piece.text) is None


def test_the_tables_agree_with_one_another() -> None:
    assert len(facts.DAYS) == 7
    assert len(facts.MONTHS) == 12
    assert len(set(facts.CAPITALS.values())) == len(facts.CAPITALS)
    words = [word for pair in facts.OPPOSITES for word in pair]
    assert len(words) == len(set(words)), "a word with two opposites has no checkable answer"
    assert set(words) >= facts.ONE_WAY
    assert len({thing for thing, _ in facts.COLOURS}) == len(facts.COLOURS)
    assert len(facts.NUMBER_WORDS) == 21
