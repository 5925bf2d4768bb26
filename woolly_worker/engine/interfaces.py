"""What the engine needs of a model: small enough that a test can bring its own."""

from typing import Any, Protocol

from numpy.typing import NDArray

from woolly_worker.engine.detokenizer import TokenBytes
from woolly_worker.model.batch import StepBatch


class HasVocab(Protocol):
    @property
    def n_vocab(self) -> int: ...


class ForwardPass(Protocol):
    """What is needed of `model.transformer.Transformer`."""

    @property
    def batch(self) -> StepBatch: ...

    @property
    def n_ctx(self) -> int: ...

    @property
    def config(self) -> HasVocab: ...

    def step(self) -> NDArray[Any]: ...


class EngineTokenizer(TokenBytes, Protocol):
    """What is needed of `model.tokenizer.Tokenizer`."""

    @property
    def eog_ids(self) -> frozenset[int]: ...

    def token_text(self, token_id: int) -> str: ...
