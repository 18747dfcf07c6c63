"""Which editor edits a concept best: each edits the pilot images, and their scores decide."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa

from modeling.concepts.concept import Concept
from modeling.editors.choice import best_editor, overall
from modeling.editors.interface import EditError, EditResult
from pipelines.config.schema import Config
from pipelines.runtime.log import Progress, log
from pipelines.runtime.run_dir import READERS, RunDir
from pipelines.stages.editing import EditActor, edit_with


def pilot_file(editor: str, concept_id: str) -> str:
    return f"editing/pilots/{editor}/{concept_id}.json"


class PilotEditor(EditActor):
    """Ray Data actor: one candidate's edits of the pilot images, of which only scores are kept."""

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        out: dict[str, list[str]] = {"concept_id": [], "changed": []}
        pilots = self.train(self.config.editing.pilots)
        for text in batch["concept"]:
            concept = Concept(**json.loads(str(text)))
            out["concept_id"].append(concept.concept_id)
            out["changed"].append(self.changed)
            if self.changed:
                continue
            sources = [self.sources[i] for i in pilots if i in self.sources]
            results = self.edited(sources, concept)
            name = pilot_file(self.editor.name, concept.concept_id)
            self.run_dir.write_json(name, self._report(results))
        return out

    def _report(self, results: list[EditResult | EditError]) -> dict[str, Any]:
        made = [r.scores for r in results if isinstance(r, EditResult)]
        exponents = self.config.editing.exponents
        return {
            "overall": [overall(scores, exponents) for scores in made],
            "mean": {k: float(np.mean([s[k] for s in made])) for k in (made[0] if made else {})},
            "pictures": len(results),
            "errors": sorted({str(r) for r in results if isinstance(r, EditError)}),
        }


def choose_editors(config: Config, run_dir: RunDir, concepts: list[Concept]) -> dict[str, str]:
    """The winner of the candidates for each concept; "" where none made a picture.

    One candidate after another, each with all the actors: their speeds differ tenfold, and pools
    side by side would wait for the slowest.
    """
    candidates = config.editing.candidates
    for name in candidates:
        there = set(run_dir.files(f"editing/pilots/{name}"))
        todo = [c for c in concepts if pilot_file(name, c.concept_id) not in there]
        progress = Progress(
            f"pairs, pilots of {name}", len(concepts), "concepts", len(concepts) - len(todo)
        )
        for _ in edit_with(config, run_dir, PilotEditor, name, todo):
            progress.add()

    def read(concept: Concept) -> dict[str, dict[str, Any]]:
        return {n: run_dir.read_json(pilot_file(n, concept.concept_id)) for n in candidates}

    with ThreadPoolExecutor(READERS) as pool:
        all_reports = list(pool.map(read, concepts))
    choice, table = {}, []
    for concept, reports in zip(concepts, all_reports, strict=True):
        pictures = max(r["pictures"] for r in reports.values())
        winner = best_editor({n: r["overall"] for n, r in reports.items()}, pictures)
        choice[concept.concept_id] = winner
        table += [
            {
                "concept_id": concept.concept_id,
                "editor": name,
                "chosen": name == winner,
                "overall": sum(report["overall"]) / max(1, pictures),
                "failed": pictures - len(report["overall"]),
                "error": next(iter(report["errors"]), ""),
                **{k: report["mean"].get(k) for k in ("direction", "identity", "quality")},
            }
            for name, report in reports.items()
        ]
    run_dir.write_table("editing/choice.parquet", pa.Table.from_pylist(table))
    won = {n: sum(w == n for w in choice.values()) for n in candidates}
    log("pairs: chosen by their pilots: " + ", ".join(f"{n} {count}" for n, count in won.items()))
    return choice
