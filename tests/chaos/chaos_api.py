"""The API under attack: the real one, with traps (see traps.py)."""

import os
from pathlib import Path
from typing import Any

from chaos.mutants import mutate
from chaos.traps import lay, spring

from woolly_api.doorbell import Doorbell
from woolly_api.server import serve
from woolly_api.settings import ApiSettings


def _trap_the_bell(folder: Path) -> None:
    ring = Doorbell.ring

    def trapped(self: Doorbell, bell: Any) -> None:
        spring(folder, "ring.before")
        ring(self, bell)

    Doorbell.ring = trapped  # type: ignore[method-assign]


if __name__ == "__main__":
    mutate(os.environ.get("CHAOS_MUTANT"))  # its readers look at what the mutated workers write
    traps = Path(os.environ["CHAOS_TRAPS"])
    lay(traps)
    _trap_the_bell(traps)
    serve(ApiSettings())
