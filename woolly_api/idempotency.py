"""The Idempotency-Key header of the routes that make jobs. What it means is in contract/idempotency.py."""

from typing import Annotated, Any

from fastapi import Depends, Header, Request
from pydantic import BaseModel

from woolly_api.documentation import ErrorAnswer
from woolly_worker.contract.errors import InvalidRequest
from woolly_worker.contract.idempotency import HEADER, MAX_KEY_LENGTH, REPLAYED_HEADER, checked_key, digest
from woolly_worker.ledger.records import Once

REPLAYED = {REPLAYED_HEADER: "true"}
RESPONSES: dict[int | str, dict[str, Any]] = {
    422: {"model": ErrorAnswer, "description": f"The `{HEADER}` came with another body before."},
}


def _given(
    request: Request,
    documented: Annotated[
        str | None,
        Header(
            alias=HEADER,
            description=f"1 to {MAX_KEY_LENGTH} visible ASCII characters. The same key and body again is the same job, "
            f"answered with `{REPLAYED_HEADER}: true`, for as long as its record is kept.",
        ),
    ] = None,
) -> str | None:
    keys = request.headers.getlist(HEADER)
    if len(keys) > 1:
        raise InvalidRequest(f"{HEADER}: given {len(keys)} times, 1 is allowed", param=HEADER)
    return checked_key(keys[0]) if keys else None


IdempotencyKey = Annotated[str | None, Depends(_given)]


def once(key: str | None, kind: str, body: BaseModel) -> Once | None:
    """What the ledger remembers of this request; `body` as it was validated, `kind` of the route."""
    return None if key is None else Once(key, digest(kind, body))
