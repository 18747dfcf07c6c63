"""Which atoms training sees, and which are held out."""

from __future__ import annotations

from modeling.concepts.concept import ConceptError
from modeling.concepts.grammar.families import FAMILIES
from modeling.concepts.grammar.family import Family
from modeling.concepts.recipe import ConceptSpec
from modeling.concepts.saying import Ref, edit_key
from modeling.concepts.shuffle import shuffled


def split_atoms(
    spec: ConceptSpec, seed: int, pools: dict[str, list[int]]
) -> tuple[list[Ref], list[Ref], list[Ref]]:
    """Test, validation and training atoms; each family keeps at least half for training."""
    names = shuffled(pools, f"{seed}/families")
    queues = {name: shuffled([(name, i) for i in pools[name]], f"{seed}/atoms") for name in names}
    room = {name: len(queues[name]) // 2 for name in names}
    heldout: dict[str, list[Ref]] = {}
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


def unseen_atoms(unseen: list[Family], wanted: int, key: str, families: str) -> list[Ref]:
    """`wanted` atoms of families that training does not see, spread evenly."""
    available = sum(len(family.rows) for family in unseen)
    if wanted > available:
        raise ConceptError(f"{key}: {wanted} wanted, but {families} has {available} atoms")
    queues = [[(f.name, i) for i in range(len(f.rows))] for f in unseen]
    shares = _shares([len(queue) for queue in queues], wanted)
    return [
        queue[i]
        for queue, share in zip(queues, shares, strict=True)
        for i in (even(len(queue), share) if share else [])
    ]


def paired_atoms(spec: ConceptSpec, families: list[Family], taken: list[Ref]) -> list[Ref]:
    """Atoms of the families that train by pairs alone, but none whose edit another atom has."""
    edits = {edit_key([ref]) for ref in taken}
    refs = []
    for family in families:
        for i in even(len(family.rows), spec.atoms_per_family):
            edit = edit_key([(family.name, i)])
            if edit not in edits:
                edits.add(edit)
                refs.append((family.name, i))
    return refs


def even(count: int, wanted: int) -> list[int]:
    """Evenly spaced indices below `count`: all for wanted = 0."""
    if wanted == 0 or wanted >= count:
        return list(range(count))
    return [i * count // wanted for i in range(wanted)]


def _shares(capacities: list[int], total: int) -> list[int]:
    """Spread `total` over bins as evenly as their capacities allow; earlier bins first."""
    shares = [0] * len(capacities)
    while sum(shares) < min(total, sum(capacities)):
        for i, capacity in enumerate(capacities):
            if shares[i] < capacity and sum(shares) < total:
                shares[i] += 1
    return shares
