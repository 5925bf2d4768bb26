"""Refuses request bodies that are too large, before anything parses them."""

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class BodyLimit:
    """ASGI middleware. A body without a length is counted as it arrives."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            if declared.isdigit() and int(declared) > self._max_bytes:
                raise self._too_large(int(declared))
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._max_bytes:
                raise self._too_large(seen)
            return message

        # Raised where the route reads its body, so the ordinary error handler answers.
        await self._app(scope, counted, send)

    def _too_large(self, n_bytes: int) -> HTTPException:
        return HTTPException(413, f"the body has {n_bytes} bytes or more, the limit is {self._max_bytes}")
