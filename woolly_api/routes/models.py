"""/v1/models in OpenAI's shape, with the model card and the number of live workers beside it."""

from collections import Counter
from typing import Annotated

from fastapi import APIRouter, Path

from woolly_api.routes.openai_shapes import OpenAIModel, OpenAIModelList
from woolly_api.services import Injected
from woolly_worker.contract.errors import ModelNotFound
from woolly_worker.ledger.models import ModelCard

router = APIRouter(prefix="/v1/models", tags=["OpenAI"])


def _entry(card: ModelCard, workers: int) -> OpenAIModel:
    return OpenAIModel(
        id=card.name,
        created=int(card.announced_at or 0),
        workers=workers,
        # The path is a matter of the worker's machine and nobody else's.
        woolly=card.model_dump(exclude={"name", "announced_at", "path"}, exclude_none=True),
    )


async def _entries(services: Injected) -> list[OpenAIModel]:
    live = Counter(beat.model for beat in await services.reader.workers())
    return [_entry(card, live[card.name]) for card in await services.reader.models()]


@router.get("", summary="List models")
async def list_models(services: Injected) -> OpenAIModelList:
    """Every model that a worker has announced. One without a live worker is listed too: its jobs wait."""
    return OpenAIModelList(data=await _entries(services))


# A name may hold slashes, as in "org/model".
@router.get("/{model_id:path}", summary="Look at a model")
async def look(services: Injected, model_id: Annotated[str, Path(min_length=1, max_length=200)]) -> OpenAIModel:
    entries = await _entries(services)
    for entry in entries:
        if entry.id == model_id:
            return entry
    raise ModelNotFound(
        f"no worker has ever announced the model '{model_id}'",
        param="model",
        details={"available_models": [entry.id for entry in entries]},
    )
