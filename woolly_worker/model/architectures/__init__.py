"""The architectures Woolly runs, by the name GGUF gives them. A new one is a small file and a line here."""

from woolly_worker.model.architectures.description import Architecture
from woolly_worker.model.architectures.llama import LLAMA

ARCHITECTURES: dict[str, Architecture] = {architecture.name: architecture for architecture in (LLAMA,)}
