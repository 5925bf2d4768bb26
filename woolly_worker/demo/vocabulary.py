"""The demo model's own vocabulary: byte-level BPE, figures one by one, and four control tokens."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

END = "<|end|>"  # ends a message and a story
SYSTEM, USER, ASSISTANT = "<|system|>", "<|user|>", "<|assistant|>"
CONTROL_TOKENS = (END, SYSTEM, USER, ASSISTANT)

# A word with the space before it, or a run of other characters; never a figure.
WORDS = re.compile(r" ?[^\W\d_]+| ?[^\w\s]+")

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] not in ['system', 'user', 'assistant'] -%}"
    "{{- raise_exception('This model knows the roles system, user and assistant.') -}}"
    "{%- endif -%}"
    "{{- '<|' + message['role'] + '|>' + (message['content'] | trim) + '<|end|>' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)


@dataclass(frozen=True, slots=True)
class Vocabulary:
    tokens: tuple[str, ...]  # in GPT-2's printable spelling of bytes, control tokens first
    merges: tuple[str, ...]  # "left right", best first

    def tokenizer(self) -> Tokenizer:
        """Encodes and decodes as llama.cpp does with tokenizer.ggml.model "gpt2" and tokenizer.ggml.pre "gpt-2"."""
        ids = {token: i for i, token in enumerate(self.tokens)}
        pairs = [(left, right) for left, right in (merge.split(" ") for merge in self.merges)]
        tokenizer = Tokenizer(models.BPE(vocab=ids, merges=pairs))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.add_special_tokens(list(CONTROL_TOKENS))
        return tokenizer


def train_vocabulary(texts: Iterable[str], n_vocab: int) -> Vocabulary:
    """Learn the merges. Figures are taken out first, so that every number stays a row of single figures:
    a sum learned for its figures can then be right for numbers that were never added in training. A word counts
    for the root of its occurrences, so that what only questions speak of becomes a token, too."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=n_vocab - len(CONTROL_TOKENS), initial_alphabet=alphabet, show_progress=False
    )
    counts = Counter(word for text in texts for word in WORDS.findall(text))
    seen = (word for word, count in sorted(counts.items()) for _ in range(math.isqrt(count)))
    tokenizer.train_from_iterator(seen, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    learned = sorted(model["vocab"], key=model["vocab"].__getitem__)
    merges = tuple(" ".join(pair) for pair in model["merges"])
    return Vocabulary((*CONTROL_TOKENS, *learned), merges)
