"""Of stage `generator`: starts that are learned from all training concepts and know no text.

Rivals of the prediction in the tables (modeling/baselines/shared_starts.py), not of a seed but of
the run. Each is trained by an actor, and written as a PEFT folder beside the weight generator.
"""

from __future__ import annotations

import random
import time
from functools import partial
from typing import Any

from modeling.baselines.shared_starts import joint_adapter, reptile
from modeling.targets.lora import CONFIG_FILE, WEIGHTS_FILE, Adapter, to_files
from modeling.weights.image_loss import ImageBatch
from modeling.weights.interface import TextBatch
from pipelines.config import tree as config_tree
from pipelines.config.schema import Config
from pipelines.config.sections.scoring import JOINT, REPTILE
from pipelines.runtime.actors import map_actors
from pipelines.runtime.log import log
from pipelines.runtime.run_dir import RunDir
from pipelines.runtime.stage_table import StageError
from pipelines.stages.gans import load_adapter
from pipelines.stages.image_pairs import Draws, ImagePairs, wordings_of
from pipelines.stages.trainer import Trainer
from pipelines.stages.weight_generators import FOLDER


def folder_of(start: str) -> str:
    return f"{FOLDER}/starts/{start.split()[0].lower()}"


def load_start(run_dir: RunDir, start: str) -> Adapter:
    """ArtifactError or AdapterError if it is damaged or not there."""
    return load_adapter(run_dir, folder_of(start))


class LearnStart(Trainer):
    """Ray Data actor: trains one of the starts and writes it."""

    def __init__(self, config: dict[str, Any], run_dir: RunDir, pools: list[list[str]]) -> None:
        super().__init__(config, run_dir)
        self.pools = pools

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        out: dict[str, list[Any]] = {"start": [], "error": [], "seconds": []}
        for name in map(str, batch["start"]):
            begun = time.perf_counter()
            out["error"].append(self.learn(name))
            out["seconds"].append(time.perf_counter() - begun)
            out["start"].append(name)
        return out

    def learn(self, name: str) -> str:
        """What went wrong."""
        s, a, seed = self.config.starts, self.config.adapt, self.config.seed
        try:
            if name == JOINT:
                draw = self.draws(s.joint_steps, s.pairs)
                adapter = joint_adapter(self.translator, draw, s)
            else:
                draw = self.draws(s.reptile_steps, s.inner_steps * a.batch)
                critic = self.discriminator if a.gan_weight else None
                adapter = reptile(self.translator, draw, s, a, critic, seed)
        except FloatingPointError as error:
            return str(error)
        files = to_files(adapter, self.translator.lora_config, {"start": name, "seed": str(seed)})
        self.run_dir.write_files(folder_of(name), files, last=CONFIG_FILE)
        return ""

    def draws(self, steps: int, pairs: int) -> Any:
        """Step → its pairs, on this actor's device."""
        read = ImagePairs(
            self.config,
            self.run_dir,
            self.pools,
            self.texts,
            wordings_of(self.run_dir),
            0,
            1,
            Draws(steps, self.config.starts.concepts, pairs),
        )
        return partial(self._drawn, read)

    def _drawn(self, pairs: ImagePairs, step: int) -> ImageBatch:
        batch = pairs.read(step, random.Random(f"{self.config.seed}-start-{step}"))
        text = TextBatch(*(v.to(self.device) for v in batch.text))
        return ImageBatch(batch.source.to(self.device), batch.edited.to(self.device), text)


def learn_starts(config: Config, run_dir: RunDir, pools: list[list[str]]) -> dict[str, Any]:
    """Write those that are configured and not there; seconds of each.

    Raises StageError if one cannot be trained.
    """
    s = config.starts
    wanted = [n for n, steps in ((JOINT, s.joint_steps), (REPTILE, s.reptile_steps)) if steps]
    todo = [
        name
        for name in wanted
        if not all(run_dir.exists(f"{folder_of(name)}/{f}") for f in (WEIGHTS_FILE, CONFIG_FILE))
    ]
    if not todo:
        return {}
    log(f"generator: starts without text: {', '.join(todo)}")
    arguments = {"config": config_tree.to_dict(config), "run_dir": run_dir, "pools": pools}
    seconds = {}
    for row in map_actors(config, LearnStart, arguments, [{"start": name} for name in todo]):
        if row["error"]:
            raise StageError(f"generator: {row['start']}: {row['error']}: lower starts.lr")
        seconds[str(row["start"])] = float(row["seconds"])
    return {"starts": seconds}
