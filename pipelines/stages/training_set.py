"""The collected adapters as blocks, read part by part: the paper's take 85 GB."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from modeling.targets.lora import WEIGHTS_FILE
from pipelines.runtime.run_dir import READERS, ArtifactError, RunDir
from pipelines.runtime.tensors import to_numpy
from pipelines.stages.adapter_metrics import FOLDER as ADAPTERS
from pipelines.stages.weights import FOLDER, block_files

AHEAD = 3
"""Parts of 128 MiB that are read at once."""


class TrainingSet:
    """Raw blocks of each concept's last checkpoint in one split, in the order of the tables.

    Raises ArtifactError if there are none.
    """

    def __init__(self, run_dir: RunDir, split: str = "train") -> None:
        self.run_dir = run_dir
        files = block_files(run_dir)

        def keys(name: str) -> list[dict[str, Any]]:
            return run_dir.read_columns(name, ["concept_id", "checkpoint", "split"])

        with ThreadPoolExecutor(READERS) as threads:
            found = list(threads.map(keys, files))
        last: dict[str, tuple[int, int]] = {}
        newest: dict[str, int] = {}
        for part, rows in enumerate(found):
            for i, row in enumerate(rows):
                concept_id, step = row["concept_id"], row["checkpoint"]
                if row["split"] == split and step > newest.get(concept_id, -1):
                    newest[concept_id], last[concept_id] = step, (part, i)
        if not last:
            raise ArtifactError(f"{run_dir.url(FOLDER)} has no blocks of {split} concepts")
        order = sorted(last, key=last.__getitem__)
        self._steps = newest
        self.ids = order
        self._of: list[tuple[str, list[int]]] = [
            (name, [last[i][1] for i in order if last[i][0] == part])
            for part, name in enumerate(files)
        ]

    def folder(self, concept_id: str) -> str:
        """Where its adapter is: its own folder, or an earlier checkpoint's if the last was bad."""
        home = f"{ADAPTERS}/{concept_id}"
        earlier = f"{home}/step-{self._steps[concept_id]:06d}"
        return earlier if self.run_dir.exists(f"{earlier}/{WEIGHTS_FILE}") else home

    def parts(self) -> Iterator[torch.Tensor]:
        """[c, N, b], of all ids in order; the next ones are read meanwhile."""
        some = [(name, rows) for name, rows in self._of if rows]
        with ThreadPoolExecutor(AHEAD) as threads:
            coming = deque(threads.submit(self._part, *one) for one in some[:AHEAD])
            for i in range(len(some)):
                yield coming.popleft().result()
                coming.extend(threads.submit(self._part, *one) for one in some[i + AHEAD :][:1])

    def _part(self, name: str, rows: list[int]) -> torch.Tensor:
        table = self.run_dir.read_table(name, ["blocks"], large=True)
        return torch.from_numpy(to_numpy(table["blocks"])[rows])

    def rows(self, wanted: Collection[str]) -> dict[str, torch.Tensor]:
        """[N, b] of some ids; reads no part without one."""
        out: dict[str, torch.Tensor] = {}
        at = 0
        for name, rows in self._of:
            ids = self.ids[at : at + len(rows)]
            at += len(rows)
            if here := [k for k, i in enumerate(ids) if i in wanted]:
                blocks = self._part(name, [rows[k] for k in here])
                out |= {ids[k]: one.clone() for k, one in zip(here, blocks, strict=True)}
        return out
