"""A training checkpoint: one .npz with the weights, the shape and the vocabulary. Nothing in it is executed on load."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from woolly_worker.demo.vocabulary import Vocabulary

if TYPE_CHECKING:  # a checkpoint is read, and exported, without PyTorch
    from woolly_worker.demo.model import Parameters, Shape


def save_checkpoint(path: Path, parameters: Parameters, shape: Shape, vocabulary: Vocabulary) -> None:
    """Write beside the old one, then replace it: an interrupted run keeps a whole file."""
    about = json.dumps({"shape": asdict(shape), "tokens": vocabulary.tokens, "merges": vocabulary.merges})
    arrays = {name: value.detach().float().numpy() for name, value in parameters.items()}
    new = path.with_name(path.name + ".new")
    with new.open("wb") as file:
        np.savez(file, about=np.array(about), **arrays)
    new.replace(path)


def load_checkpoint(path: Path) -> tuple[dict[str, NDArray[np.float32]], dict[str, int | float], Vocabulary]:
    """(weights by GGUF name, the shape's fields, vocabulary)."""
    with np.load(path, allow_pickle=False) as file:
        about = json.loads(str(file["about"]))
        weights = {name: file[name].astype(np.float32) for name in file.files if name != "about"}
    return weights, about["shape"], Vocabulary(tuple(about["tokens"]), tuple(about["merges"]))
