"""The plots of the training stories, with choices in `[a|b]` and slots in `{}`; and how a story opens.

`{hero}` and `{friend}` are names, `{the_friend}` is "the owl"; `{he} {him} {his}` belong to the hero, `{fhe} {fhim}
{fhis}` to the friend, `{fohe} {fohim} {fohis}` to the third, `{other}`. `{place}` is where things happen ("the
forest"), `{thing}` a toy or tool with its colour ("red kite"), `{food}` something to eat.
A beat of the plot begins at the left margin and goes on in the lines that are indented.
"""

from __future__ import annotations

import re

from woolly_worker.demo.plots_of_friends import PLOTS_OF_FRIENDS
from woolly_worker.demo.plots_of_trouble import PLOTS_OF_TROUBLE


def _beats(text: str) -> tuple[str, ...]:
    """One string for each beat, its lines joined."""
    return tuple(" ".join(beat.split()) for beat in re.split(r"\n(?=\S)", text.strip()))


OPENINGS = _beats("""
Once upon a time[,|] there [was|lived] {a_trait} {kind} [called|named] {hero}. [{hero} lived {home}.|{he} lived
  {home} and loved {hobby}.|Every day {he} [dreamed of|thought about] {hobby}.]
Once upon a time[,|] {a_trait} {kind} [called|named] {hero} lived {home}. [{he} loved {hobby}.|{his} best friend was
  {a_fkind} called {friend}.|Everybody liked {him}.]
Once upon a time[,|] {home}, there lived {a_trait} {kind}. {his} name was {hero}. [{he} liked {hobby} more than
  anything else.|{he} had a friend called {friend}, {a_fkind}.]
Long ago, {home}, there lived {a_trait} {kind} called {hero}. [{he} loved {hobby}.|{he} was always kind to others.|]
There was once {a_trait} {kind} called {hero}, who lived {home}. [{hero} loved {hobby}.|]
Do you know {hero}? {hero} was {a_trait} {kind} who lived {home}. [{he} loved {hobby}.|]
{hero} was {a_trait} {kind} who lived {home}. [{he} loved {hobby}.|{he} had a good friend called {friend}.]
{a_trait} {kind} called {hero} lived {home}. [{he} loved {hobby}.|{he} liked {hobby} and eating {food2}.]
""")

PLOTS = {name: _beats(text) for name, text in (PLOTS_OF_TROUBLE | PLOTS_OF_FRIENDS).items()}
