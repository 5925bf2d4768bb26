"""What a hostile model file is put through, for the fuzzer and for the short test: every way from bytes to a tokenizer.

The promise: whatever the bytes are, an error is a WoollyError, the time is bounded, and so is the memory, by the size
of the file and not by what its length fields claim.
"""

import os
from collections.abc import Callable
from pathlib import Path

from woolly_api.cli.inspect import describe
from woolly_worker.contract.errors import InvalidRequest, ModelFileError
from woolly_worker.gguf.reader import GGUFFile
from woolly_worker.model.chat import ChatTemplate
from woolly_worker.model.config import ModelConfig
from woolly_worker.model.tokenizer import Tokenizer
from woolly_worker.model.weights import load_weights

TEXT = "The wool, tießer 🧶 <|im_start|>in\n\t7 × 8</s>"
MESSAGES = [{"role": "user", "content": "What is wool?"}, {"role": "assistant", "content": "Hair."}]


# The weights of the seeds need no more. They are zeros here, so that an input is a head alone, where damage matters.
PADDED_BYTES = 160 * 1024


class Scratch:
    """A file in memory that is written anew for every input: a disk would decide how many inputs a second has."""

    def __init__(self, name: str = "fuzzed.gguf") -> None:
        self._descriptor = os.memfd_create(name)
        self.path = Path(f"/proc/self/fd/{self._descriptor}")

    def write(self, data: bytes, n_bytes: int = 0) -> Path:
        """`data`, and zeros behind it up to `n_bytes`."""
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, data, 0)
        os.ftruncate(self._descriptor, max(n_bytes, len(data)))
        return self.path

    def close(self) -> None:
        os.close(self._descriptor)


def exercise(path: Path) -> None:
    """As a worker and `woolly inspect` would, each part also when another has refused the file."""
    try:
        file = GGUFFile(path)
    except ModelFileError:
        return
    with file:
        _refused(lambda: describe(file, None))
        _refused(lambda: load_weights(file, ModelConfig.from_gguf(file)))
        _refused(lambda: _speak(file))


def _speak(file: GGUFFile) -> None:
    tokenizer = Tokenizer.from_gguf(file)
    for parse_special in (False, True):
        _refused(lambda: tokenizer.decode(tokenizer.encode(TEXT, parse_special=parse_special)))  # noqa: B023
    for token_id in range(min(tokenizer.n_vocab, 1000)):
        tokenizer.token_text(token_id)
    chat = ChatTemplate.from_gguf(file, tokenizer)
    if chat is not None:
        _refused(lambda: tokenizer.encode_chat(chat.render(MESSAGES)))


def _refused(part: Callable[[], object]) -> None:
    """The two ways to say no: the file is wrong, or it cannot do this with this text."""
    said = "nothing"
    try:
        part()
    except (ModelFileError, InvalidRequest) as error:
        said = error.message
    assert 0 < len(said) < 2000, f"a message of {len(said)} characters"
