"""The training stories: whole, varied, and about whom they should be."""

import random
import re

import pytest

from woolly_worker.demo.plots import PLOTS
from woolly_worker.demo.stories import BEINGS, story


@pytest.mark.parametrize("plot", PLOTS)
def test_a_story_has_no_loose_ends(plot: str) -> None:
    rng = random.Random(1)
    for _ in range(50):
        told = story(rng, plot=plot)
        assert not re.search(r"[\[\]{}|]|  ", told), told
        assert told.count('"') % 2 == 0, told
        assert not re.search(r"[?!],", told), told
        assert re.search(r'[.!?]"?$', told), told
        assert 80 < len(told.split()) < 220


def test_the_same_seed_tells_the_same_story() -> None:
    assert story(random.Random(7)) == story(random.Random(7)) != story(random.Random(8))


def test_a_thousand_stories_are_a_thousand_stories() -> None:
    rng = random.Random(1)
    told = [story(rng) for _ in range(1000)]
    assert len(set(told)) == 1000
    assert len({text[:40] for text in told}) > 400


@pytest.mark.parametrize("kind", [*BEINGS, "girl", "boy"])
def test_the_hero_is_who_was_asked_for(kind: str) -> None:
    told = story(random.Random(3), hero_kind=kind)
    assert re.search(rf"\b{kind}\b", told.split(". ")[0]), told


def test_a_thing_asked_for_is_in_the_story() -> None:
    assert "kite" in story(random.Random(3), thing="kite")
