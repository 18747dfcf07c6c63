"""Combinations of atoms, chosen so that each atom is used about as often."""

from __future__ import annotations

import bisect
import heapq
import itertools
import math
from collections.abc import Iterable

from modeling.concepts.concept import ConceptError
from modeling.concepts.grammar.families import FAMILIES
from modeling.concepts.grammar.family import Family
from modeling.concepts.recipe import ConceptSpec
from modeling.concepts.saying import Ref, edit_key
from modeling.concepts.shuffle import digest, shuffled


def family_tuples(spec: ConceptSpec, seen: list[Family]) -> list[tuple[str, ...]]:
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


class Combinations:
    """Chooses combinations of atoms so that atoms, then tuples of families, are used evenly."""

    def __init__(self, atoms: list[Ref], tuples: list[tuple[str, ...]], seed: int) -> None:
        self._members: dict[str, list[Ref]] = {}
        for ref in shuffled(atoms, f"{seed}/combinations"):
            self._members.setdefault(ref[0], []).append(ref)
        self._tuples = [t for t in tuples if all(name in self._members for name in t)]
        self._by_family: dict[str, list[int]] = {}
        for i, names in enumerate(self._tuples):
            for name in names:
                self._by_family.setdefault(name, []).append(i)
        self._used: set[tuple[Ref, ...]] = set()
        self._edits = {edit_key([ref]) for ref in atoms}
        self._total = sum(
            math.prod(len(self._members[name]) for name in names) for names in self._tuples
        )

    def avoid(self, atoms: Iterable[Ref]) -> None:
        """Choose no combination whose edit is that of one of these atoms."""
        self._edits |= {edit_key([ref]) for ref in atoms}

    def choose(self, count: int, key: str) -> list[list[Ref]]:
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
        heap = [(0, digest(f"{key}/{ref}"), ref) for ref in rank if ref[0] in self._by_family]
        heapq.heapify(heap)
        chosen: list[list[Ref]] = []
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
            edit = edit_key(refs)
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
        ref: Ref,
        sorted_members: dict[str, list[tuple[int, int, Ref]]],
        tuple_use: list[int],
    ) -> tuple[int, list[Ref]] | None:
        """The unused combination with `ref` whose other atoms are used least."""
        best: tuple[float, int, int, list[Ref]] | None = None
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
