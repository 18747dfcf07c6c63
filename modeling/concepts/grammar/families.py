"""Every family by its name, in the order in which concepts are planned.

The categories are the paper's (Sec. 3.1): facial modification, characteristic and art.
"""

from __future__ import annotations

from modeling.concepts.grammar.art_colours import ART_COLOURS
from modeling.concepts.grammar.art_strengths import ART_STRENGTHS
from modeling.concepts.grammar.characteristic import CHARACTERISTIC
from modeling.concepts.grammar.facial import FACIAL
from modeling.concepts.grammar.family import Family

FAMILIES: dict[str, Family] = {
    f.name: f for f in (*FACIAL, *CHARACTERISTIC, *ART_COLOURS, *ART_STRENGTHS)
}
