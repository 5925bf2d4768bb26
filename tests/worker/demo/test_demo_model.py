"""The shipped demo model answers twenty questions and tells a story, through the engine and through NumPy alike.

The questions marked "held out" are not in the training text: the numbers never met there in any wording, the words
never stood in that row, or the fact was never asked for in those words. The test checks that too.
"""

import math
import re
from collections.abc import Iterator, Sequence
from itertools import islice

import pytest

from woolly_worker.contract.jobs import ChatMessage, JobRequest, SamplingParams
from woolly_worker.demo import DEMO_MODEL, SAMPLE_PROMPTS, SAMPLE_QUESTIONS
from woolly_worker.demo.corpus import documents
from woolly_worker.demo.reference import Memory, ReferenceModel
from woolly_worker.engine.events import EngineEvent, EngineRequest, SequenceDone, TokenOut
from woolly_worker.gguf.reader import GGUFFile
from woolly_worker.model.config import ModelConfig
from woolly_worker.model.tokenizer import Tokenizer
from woolly_worker.queue.loading import LoadedModel, load_model
from woolly_worker.queue.prompts import prompt_ids
from woolly_worker.settings import WorkerSettings

HELD_OUT, TAUGHT = True, False
TWENTY = (
    (HELD_OUT, "What is 7 + 9?", "7 + 9 = 16."),
    (TAUGHT, "How much is 12 and 5?", "12 + 5 = 17."),
    (HELD_OUT, "What is 17 minus 9?", "17 - 9 = 8."),
    (
        HELD_OUT,
        "Tom has 4 apples. Anna gives Tom 6 more. How many apples does he have now?",
        "4 + 6 = 10, so Tom has 10 apples.",
    ),
    (TAUGHT, "Which is bigger, 37 or 42?", "42 is bigger than 37."),
    (TAUGHT, "Count from 3 to 9.", "3, 4, 5, 6, 7, 8, 9."),
    (HELD_OUT, "What comes after 47?", "The number after 47 is 48."),
    (HELD_OUT, "Is 28 odd or even?", "28 is even."),
    (HELD_OUT, "Which day comes after Friday?", "The day after Friday is Saturday."),
    (HELD_OUT, "What month comes before March?", "The month before March is February."),
    (TAUGHT, "What is the opposite of hot?", "The opposite of hot is cold."),
    (HELD_OUT, "What does the cow say?", "A cow says moo."),
    (HELD_OUT, "What is a young cat called?", "A young cat is called a kitten."),
    (HELD_OUT, "Where does a bee live?", "A bee lives in a hive."),
    (HELD_OUT, "Tell me the colour of snow.", "Snow is white."),
    (HELD_OUT, "Name the capital of France.", "The capital of France is Paris."),
    (TAUGHT, "What is a bridge?", "A bridge is a road over a river."),
    (TAUGHT, "How many legs does a spider have?", "A spider has 8 legs."),
    (HELD_OUT, "What is the past tense of eat?", "Today I eat, yesterday I ate."),
    (HELD_OUT, "Say: Violin Pip Norway lamb", "You said: Violin Pip Norway lamb"),
)


class Asker:
    """Asks the engine as a worker does, without queue: template, tokenizer, scheduler, sampler, detokenizer."""

    def __init__(self) -> None:
        self.text: dict[str, str] = {}
        self.done: set[str] = set()
        settings = WorkerSettings(model=DEMO_MODEL, threads=1, slots=4)
        self.model: LoadedModel = load_model(settings, self._on_events)

    def _on_events(self, events: Sequence[EngineEvent]) -> None:
        for event in events:
            if isinstance(event, TokenOut | SequenceDone):
                self.text[event.job_id] = self.text.get(event.job_id, "") + event.text
            if isinstance(event, SequenceDone):
                self.done.add(event.job_id)

    def ask(self, requests: Sequence[JobRequest]) -> list[str]:
        """All at once, so that they share steps: the answers must not depend on it."""
        names = [f"job-{len(self.text)}-{i}" for i in range(len(requests))]
        for name, request in zip(names, requests, strict=True):
            ids = prompt_ids(request, self.model.tokenizer, self.model.chat)
            self.model.engine.submit(EngineRequest(name, 1, ids, request.sampling))
        for _ in range(20_000):
            if self.done.issuperset(names):
                return [self.text[name] for name in names]
            self.model.engine.step()
        raise AssertionError("the engine did not finish")


@pytest.fixture(scope="module")
def asker() -> Iterator[Asker]:
    asker = Asker()
    yield asker
    asker.model.close()


@pytest.fixture(scope="module")
def reference() -> ReferenceModel:
    return ReferenceModel(DEMO_MODEL)


def chat(question: str, max_tokens: int = 60) -> JobRequest:
    sampling = SamplingParams(temperature=0, seed=0, max_tokens=max_tokens)
    return JobRequest(model="demo", messages=(ChatMessage(role="user", content=question),), sampling=sampling)


def test_the_engine_answers_twenty_questions(asker: Asker) -> None:
    answers = asker.ask([chat(question) for _, question, _ in TWENTY])
    assert answers == [answer for _, _, answer in TWENTY]


@pytest.mark.parametrize(("held_out", "question", "answer"), TWENTY)
def test_the_reference_answers_as_well(held_out: bool, question: str, answer: str, reference: ReferenceModel) -> None:
    assert reference.answer(question, max_tokens=60) == answer


def test_what_is_called_held_out_was_not_in_the_training_text() -> None:
    taught = {piece.text for document in islice(documents(2), 30_000) for piece in document if not piece.learned}
    assert any("What is a bridge?" in text for text in taught)  # so that the search is known to find
    for held_out, question, _ in TWENTY:
        if held_out:
            assert not any(question in text for text in taught), question


def test_the_engine_tells_a_story_that_the_reference_would_tell(asker: Asker, reference: ReferenceModel) -> None:
    """The engine rounds its activations to 8 bits, so where two words are as good it may take the other one. Every
    token it takes must still be within a fifth of a logit of the reference's best."""
    sampling = SamplingParams(temperature=0, seed=0, max_tokens=400)
    (told,) = asker.ask([JobRequest(model="demo", prompt=SAMPLE_PROMPTS[0], sampling=sampling)])
    assert len(re.findall(r"[.!?]", told)) >= 8
    assert re.search(r'[.!?]"?$', told)
    ids = reference.tokenizer.encode(SAMPLE_PROMPTS[0] + told).ids
    logits = reference.step(ids, Memory())
    n_prompt = len(reference.tokenizer.encode(SAMPLE_PROMPTS[0]).ids)
    for i in range(n_prompt, len(ids)):
        assert logits[i - 1, ids[i]] > logits[i - 1].max() - 0.2, reference.tokenizer.decode(ids[: i + 1])
    assert logits[-1].argmax() == reference.end_id


def test_stories_asked_for_are_about_whom_they_should_be(reference: ReferenceModel) -> None:
    for kind in ("fox", "dragon", "girl"):
        assert re.search(rf"\b{kind}\b", reference.answer(f"Tell me a story about a {kind}."))


def test_different_seeds_tell_different_stories(reference: ReferenceModel) -> None:
    told = {reference.complete(SAMPLE_PROMPTS[0], temperature=0.8, seed=seed, max_tokens=60) for seed in range(6)}
    assert len(told) == 6


def test_the_file_is_small_and_says_what_it_is() -> None:
    assert DEMO_MODEL.stat().st_size <= 4_000_000
    file = GGUFFile(DEMO_MODEL)
    try:
        config = ModelConfig.from_gguf(file)
        assert config.architecture == "llama"
        n_params = sum(math.prod(info.shape) for info in file.tensors.values())
        assert 1_000_000 <= n_params <= 4_000_000
    finally:
        file.close()


def test_woollys_tokenizer_reads_the_vocabulary_as_it_was_trained(reference: ReferenceModel) -> None:
    file = GGUFFile(DEMO_MODEL)
    try:
        tokenizer = Tokenizer.from_gguf(file)
        assert not tokenizer.add_bos
        for document in islice(documents(99), 200):
            text = "".join(piece.text for piece in document)
            assert tokenizer.encode(text, parse_special=True) == reference.tokenizer.encode(text).ids
        for text in (*SAMPLE_PROMPTS, *SAMPLE_QUESTIONS, "Łódź  naïve\n\n 日本 🦊 12345 it's"):
            ids = tokenizer.encode(text)
            assert ids == reference.tokenizer.encode(text).ids
            assert tokenizer.decode(ids) == text
    finally:
        file.close()
