"""The numbers of probation, read where they are written: in the scripts."""

import re

from woolly_worker.ledger.connection import script_text


def _number(name: str) -> int:
    (found,) = re.findall(rf"^local {name} = (\d+)", script_text("claim"), re.MULTILINE)
    return int(found)


PROBATION_TOKENS = _number("PROBATION_TOKENS")
MOST_DOUBLINGS = _number("MOST_DOUBLINGS")
