"""What the clients ask for, and what a calm cluster answers.

A job's text depends on its request alone, so the answer of a calm run is what every run has to give, whatever happens
in it. The requests are chosen for what is hard about going on in the middle: sampling, log-probabilities, stop strings
and characters that come in several tokens, prompts in several chunks.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from woolly_worker.contract.events import DoneEvent, TokenEvent
from woolly_worker.contract.jobs import JobRequest, JobResult
from woolly_worker.demo import DEMO_MODEL
from woolly_worker.gguf.reader import GGUFFile
from woolly_worker.model.tokenizer import Tokenizer

MODEL = "tiny"
STORY = "Once upon a time there was a secretive fox"
EURO = "€".encode()  # three bytes, and in this vocabulary three tokens


@dataclass(frozen=True)
class Answer:
    """What a job says, as far as it may not depend on how the run went."""

    tokens: tuple[TokenEvent, ...]
    rest: str  # held back until the end, and told by the terminal event
    finish_reason: str
    prompt_tokens: int

    @property
    def text(self) -> str:
        return "".join(token.text for token in self.tokens) + self.rest

    @classmethod
    def of(cls, events: list[TokenEvent], done: DoneEvent) -> "Answer":
        return cls(tuple(events), done.text, done.finish_reason, done.usage.prompt_tokens)

    def differs_from(self, result: JobResult) -> str | None:
        """In what a stored result is another one."""
        mine = (self.text, tuple(token.token_id for token in self.tokens), self.finish_reason, self.prompt_tokens)
        its = (result.text, result.token_ids, result.finish_reason, result.usage.prompt_tokens)
        names = ("text", "token ids", "finish reason", "prompt tokens")
        return next((name for name, a, b in zip(names, mine, its, strict=True) if a != b), None)


@dataclass(frozen=True)
class Item:
    """One kind of request. `body` is the JSON of POST /v1/jobs."""

    name: str
    body: dict[str, Any] = field(hash=False)

    def request(self) -> JobRequest:
        return JobRequest.model_validate(self.body)


def _item(name: str, prompt: object, /, **sampling: object) -> Item:
    defaults = {"max_tokens": 32, "ignore_eos": True, "seed": 11}
    return Item(name, {"model": MODEL, "prompt": prompt, "sampling": {**defaults, **sampling}})


def items() -> list[Item]:
    """All but the one with a stop string, which has to be found in another's answer."""
    euro = _token_ids_of_bytes(EURO)
    return [
        _item("greedy", STORY, temperature=0),
        _item("sampled", STORY, temperature=1.0, seed=5),
        _item("filtered", STORY, temperature=1.2, top_k=40, top_p=0.95, min_p=0.02, repetition_penalty=1.1),
        _item("logprobs", "The king said", temperature=1.0, logprobs=3, max_tokens=24),
        # Three bytes that only together are a character, in any order: parts of it are held back all the time.
        _item("multibyte", STORY, temperature=1.0, logit_bias=dict.fromkeys(euro, 100.0), max_tokens=40),
        _item("long prompt", " ".join([STORY] * 36), temperature=0.8, max_tokens=16),
        _item("token ids", list(range(10, 90)), temperature=0.8, max_tokens=20),
        _item("one token", STORY, temperature=0, max_tokens=1),
        _item("to its end", "The capital of France is", temperature=0, ignore_eos=False, max_tokens=48),
        Item(
            "chat",
            {
                "model": MODEL,
                "messages": [{"role": "user", "content": "Tell me a story about a fox."}],
                "sampling": {"temperature": 0.7, "seed": 3, "max_tokens": 32, "ignore_eos": True},
            },
        ),
    ]


def with_stop_string(greedy: Answer) -> Item:
    """The greedy request, stopped by a text that begins in one token and ends in another one further on."""
    texts = [token.text for token in greedy.tokens]
    middle = len(texts) // 2
    stop = texts[middle][-1] + texts[middle + 1] + texts[middle + 2][:1]
    return _item("stop string", STORY, temperature=0, stop=[stop])


def answers(ask: Callable[[Item], Answer]) -> dict[str, tuple[Item, Answer]]:
    """The catalogue by name, each with what `ask` (a calm cluster) says to it."""
    known = {item.name: (item, ask(item)) for item in items()}
    stopped = with_stop_string(known["greedy"][1])
    return {**known, stopped.name: (stopped, ask(stopped))}


def _token_ids_of_bytes(text: bytes) -> list[int]:
    with GGUFFile(DEMO_MODEL) as file:
        tokenizer = Tokenizer.from_gguf(file)
        return [i for i in range(tokenizer.n_vocab) if len(raw := tokenizer.token_bytes(i)) == 1 and raw in text]
