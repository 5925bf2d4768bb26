"""ChatTemplate: messages -> prompt, through the model's own Jinja template.

The template comes out of a downloaded file, so it runs in `template_guard.py`'s sandbox. Whatever goes wrong in it, be
it a conversation the template refuses (`raise_exception`) or a broken template, is an InvalidRequest with the
template's own words. Text of messages is inserted as it is; what keeps it from turning into control tokens is the
tokenizer.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from jinja2 import TemplateError

from woolly_worker.contract.errors import InvalidRequest
from woolly_worker.gguf.reader import GGUFFile
from woolly_worker.model.template_guard import GuardedEnvironment
from woolly_worker.model.template_limits import with_budget
from woolly_worker.model.tokenizer import Tokenizer

_KEY = "tokenizer.chat_template"
_MAX_MESSAGE = 500  # characters of a template's own error message that are passed on
_OWN_NAMES = frozenset(
    {"messages", "tools", "add_generation_prompt", "bos_token", "eos_token", "raise_exception", "strftime_now"}
)


class ChatTemplate:
    """Compiled once, rendered any number of times, from any thread.

    `problem` says why the template cannot be compiled, else None. Such a model can still complete plain prompts, so it
    is not an error before somebody sends a chat.
    """

    def __init__(self, source: str, *, bos_token: str, eos_token: str) -> None:
        self.source = source
        self.problem: str | None = None
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}
        try:
            self._template = GuardedEnvironment().compile_guarded(source)
        except (TemplateError, RecursionError) as error:
            line = f" (line {error.lineno})" if hasattr(error, "lineno") else ""
            self.problem = f"the model's chat template is broken: {_shorten(error)}{line}"

    @classmethod
    def from_gguf(cls, file: GGUFFile, tokenizer: Tokenizer) -> "ChatTemplate | None":
        """None if the file has no chat template."""
        if _KEY not in file.metadata:
            return None
        bos, eos = (
            "" if token_id is None else tokenizer.token_text(token_id)
            for token_id in (tokenizer.bos_id, tokenizer.eos_id)
        )
        return cls(file.metadata.text(_KEY), bos_token=bos, eos_token=eos)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        now: datetime | None = None,
        **extra: Any,
    ) -> str:
        """The prompt. `now` is what the template's `strftime_now` tells; `extra` are further variables it may read.

        Raises InvalidRequest."""
        if self.problem is not None:
            raise InvalidRequest(self.problem, param="messages")
        taken = sorted(_OWN_NAMES & extra.keys())
        if taken:
            raise InvalidRequest(f"'{taken[0]}' cannot be given as a template variable", param=taken[0])
        moment = now or datetime.now()
        variables = {
            **extra,
            **self._tokens,
            "messages": [dict(message) for message in messages],
            "tools": [dict(tool) for tool in tools] if tools is not None else None,
            "add_generation_prompt": add_generation_prompt,
            "raise_exception": _raise_exception,
            "strftime_now": lambda form: moment.strftime(str(form)[:100]),
        }
        try:
            return with_budget(lambda: self._template.generate(variables))
        except RecursionError:
            raise InvalidRequest("the model's chat template calls itself too deeply", param="messages") from None
        except TemplateError as error:
            raise InvalidRequest(f"the model's chat template refused: {_shorten(error)}", param="messages") from None
        except Exception as error:
            # The template is foreign code: whatever else it makes Python raise is its failure on these messages, which
            # Python's words may quote, so only the kind is passed on.
            kind = type(error).__name__
            raise InvalidRequest(
                f"the model's chat template failed on these messages: {kind}", param="messages"
            ) from None


def _raise_exception(message: object) -> None:
    raise TemplateError(str(message))


def _shorten(error: Exception) -> str:
    text = str(error)
    return text if len(text) <= _MAX_MESSAGE else text[: _MAX_MESSAGE - 3] + "..."
