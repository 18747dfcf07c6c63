"""Concepts: what a translator is trained for, and their split into training and held-out sets.

Follows Sec. 3.1 of the paper: atoms of three categories, combinations across categories and
paraphrases; held-out concepts are decided first and never enter a training combination.
"""

from __future__ import annotations

import bisect
import hashlib
import heapq
import itertools
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import pyarrow as pa

from modeling.concepts.grammar.families import FAMILIES
from modeling.concepts.grammar.family import CATEGORIES, Family
from modeling.concepts.recipe import ConceptSpec

SPLITS = ("train", "val", "test")

# concept_id: file-safe; families, parents, adapter: see Concept; edit: a JSON object of strings.
SCHEMA = pa.schema(
    [
        pa.field("concept_id", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("category", pa.string(), nullable=False),
        pa.field("families", pa.list_(pa.string()), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("heldout", pa.string(), nullable=False),
        pa.field("origin", pa.string(), nullable=False),
        pa.field("parents", pa.list_(pa.string()), nullable=False),
        pa.field("edit", pa.string(), nullable=False),
        pa.field("adapter", pa.bool_(), nullable=False),
    ]
)


class ConceptError(ValueError):
    """A plan that cannot be met, or a table that holds no concepts; names the key at fault."""


@dataclass(frozen=True)
class Concept:
    """A text and the edit it stands for.

    category: "facial", "characteristic", "art" or "combined".
    families: one for an atom, two or more for a combination.
    heldout: "" in training, else why it is unseen: "atoms", "combinations" or "families".
    origin: "written", "combined" or "paraphrased".
    parents: ids of a combination's atoms, or of the concept that a paraphrase says again.
    edit: attributes or filter parameters for the exact editors; empty where there are none.
    adapter: whether an adapter is collected; if not, its pairs serve the image loss alone.
    """

    concept_id: str
    text: str
    category: str
    families: tuple[str, ...]
    split: str
    heldout: str = ""
    origin: str = "written"
    parents: tuple[str, ...] = ()
    edit: dict[str, str] = field(default_factory=dict, hash=False)
    adapter: bool = True


def concept_id(text: str) -> str:
    """A file-safe name for a text: a slug and 6 hexadecimal digits of the text's hash."""
    slug = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:100].rstrip("-") or "concept"
    return f"{slug}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def plan_concepts(
    spec: ConceptSpec, seed: int, supports: Callable[[str], bool] = lambda family: True
) -> list[Concept]:
    """Choose the concepts of every split; the same arguments give the same list.

    Held-out concepts are chosen first: (a) atoms of families that appear nowhere else, (b) atoms
    of families that training sees, (c) combinations of training atoms that training does not see.
    No combination contains a held-out atom, and no two concepts have the same text or, paraphrases
    apart, the same edit.

    supports: tells by a family's name whether the editor can apply it.
    Raises ConceptError that names the key and what is available when a count cannot be met.
    """
    _check_counts(spec)
    seen, others = _families(spec, supports)
    test_families = _unseen_atoms(
        others["heldout_families"], spec.test_families, "test_families", "heldout_families"
    )
    val_families = _unseen_atoms(
        others["validation_families"], spec.val_families, "val_families", "validation_families"
    )
    pools = {f.name: _even(len(f.rows), spec.atoms_per_family) for f in seen}
    test, val, train = _split_atoms(spec, seed, pools)

    heldout = [*test, *val, *test_families, *val_families]
    paired = _paired_atoms(spec, others["paired_families"], [*train, *heldout])

    planner = _Combinations(train, _tuples(spec, seen), seed)
    planner.avoid([*heldout, *paired])
    combined = {
        split: planner.choose(count, f"{split}_combinations")
        for split, count in (
            ("test", spec.test_combinations),
            ("val", spec.val_combinations),
            # one choice: the collected ones do not depend on how many others follow them
            ("train", spec.train_combinations + spec.paired_combinations),
        )
    }
    concepts = [
        *(_concept([ref], "train") for ref in train),
        *(
            _concept(refs, "train", adapter=i < spec.train_combinations)
            for i, refs in enumerate(combined["train"])
        ),
        *(_concept([ref], "train", adapter=False) for ref in paired),
        *(_concept([ref], "val", "atoms") for ref in val),
        *(_concept(refs, "val", "combinations") for refs in combined["val"]),
        *(_concept([ref], "val", "families") for ref in val_families),
        *(_concept([ref], "test", "atoms") for ref in test),
        *(_concept(refs, "test", "combinations") for refs in combined["test"]),
        *(_concept([ref], "test", "families") for ref in test_families),
    ]
    parts = [*([ref] for ref in train), *combined["train"], *([ref] for ref in paired)]
    concepts += _paraphrases(concepts, parts, spec.paraphrases, seed)
    clash = _first_repeat(concept.concept_id for concept in concepts)
    if clash:
        raise ConceptError(f"two concepts have the id {clash!r}: change the seed or the counts")
    return concepts


def to_table(concepts: Sequence[Concept]) -> pa.Table:
    """Return the concepts as a table of SCHEMA, one row each."""
    rows = [
        {
            **vars(concept),
            "families": list(concept.families),
            "parents": list(concept.parents),
            "edit": json.dumps(concept.edit, sort_keys=True),
        }
        for concept in concepts
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def from_table(table: pa.Table) -> list[Concept]:
    """Read concepts back from a table of SCHEMA; raises ConceptError for any other."""
    missing = [name for name in SCHEMA.names if name not in table.column_names]
    if missing:
        raise ConceptError(f"the concept table lacks the columns {', '.join(missing)}")
    return [_from_row(row) for row in table.select(SCHEMA.names).to_pylist()]


def parse_concept(text: str) -> Concept | None:
    """Read a text that the grammar can say, paraphrases included; None for any other.

    The concept belongs to no plan: its split is "test" and `heldout` is empty. A combination's
    parts may come in any order, each said as it is inside a combination or on its own.
    """
    parts = [part.strip() for part in text.strip().split(", ")]
    refs = [_sayings().get(part.lower()) for part in parts]
    known = [ref for ref in refs if ref is not None]
    if len(known) < len(refs):
        return None
    families = [FAMILIES[name] for name, _ in known]
    if not all(a.compatible(b) for a, b in itertools.combinations(families, 2)):
        return None
    return replace(_concept(known, "test"), text=text.strip(), concept_id=concept_id(text.strip()))


_Ref = tuple[str, int]  # family name, index of the atom in it


def _check_counts(spec: ConceptSpec) -> None:
    for key, value in vars(spec).items():
        least = -1 if key == "train_atoms" else 0
        if isinstance(value, int) and value < least:
            raise ConceptError(f"{key} must be {least} or more, got {value}")


def _families(
    spec: ConceptSpec, supports: Callable[[str], bool]
) -> tuple[list[Family], dict[str, list[Family]]]:
    """Families whose adapters are collected, and by key the others, all in the grammar's order."""
    supported = [name for name in FAMILIES if supports(name)]
    others = ("heldout_families", "validation_families", "paired_families")
    for key in ("families", *others):
        for name in getattr(spec, key):
            if name not in FAMILIES:
                known = ", ".join(FAMILIES)
                raise ConceptError(f"{key}: unknown family {name!r}, use one of {known}")
            if name not in supported:
                known = ", ".join(supported)
                raise ConceptError(f"{key}: the editor does not support {name!r}, only {known}")
    for first, second in itertools.combinations(others, 2):
        both = set(getattr(spec, first)) & set(getattr(spec, second))
        if both:
            raise ConceptError(f"{second}: {min(both)!r} is one of {first}, too")
    seen = set(spec.families or supported).difference(*(getattr(spec, key) for key in others))
    if not seen:
        raise ConceptError("families: none is left for training")
    return (
        [FAMILIES[name] for name in supported if name in seen],
        {key: [FAMILIES[n] for n in supported if n in getattr(spec, key)] for key in others},
    )


def _even(count: int, wanted: int) -> list[int]:
    """Evenly spaced indices below `count`: all for wanted = 0."""
    if wanted == 0 or wanted >= count:
        return list(range(count))
    return [i * count // wanted for i in range(wanted)]


def _shuffled(items: Iterable[Any], seed: int, salt: str) -> list[Any]:
    """A shuffle by hash: the same on every version of every library."""
    return sorted(items, key=lambda item: _digest(f"{seed}/{salt}/{item}"))


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _unseen_atoms(unseen: list[Family], wanted: int, key: str, families: str) -> list[_Ref]:
    """`wanted` atoms of families that training does not see, spread evenly."""
    available = sum(len(family.rows) for family in unseen)
    if wanted > available:
        raise ConceptError(f"{key}: {wanted} wanted, but {families} has {available} atoms")
    queues = [[(f.name, i) for i in range(len(f.rows))] for f in unseen]
    shares = _shares([len(queue) for queue in queues], wanted)
    return [
        queue[i]
        for queue, share in zip(queues, shares, strict=True)
        for i in (_even(len(queue), share) if share else [])
    ]


def _paired_atoms(spec: ConceptSpec, families: list[Family], taken: list[_Ref]) -> list[_Ref]:
    """Atoms of the families that train by pairs alone, but none whose edit another atom has."""
    edits = {_edit_key([ref]) for ref in taken}
    refs = []
    for family in families:
        for i in _even(len(family.rows), spec.atoms_per_family):
            edit = _edit_key([(family.name, i)])
            if edit not in edits:
                edits.add(edit)
                refs.append((family.name, i))
    return refs


def _shares(capacities: list[int], total: int) -> list[int]:
    """Spread `total` over bins as evenly as their capacities allow; earlier bins first."""
    shares = [0] * len(capacities)
    while sum(shares) < min(total, sum(capacities)):
        for i, capacity in enumerate(capacities):
            if shares[i] < capacity and sum(shares) < total:
                shares[i] += 1
    return shares


def _split_atoms(
    spec: ConceptSpec, seed: int, pools: dict[str, list[int]]
) -> tuple[list[_Ref], list[_Ref], list[_Ref]]:
    """Test, validation and training atoms; each family keeps at least half for training."""
    names = _shuffled(pools, seed, "families")
    queues = {name: _shuffled([(name, i) for i in pools[name]], seed, "atoms") for name in names}
    room = {name: len(queues[name]) // 2 for name in names}
    heldout: dict[str, list[_Ref]] = {}
    for key, count in (("test_atoms", spec.test_atoms), ("val_atoms", spec.val_atoms)):
        if count > sum(room.values()):
            raise ConceptError(
                f"{key}: {count} wanted, but only {sum(room.values())} atoms can be held out when "
                "every family keeps half of its atoms for training"
            )
        # Families with the most room first, so that validation does not reuse test's families.
        names.sort(key=lambda name: len(queues[name]) // 2 - room[name])
        shares = _shares([room[name] for name in names], count)
        heldout[key] = []
        for name, share in zip(names, shares, strict=True):
            heldout[key] += [queues[name].pop() for _ in range(share)]
            room[name] -= share

    left = sum(len(queue) for queue in queues.values())
    wanted = left if spec.train_atoms < 0 else spec.train_atoms
    if wanted > left:
        raise ConceptError(f"train_atoms: {wanted} wanted, but only {left} atoms are left")
    # Families that a held-out atom comes from must be seen in training: they come first.
    touched = {name for name, _ in (*heldout["test_atoms"], *heldout["val_atoms"])}
    if wanted < len(touched):
        raise ConceptError(
            f"train_atoms: {wanted} wanted, but the held-out atoms come from {len(touched)} "
            "families, which must all be seen in training"
        )
    names.sort(key=lambda name: name not in touched)
    shares = _shares([len(queues[name]) for name in names], wanted)
    train = [r for n, share in zip(names, shares, strict=True) for r in queues[n][:share]]
    order = {name: i for i, name in enumerate(FAMILIES)}
    return (
        sorted(heldout["test_atoms"], key=lambda ref: (order[ref[0]], ref[1])),
        sorted(heldout["val_atoms"], key=lambda ref: (order[ref[0]], ref[1])),
        sorted(train, key=lambda ref: (order[ref[0]], ref[1])),
    )


def _tuples(spec: ConceptSpec, seen: list[Family]) -> list[tuple[str, ...]]:
    """The tuples of families that may be combined, each in the grammar's order."""
    if not spec.combine:
        return [
            (a.name, b.name)
            for a, b in itertools.combinations(seen, 2)
            if a.category != b.category and a.compatible(b)
        ]
    order = {family.name: i for i, family in enumerate(seen)}
    tuples = []
    for names in spec.combine:
        for name in names:
            if name not in order:
                known = ", ".join(order)
                raise ConceptError(f"combine: {name!r} is no family of training: {known}")
        if len(names) < 2:
            raise ConceptError(f"combine: {names} needs two families or more")
        for a, b in itertools.combinations(names, 2):
            if a == b or not FAMILIES[a].compatible(FAMILIES[b]):
                raise ConceptError(f"combine: {a!r} and {b!r} change the same attribute")
        tuples.append(tuple(sorted(names, key=order.__getitem__)))
    return list(dict.fromkeys(tuples))


class _Combinations:
    """Chooses combinations of atoms so that atoms, then tuples of families, are used evenly."""

    def __init__(self, atoms: list[_Ref], tuples: list[tuple[str, ...]], seed: int) -> None:
        self._members: dict[str, list[_Ref]] = {}
        for ref in _shuffled(atoms, seed, "combinations"):
            self._members.setdefault(ref[0], []).append(ref)
        self._tuples = [t for t in tuples if all(name in self._members for name in t)]
        self._by_family: dict[str, list[int]] = {}
        for i, names in enumerate(self._tuples):
            for name in names:
                self._by_family.setdefault(name, []).append(i)
        self._used: set[tuple[_Ref, ...]] = set()
        self._edits = {_edit_key([ref]) for ref in atoms}
        self._total = sum(
            math.prod(len(self._members[name]) for name in names) for names in self._tuples
        )

    def avoid(self, atoms: Iterable[_Ref]) -> None:
        """Choose no combination whose edit is that of one of these atoms."""
        self._edits |= {_edit_key([ref]) for ref in atoms}

    def choose(self, count: int, key: str) -> list[list[_Ref]]:
        """Return `count` unused combinations; `key` names the count in an error."""
        left = self._total - len(self._used)
        if count > left:
            raise ConceptError(f"{key}: {count} wanted, but {left} combinations are available")
        # Ranks break ties between equal degrees; degrees start afresh for every split.
        rank = {r: i for members in self._members.values() for i, r in enumerate(members)}
        degree = dict.fromkeys(rank, 0)
        sorted_members = {
            name: [(0, i, ref) for i, ref in enumerate(members)]
            for name, members in self._members.items()
        }
        tuple_use = [0] * len(self._tuples)
        heap = [(0, _digest(f"{key}/{ref}"), ref) for ref in rank if ref[0] in self._by_family]
        heapq.heapify(heap)
        chosen: list[list[_Ref]] = []
        while len(chosen) < count and heap:
            at, tie, ref = heapq.heappop(heap)
            if at != degree[ref]:
                heapq.heappush(heap, (degree[ref], tie, ref))
                continue
            found = self._partners(ref, sorted_members, tuple_use)
            if found is None:  # every combination with this atom is used
                continue
            which, refs = found
            self._used.add(tuple(refs))
            tuple_use[which] += 1
            for member in refs:
                entries = sorted_members[member[0]]
                entry = (degree[member], rank[member], member)
                entries.pop(bisect.bisect_left(entries, entry))
                degree[member] += 1
                bisect.insort(entries, (degree[member], rank[member], member))
            heapq.heappush(heap, (degree[ref], tie, ref))
            edit = _edit_key(refs)
            if edit not in self._edits:  # no edit may be reached in two ways, and so leak
                self._edits.add(edit)
                chosen.append(refs)
        if len(chosen) < count:
            raise ConceptError(
                f"{key}: {count} wanted, but only {len(chosen)} distinct ones are available"
            )
        return chosen

    def _partners(
        self,
        ref: _Ref,
        sorted_members: dict[str, list[tuple[int, int, _Ref]]],
        tuple_use: list[int],
    ) -> tuple[int, list[_Ref]] | None:
        """The unused combination with `ref` whose other atoms are used least."""
        best: tuple[float, int, int, list[_Ref]] | None = None
        for which in self._by_family[ref[0]]:
            lists = [
                [(0, 0, ref)] if name == ref[0] else sorted_members[name]
                for name in self._tuples[which]
            ]
            for picked in itertools.product(*lists):
                refs = [entry[2] for entry in picked]
                if tuple(refs) not in self._used:
                    load = sum(entry[0] for entry in picked) / len(picked)
                    if best is None or (load, tuple_use[which], which) < best[:3]:
                        best = (load, tuple_use[which], which, refs)
                    break
        return None if best is None else (best[2], best[3])


def _edit(refs: Sequence[_Ref]) -> dict[str, str]:
    return {k: v for name, i in refs for k, v in FAMILIES[name].rows[i].edit.items()}


def _edit_key(refs: Sequence[_Ref]) -> frozenset[tuple[str, str]]:
    return frozenset(_edit(refs).items())


def _variants(refs: Sequence[_Ref]) -> Iterator[str]:
    """Every way of saying an atom or a combination, its own text first."""
    sayings = [
        FAMILIES[name].phrases(i, leading=place == 0) for place, (name, i) in enumerate(refs)
    ]
    return (", ".join(parts) for parts in itertools.product(*sayings))


def _concept(
    refs: Sequence[_Ref], split: str, heldout: str = "", *, adapter: bool = True
) -> Concept:
    names = tuple(name for name, _ in refs)
    text = next(_variants(refs))
    atom = len(refs) == 1
    return Concept(
        concept_id=concept_id(text),
        text=text,
        category=FAMILIES[names[0]].category if atom else "combined",
        families=names,
        split=split,
        heldout=heldout,
        origin="written" if atom else "combined",
        parents=() if atom else tuple(concept_id(next(_variants([ref]))) for ref in refs),
        edit=_edit(refs),
        adapter=adapter,
    )


def _paraphrases(
    concepts: list[Concept], parts: list[list[_Ref]], count: int, seed: int
) -> list[Concept]:
    """Say each training concept `count` more times; `parts` are the atoms of each, in order."""
    texts = {concept.text for concept in concepts}
    said: list[Concept] = []
    for parent, refs in zip(concepts, parts, strict=False) if count else ():
        fresh = [text for text in _variants(refs) if text not in texts]
        if count > len(fresh):
            raise ConceptError(
                f"paraphrases: {count} wanted, but {parent.text!r} has only {len(fresh)}"
            )
        for text in _shuffled(fresh, seed, "paraphrases")[:count]:
            texts.add(text)
            said.append(
                replace(
                    parent,
                    concept_id=concept_id(text),
                    text=text,
                    origin="paraphrased",
                    parents=(parent.concept_id,),
                )
            )
    return said


def _first_repeat(items: Iterable[str]) -> str:
    seen: set[str] = set()
    for item in items:
        if item in seen:
            return item
        seen.add(item)
    return ""


@cache
def _sayings() -> dict[str, _Ref]:
    """Lower-case phrase -> atom, over every way of saying every atom."""
    found: dict[str, _Ref] = {}
    for family in FAMILIES.values():
        for i in range(len(family.rows)):
            for leading in (True, False):
                for phrase in family.phrases(i, leading=leading):
                    found.setdefault(phrase.lower(), (family.name, i))
    return found


def _from_row(row: dict[str, Any]) -> Concept:
    try:
        edit = json.loads(row["edit"])
        if not isinstance(edit, dict) or not all(isinstance(v, str) for v in edit.values()):
            raise ValueError("edit is no JSON object of strings")
        if row["split"] not in SPLITS:
            raise ValueError(f"split {row['split']!r} is none of {', '.join(SPLITS)}")
        if row["category"] not in (*CATEGORIES, "combined"):
            raise ValueError(f"unknown category {row['category']!r}")
        values = {**row, "edit": edit}
        values |= {key: tuple(row[key]) for key in ("families", "parents")}
        return Concept(**values)
    except (TypeError, ValueError) as error:
        raise ConceptError(f"the concept {row['concept_id']!r} cannot be read: {error}") from error
