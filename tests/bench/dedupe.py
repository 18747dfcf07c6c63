"""What finding near-duplicates costs and finds: `python -m tests.bench.dedupe [count]`.

Distinct concepts from the grammar (atoms and pairs of atoms, many of which differ in one colour)
and copies of some, planted later in several disguises. Counts the planted ones found and the
distinct ones merged; times the embedding and the search. Two threads. Writes results/dedupe.json.
"whole" is the time of a search in which every text is one part, so that all are compared with all;
as the vectors are others' there, it is a time and nothing else.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from modeling.concepts.grammar.families import FAMILIES
from modeling.concepts.near_duplicates import NearDuplicates
from modeling.concepts.text import content_words
from pipelines.runtime.machine import machine
from tests.bench.demo_stages import RESULTS

THREADS, PART = 2, 4096
SPELLINGS = {"grey": "gray", "coloured": "colored", "colour": "color", "moustache": "mustache"}
SPELLINGS |= {"jewellery": "jewelry", "watercolour": "watercolor", "blond": "blonde"}


def _spelling(text: str) -> str:
    pattern = r"\b(" + "|".join(SPELLINGS) + r")\b"
    return re.sub(pattern, lambda m: SPELLINGS[m[1]], text)


def _plural(text: str) -> str:
    """The last word in the plural; it must be a word to which an s is added."""
    return f"{text}s" if re.search(r"[bdglmnprtw]$", text) else text


DISGUISES: dict[str, Callable[[str], str]] = {
    "case and punctuation": lambda t: t.upper().replace(", ", " ,") + "!",
    "order of parts": lambda t: ", ".join(reversed(t.split(", "))),
    "articles": lambda t: "The " + re.sub(r"\b(a|an) ", "the ", t),
    "generic words": lambda t: f"a portrait of a person with {t}",
    "style": lambda t: f"in {t} style" if ", " not in t else t,
    "spelling": _spelling,
    "plural": _plural,
    "word order": lambda t: " ".join(reversed(t.split())) if len(t.split()) == 2 else t,
}


def texts(count: int) -> tuple[list[str], list[str]]:
    """Distinct texts and, for each, "" or the disguise of an earlier one that it is."""
    atoms = [(f, a.text) for f in FAMILIES.values() for a in f.atoms()]
    pairs = [
        f"{a}, {b}"
        for (f, a), (g, b) in itertools.combinations(atoms, 2)
        if f.category != g.category and f.compatible(g)
    ]

    def rank(text: str) -> bytes:
        return hashlib.sha256(text.encode()).digest()

    per_kind = count // 200
    needed = count - per_kind * len(DISGUISES)
    atoms_alone = list(dict.fromkeys(a for _, a in atoms))[:needed]
    pool = sorted(pairs, key=rank)[: max(0, needed - len(atoms_alone))]
    originals = [*atoms_alone, *pool][:needed]
    seen = set(originals)
    planted: list[tuple[str, str]] = []
    for kind, disguise in DISGUISES.items():
        # half of them atoms, as far as there are: in a pair, the other part hides the change
        for inside in (atoms_alone, pool):
            made = (disguise(s) for s in sorted(inside, key=lambda t: rank(kind + t)))
            new = itertools.islice((t for t in made if t not in seen), per_kind // 2)
            planted += [(t, kind) for t in new]
            seen |= {t for t, _ in planted}
    return [*originals, *(t for t, _ in planted)], [
        *[""] * len(originals),
        *(k for _, k in planted),
    ]


class _Clock:
    """Seconds between laps, by the wall and of this process's threads: others share the machine."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.cpu_seconds: dict[str, float] = {}
        self._at = (time.perf_counter(), time.process_time())

    def lap(self, name: str) -> None:
        now = (time.perf_counter(), time.process_time())
        self.seconds[name] = round(now[0] - self._at[0], 1)
        self.cpu_seconds[name] = round(now[1] - self._at[1], 1)
        self._at = now


def main(words: list[str]) -> int:
    import torch

    from modeling.text import TextEncoder

    load = os.getloadavg()
    torch.set_num_threads(THREADS)
    count = int(words[0]) if words else 100_000
    everything, kinds = texts(count)
    encoder = TextEncoder()
    clock = _Clock()
    parts = [everything[i : i + PART] for i in range(0, len(everything), PART)]
    vectors = np.concatenate([encoder.encode_columns(part).unit() for part in parts])
    clock.lap("embedding")
    near = NearDuplicates(lambda t: encoder.encode_columns(t).unit())
    repeats = near.repeats(everything, vectors)
    clock.lap("search")
    # as forms already, for which the vectors given are taken
    whole = list(dict.fromkeys(" ".join(content_words(t)) for t in everything))
    near.repeats(whole, vectors[: len(whole)])
    clock.lap("whole")
    there, found = Counter(kinds), Counter(np.array(kinds)[repeats >= 0].tolist())
    merged = [i for i in np.flatnonzero(repeats >= 0).tolist() if not kinds[i]]
    missed = [i for i in np.flatnonzero(repeats < 0).tolist() if kinds[i]]
    result = {
        "command": "python -m tests.bench.dedupe " + " ".join(words),
        "texts": len(everything),
        "seconds": clock.seconds,
        "cpu_seconds": clock.cpu_seconds,
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "planted": {k: {"planted": n, "found": found[k]} for k, n in there.items() if k},
        "distinct": there[""],
        "distinct_merged": len(merged),
        "examples_merged": [[everything[repeats[i]], everything[i]] for i in merged[:8]],
        "examples_missed": [[kinds[i], everything[i]] for i in missed[:: len(missed) // 8 + 1]],
        "threads": THREADS,
        "load_average_before": load,
        "machine": machine(),
    }
    Path(RESULTS, "dedupe.json").write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    print(json.dumps({k: v for k, v in result.items() if k != "machine"}, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
