"""Idempotency-Key: what a caller may send as one, and what makes two requests the same.

The first request of a tenant under a key makes the job. Another one with the same key is answered with that job as
long as its record is kept, and refused (IdempotencyKeyReused) if it asks for something else.
"""

import hashlib
import json
import re

from pydantic import BaseModel

from woolly_worker.contract.errors import InvalidRequest

HEADER = "Idempotency-Key"
REPLAYED_HEADER = "Idempotency-Replayed"
MAX_KEY_LENGTH = 255

_INVISIBLE = re.compile(r"[^!-~]")


def checked_key(key: str) -> str:
    """`key`, or InvalidRequest that names the header and the numbers, and does not quote it."""
    if not 1 <= len(key) <= MAX_KEY_LENGTH:
        raise InvalidRequest(f"{HEADER}: {len(key)} characters, allowed are 1 to {MAX_KEY_LENGTH}", param=HEADER)
    if strange := len(_INVISIBLE.findall(key)):
        raise InvalidRequest(f"{HEADER}: {strange} of {len(key)} characters are not visible ASCII", param=HEADER)
    return key


def digest(kind: str, body: BaseModel) -> str:
    """Of a body as it was validated. `kind` tells endpoints apart whose bodies look alike.

    The order of fields does not matter, nor whether a default is spelled out; so a field that a newer version adds
    changes no digest of a request that does not use it.
    """
    asked = json.dumps(body.model_dump(mode="json", exclude_defaults=True), sort_keys=True)
    return hashlib.sha256(f"{kind}\0{asked}".encode()).hexdigest()
