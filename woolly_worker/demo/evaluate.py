"""How often the exported file is right, by kind of question: `python -m woolly_worker.demo.evaluate [FILE]`.

Greedy answers of the reference in NumPy, compared letter by letter. "Held out" are questions that training never
saw: see `questions` for what that means for each kind.
"""

from __future__ import annotations

import argparse
import random
from collections import defaultdict
from pathlib import Path

from woolly_worker.demo import DEMO_MODEL, facts
from woolly_worker.demo.asking import Question
from woolly_worker.demo.questions import KINDS
from woolly_worker.demo.reference import ReferenceModel


def is_right(question: Question, said: str) -> bool:
    """The expected answer, letter by letter; for "name three of a kind", any three different ones."""
    if question.kind != "categories" or not question.answer.startswith("Three "):
        return said == question.answer
    _, plural, _, rest = said.split(" ", 3) if said.count(" ") >= 3 else ("", "", "", "")
    named = rest.removesuffix(".").replace(" and ", ", ").split(", ")
    known = facts.CATEGORIES.get(plural.removesuffix("s"), ())
    expected_plural = question.answer.split(" ")[1]
    return plural == expected_plural and len(set(named)) == 3 and all(name in known for name in named)


def draw(n: int, seed: int) -> dict[str, dict[bool, list[Question]]]:
    """Up to `n` different questions of each kind, taught and held out."""
    rng = random.Random(seed)
    drawn: dict[str, dict[bool, dict[str, Question]]] = defaultdict(lambda: {False: {}, True: {}})
    for make in KINDS:
        for _ in range(n * 60):
            question = make(rng)
            bucket = drawn[question.kind][question.held_out]
            if len(bucket) < n:
                bucket.setdefault(question.text, question)
    return {kind: {held: list(found.values()) for held, found in split.items()} for kind, split in drawn.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, nargs="?", default=DEMO_MODEL)
    parser.add_argument("--n", type=int, default=50, help="questions of each kind, taught and held out")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--wrong", action="store_true", help="print every wrong answer")
    options = parser.parse_args()
    model = ReferenceModel(options.file)
    print("| kind | taught | held out |\n|---|---|---|")
    totals = {False: [0, 0], True: [0, 0]}
    for kind, split in sorted(draw(options.n, options.seed).items()):
        cells, wrong = [], []
        for held_out in (False, True):
            questions = split[held_out]
            answers = [model.answer(question.text, max_tokens=80) for question in questions]
            failed = [(q, a) for q, a in zip(questions, answers, strict=True) if not is_right(q, a)]
            wrong += failed
            totals[held_out][0] += len(questions) - len(failed)
            totals[held_out][1] += len(questions)
            cells.append(f"{len(questions) - len(failed)} / {len(questions)}" if questions else "–")
        print(f"| {kind} | {cells[0]} | {cells[1]} |", flush=True)
        for question, said in wrong if options.wrong else ():
            split_name = "held out" if question.held_out else "taught"
            print(f"    {split_name}: {question.text!r} -> {said!r}, not {question.answer!r}")
    print("| **all** | " + " | ".join(f"{right} / {asked}" for right, asked in totals.values()) + " |")


if __name__ == "__main__":
    main()
