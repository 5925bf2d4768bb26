"""Whether a prompt and its completion fit into a context: the API asks at submit, as far as it knows, and the engine
when it has counted."""

from woolly_worker.contract.errors import ContextOverflow


def check_fits(n_ctx: int, *, n_prompt: int | None, max_tokens: int | None) -> None:
    """Raises ContextOverflow with the numbers that disagree. `n_prompt` None: not counted yet, and one token at least;
    `max_tokens` None: as many as there is room for, and one at least. `param` is the path in a JobRequest."""
    if (n_prompt or 1) + (max_tokens or 1) <= n_ctx:
        return
    said = []
    if n_prompt is not None:
        said.append(f"the prompt has {n_prompt:,} {'token' if n_prompt == 1 else 'tokens'}")
    if max_tokens is not None:
        said.append(f"max_tokens is {max_tokens:,}")
    wanted = " and ".join(said) or "a job has two tokens at least"
    param = None if n_prompt is None else "prompt"
    if max_tokens is not None and (n_prompt is None or n_prompt < n_ctx):
        param = "sampling.max_tokens"
    raise ContextOverflow(
        f"{wanted}, the context holds {n_ctx:,} for prompt and completion",
        param=param,
        details={"n_prompt": n_prompt, "max_tokens": max_tokens, "n_ctx": n_ctx},
    )
