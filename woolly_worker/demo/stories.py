"""Small stories with a hero, a friend, a place and a plot. The same random generator gives the same story."""

from __future__ import annotations

import random
from dataclasses import dataclass

from woolly_worker.demo.phrases import a, expand, sentences
from woolly_worker.demo.plots import OPENINGS, PLOTS

ANIMALS = (
    "fox", "owl", "bear", "rabbit", "mouse", "cat", "dog", "duck", "hen", "sheep", "lamb", "goat", "horse", "pig",
    "frog", "squirrel", "hedgehog", "wolf", "lion", "elephant", "penguin", "monkey", "turtle", "crow", "badger",
)  # fmt: skip
BEINGS = (*ANIMALS, "dragon", "robot", "wizard", "giant")
GIRLS = ("Mia", "Anna", "Lily", "Rosa", "Ella", "Nina", "Molly", "Daisy", "Clara", "Zoe", "Ruby", "Lucy")
BOYS = ("Tom", "Ben", "Max", "Leo", "Sam", "Finn", "Oscar", "Hugo", "Bruno", "Felix", "Rusty", "Pip")
NAMES = (*GIRLS, *BOYS)
TRAITS = ("little", "small", "clever", "brave", "shy", "kind", "curious", "funny", "lazy", "young", "old", "cheerful")
HOMES = (
    "in a small house by the sea", "at the edge of the forest", "in a green valley", "on a high hill",
    "in a hollow tree", "on an old farm", "in a village by the river", "in a big city", "on a little island",
    "in a house with a red door", "under an old bridge", "near a quiet lake", "in a tower", "in the mountains",
)  # fmt: skip
HOBBIES = (
    "singing songs", "looking at the stars", "eating apples", "picking flowers", "playing in the rain",
    "reading books", "swimming in the lake", "climbing trees", "telling jokes", "painting pictures",
    "baking cakes", "collecting stones", "dancing", "sleeping in the sun",
)  # fmt: skip
PLACES = (
    "the forest", "the river", "the lake", "the old mill", "the garden", "the beach", "the hill", "the market",
    "the meadow", "the cave", "the castle", "the pond",
)  # fmt: skip
COLOURS = ("red", "blue", "green", "yellow", "white", "black", "pink", "brown", "orange", "golden")
THINGS = (
    "ball",
    "kite",
    "hat",
    "scarf",
    "drum",
    "bell",
    "boat",
    "book",
    "key",
    "ring",
    "lamp",
    "basket",
    "flute",
    "doll",
)
JUNK = ("old shoe", "empty bottle", "feather", "sleepy snail", "wet sock", "broken cup", "rusty nail", "bone")
FOODS = (
    "warm soup", "apple pie", "bread and honey", "pancakes", "a big cake", "nuts and berries", "cheese and bread",
    "carrot soup", "cookies and milk", "strawberries", "a bowl of rice", "plum cake",
)  # fmt: skip
SKILLS = (
    "swim",
    "dance",
    "sing",
    "fly a kite",
    "climb trees",
    "ride a bicycle",
    "skate",
    "play the drum",
    "read",
    "juggle",
)
PROJECTS = {
    "boat": ("some wood", "a rope", "an old sheet", "a few nails"),
    "kite": ("some paper", "a long string", "two sticks", "some glue"),
    "tree house": ("some wood", "a ladder", "a few nails", "an old blanket"),
    "cake": ("some flour", "three eggs", "a little honey", "some milk"),
    "snowman": ("an old hat", "a carrot", "two black stones", "a scarf"),
    "cart": ("four wheels", "some wood", "a rope", "a few nails"),
    "drum": ("an old pot", "some leather", "two sticks", "a string"),
}
NOISES = ("boom", "tap", "knock", "crack", "clang", "thump")
PLANTS = ("pumpkin", "cabbage", "turnip", "leek", "carrot", "potato")
# Plots in which the friend is met for the first time: the opening must not have introduced them.
STRANGERS = frozenset({"neighbour", "found", "star", "share", "stuck"})
VASES = ("vase", "cup", "plate", "lamp", "clock", "mirror", "teapot")


@dataclass(frozen=True, slots=True)
class Character:
    name: str
    kind: str
    girl: bool

    def pronouns(self) -> tuple[str, str, str]:
        return ("she", "her", "her") if self.girl else ("he", "him", "his")


def _cast(rng: random.Random, hero_kind: str | None) -> list[Character]:
    """Three characters with three names; at most one of a kind among animals."""
    kinds = rng.sample(BEINGS, 3)
    if hero_kind in kinds:
        kinds.remove(hero_kind)
    kinds.insert(0, hero_kind or (rng.choice(("girl", "boy")) if rng.random() < 0.3 else kinds.pop()))
    girls, boys = rng.sample(GIRLS, 3), rng.sample(BOYS, 3)
    cast = []
    for kind in kinds[:3]:
        girl = {"girl": True, "boy": False, "wizard": False, "hen": True}.get(kind, rng.random() < 0.5)
        cast.append(Character(girls.pop() if girl else boys.pop(), kind, girl))
    return cast


def story(
    rng: random.Random, *, hero_kind: str | None = None, thing: str | None = None, plot: str | None = None
) -> str:
    """One story in one paragraph. `hero_kind` asks for "fox" or "girl", `thing` for a "kite"."""
    hero, friend, other = _cast(rng, hero_kind)
    if thing is not None:
        plot = rng.choice(("lost", "found", "quarrel"))
    plot = plot or rng.choice(tuple(PLOTS))
    noun, colour = thing or rng.choice(THINGS), rng.choice(COLOURS)
    project = rng.choice(tuple(PROJECTS))
    trait = rng.choice([t for t in TRAITS if t != "old" or hero.kind not in ("girl", "boy", "lamb")])
    parts = rng.sample(PROJECTS[project], 3)
    foods = rng.sample(FOODS, 2)
    (he, him, his), (fhe, fhim, fhis), (fohe, fohim, fohis) = (c.pronouns() for c in (hero, friend, other))
    slots = {
        "hero": hero.name, "friend": friend.name, "other": other.name,
        "kind": hero.kind, "a_kind": a(hero.kind), "a_fkind": a(friend.kind),
        "the_hero": f"the {hero.kind}", "the_friend": f"the {friend.kind}", "the_other": f"the {other.kind}",
        "he": he, "him": him, "his": his, "fhe": fhe, "fhim": fhim, "fhis": fhis,
        "fohe": fohe, "fohim": fohim, "fohis": fohis,
        "a_trait": a(trait), "home": rng.choice(HOMES), "hobby": rng.choice(HOBBIES),
        "place": rng.choice(PLACES), "noun": noun, "colour": colour, "thing": f"{colour} {noun}",
        "a_thing": a(f"{colour} {noun}"), "a_junk": a(rng.choice(JUNK)), "food": foods[0], "food2": foods[1],
        "skill": rng.choice(SKILLS), "project": project,
        "part1": parts[0], "part2": parts[1], "part3": parts[2],
        "noise": rng.choice(NOISES), "plant": rng.choice(PLANTS), "vase": rng.choice(VASES),
    }  # fmt: skip
    # Two in three stories begin as fairy tales do, so that "Once upon a time" may go on in many ways.
    while True:
        opening = expand(rng.choice(OPENINGS[:3] if rng.random() < 0.67 else OPENINGS[3:]), slots, rng)
        if plot not in STRANGERS or friend.name not in opening:
            break
    return " ".join([sentences(opening), *(sentences(expand(line, slots, rng)) for line in PLOTS[plot])])
