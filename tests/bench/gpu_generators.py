"""A run's weight generators and refiner trained where there is a GPU but no Ray.

    python -m tests.bench.gpu_generators pack run_dir=… file=packed.xz [pairs=10] [key=value …]
    python -m tests.bench.gpu_generators train file=… out=… name=rival [steps=…] [image_steps=…]
        [minutes=…] [from=FOLDER]

`pack` puts what the trainings of stage `generator` read into one file: base, layout, blocks, texts,
and some pairs of each training concept. `train` needs torch and safetensors alone; it runs the
stage's own classes on it, and leaves in `out` the files that the stage writes for the member `name`
(generator | generator-1 | rival | rival-1 | … | refiner) and `log.json`: losses, the denoising loss
on validation concepts, blocks a second. With `minutes` it stops in time, and `from` goes on from
such a folder. Unlike the stage it draws from `pairs` pairs of a concept, and no paraphrases.
"""

from __future__ import annotations

import json
import lzma
import random
import sys
import time
from collections import defaultdict
from dataclasses import asdict, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modeling.targets.adapter_training import batch_order, pad_tokens
from modeling.targets.discriminator import PatchDiscriminator
from modeling.targets.families import frozen_target
from modeling.targets.lora import AdaptedTranslator
from modeling.targets.shapes import DiscriminatorConfig, from_description
from modeling.weights import checkpoint, refiner
from modeling.weights.codec import BlockLayout
from modeling.weights.generator_training import GeneratorTraining
from modeling.weights.gradient_basis import GradientBasis
from modeling.weights.image_loss import ImageBatch, ImageLoss
from modeling.weights.interface import GeneratorConfig, TextBatch
from modeling.weights.learned_steps import RefinerTraining
from modeling.weights.normalisation import Normalisation
from modeling.weights.recipe import GeneratorRecipe, GeneratorTrainingSettings, RefinerRecipe
from modeling.weights.weight_generator import build, denoising_loss, predict_blocks

BEFORE_IMAGES = "before-images.safetensors"
EVERY = 250
"""Steps between two looks at the validation concepts."""


# where the run is


def pack(words: dict[str, str]) -> None:
    from safetensors.torch import load

    from pipelines.config.load import load_config
    from pipelines.runtime.run_dir import RunDir
    from pipelines.stages.concepts import load_text
    from pipelines.stages.gradients import BASIS_FILE
    from pipelines.stages.image_pairs import image_pools
    from pipelines.stages.pairs import load_pairs
    from pipelines.stages.refiners import refiner_config
    from pipelines.stages.weight_generators import generator_config, members
    from tests.collected import load_blocks

    count = int(words.pop("pairs", "10"))
    file = Path(words.pop("file"))
    config = load_config([f"{k}={v}" for k, v in words.items()])
    run = RunDir(config.run_dir)
    texts, pools = load_text(run), image_pools(config, run)
    layout = BlockLayout.from_json(run.read("weights/layout.json").decode())
    dim = texts.dim
    blocks = {split: load_blocks(run, split) for split in ("train", "val")}
    made: dict[str, Any] = {
        "about": run.read_json("base/base.json"),
        "translator": load(run.read("base/translator.safetensors")),
        "discriminator": load(run.read("base/discriminator.safetensors")),
        "lora": (config.lora.rank, dict(config.lora.ranks), config.lora.seed),
        "layout": layout.to_json(),
        "normalisation": run.read("weights/normalisation.safetensors"),
        "blocks": {split: (ids, raw.half()) for split, (ids, raw) in blocks.items()},
        "critic_weight": config.gans.gan_weight / config.gans.l1_weight,
        "adapt_t": config.adapt.t,
        "text_encoder": config.text_encoder,
        "pools": pools,
        "members": {},
        "pairs": {},
    }
    if run.exists(BASIS_FILE):
        made["basis"] = run.read(BASIS_FILE)
    for member in members(replace(config, rival=replace(config.rival, train=True))):
        own = member.of(config)
        name = member.section + (f"-{member.repeat}" if member.repeat else "")
        made["members"][name] = {
            "seed": own.seed,
            "config": asdict(generator_config(own, layout.n_blocks, dim)),
            "settings": {f: getattr(own.generator, f) for f in GENERATOR_FIELDS},
            "draws": [
                own.generator.batch * own.generator.workers,
                own.generator.image_concepts * own.generator.workers,
                own.generator.image_batch,
            ],
        }
    made["refiner"] = {
        "seed": config.seed,
        "config": asdict(refiner_config(config, layout, dim)),
        "settings": {f: getattr(config.refine, f) for f in RefinerRecipe.__dataclass_fields__},
        "draws": [config.refine.concepts * config.refine.workers, config.refine.pairs],
    }
    wanted = sorted(
        {i for pool in pools for i in pool} | {i for ids, _ in blocks.values() for i in ids}
    )
    made["texts"] = {i: (texts[i].tokens.half(), texts[i].pooled.half()) for i in wanted}
    for concept_id in sorted({i for pool in pools for i in pool}):
        pairs = load_pairs(run, concept_id, "train")
        places = random.Random(concept_id).sample(
            range(len(pairs.source)), min(count, len(pairs.source))
        )
        made["pairs"][concept_id] = tuple(
            torch.from_numpy(x[places].copy()) for x in (pairs.source, pairs.edited)
        )
    packed = BytesIO()
    torch.save(made, packed)
    file.write_bytes(lzma.compress(packed.getvalue(), preset=3))
    print(f"{file}: {file.stat().st_size / 2**20:.1f} MiB, {len(made['pairs'])} concepts")


GENERATOR_FIELDS = list(GeneratorTrainingSettings.__dataclass_fields__)


# where the GPU is


class Collection:
    """What `pack` wrote, on a device."""

    def __init__(self, file: Path, device: str) -> None:
        data = torch.load(BytesIO(lzma.decompress(file.read_bytes())), weights_only=False)
        self.data, self.device = data, device
        self.layout = BlockLayout.from_json(data["layout"])
        self.normalisation = Normalisation.from_bytes(data["normalisation"], self.layout).to(device)
        network = frozen_target(from_description(data["about"]["translator"]))
        network.load_state_dict(data["translator"])
        self.critic = PatchDiscriminator(DiscriminatorConfig(**data["about"]["discriminator"]))
        self.critic.load_state_dict(data["discriminator"])
        self.critic.to(device)
        self.translator = AdaptedTranslator(network, *data["lora"]).to(device)
        self.blocks = {k: (ids, raw.float().to(device)) for k, (ids, raw) in data["blocks"].items()}
        ids = list(data["texts"])
        self.place = {concept_id: i for i, concept_id in enumerate(ids)}
        tokens, mask = pad_tokens([data["texts"][i][0].float() for i in ids])
        pooled = torch.stack([data["texts"][i][1].float() for i in ids])
        self.all_texts = TextBatch(*(v.to(device) for v in (tokens, mask, pooled)))
        self.pairs = {i: [x.to(device) for x in both] for i, both in data["pairs"].items()}

    def text(self, ids: list[str]) -> TextBatch:
        places = torch.tensor([self.place[i] for i in ids], device=self.device)
        return TextBatch(*(v[places] for v in self.all_texts))

    def draws(self, steps: int, concepts: int, seed: int) -> list[Tensor]:
        """Of each pool, as stage `generator` draws: as many from each."""
        pools = self.data["pools"]
        shares = [
            concepts * (i + 1) // len(pools) - concepts * i // len(pools) for i in range(len(pools))
        ]
        return [
            batch_order(len(pool), steps, share, seed + 1 + i)
            for i, (pool, share) in enumerate(zip(pools, shares, strict=True))
        ]

    def images(self, orders: list[Tensor], step: int, pairs: int, seed: int) -> ImageBatch:
        rng = random.Random(f"{seed}-{step}")
        ids = [
            pool[i]
            for pool, order in zip(self.data["pools"], orders, strict=True)
            for i in order[step].tolist()
        ]
        sources, edits = [], []
        for concept_id in ids:
            source, edited = self.pairs[concept_id]
            enough = len(source) >= pairs
            places = (rng.sample if enough else rng.choices)(range(len(source)), k=pairs)
            sources.append(source[places])
            edits.append(edited[places])
        return ImageBatch(torch.stack(sources), torch.stack(edits), self.text(ids))


class Log:
    """Losses by step, written as they come."""

    def __init__(self, out: Path, limit: float) -> None:
        self.out, self.begun, self.limit = out, time.perf_counter(), limit
        self.recent: dict[str, list[torch.Tensor]] = defaultdict(list)
        self.rows: list[dict[str, Any]] = []
        if (out / "log.json").exists():
            self.rows = json.loads((out / "log.json").read_text())["rows"]
        self.spent = self.rows[-1]["seconds"] if self.rows else 0.0

    @property
    def over(self) -> bool:
        return time.perf_counter() - self.begun > self.limit

    def add(self, losses: dict[str, torch.Tensor]) -> None:
        for key, value in losses.items():
            self.recent[key].append(value)

    def write(self, step: int, **more: float) -> None:
        means = {k: float(torch.stack(v).mean()) for k, v in self.recent.items()}
        self.recent.clear()
        seconds = self.spent + time.perf_counter() - self.begun
        self.rows.append({"step": step, "seconds": seconds, **means, **more})
        print(json.dumps(self.rows[-1]), flush=True)
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
        (self.out / "log.json").write_text(
            json.dumps({"device": device, "rows": self.rows}, indent=1)
        )


def train(words: dict[str, str]) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_float32_matmul_precision("high")
    out, name = Path(words["out"]), words["name"]
    out.mkdir(parents=True, exist_ok=True)
    if "from" in words and Path(words["from"]) != out:
        for file in Path(words["from"]).iterdir():
            (out / file.name).write_bytes(file.read_bytes())
    collection = Collection(Path(words["file"]), device)
    log = Log(out, 60 * float(words.get("minutes", "1e9")))
    (train_refiner if name == "refiner" else train_generator)(collection, words, out, log)


def train_generator(c: Collection, words: dict[str, str], out: Path, log: Log) -> None:
    member = c.data["members"][words["name"]]
    settings = {k: v for k, v in member["settings"].items() if k in GENERATOR_FIELDS}
    settings |= {k: int(words[k]) for k in ("steps", "image_steps") if k in words}
    recipe = GeneratorRecipe(**settings, image_t=c.data["adapt_t"])
    seed, (batch, concepts, pairs) = member["seed"], member["draws"]
    batch = int(words.get("batch", batch))
    torch.manual_seed(seed)
    model = build(GeneratorConfig.from_dict(member["config"])).to(c.device)
    training = GeneratorTraining(
        model, c.layout, c.normalisation, recipe, seed, c.translator, None, 0, c.critic
    )
    state = out / "training.safetensors"
    if state.exists():
        training.load_state(state.read_bytes())
    ids, raw = c.blocks["train"]
    by_weights = batch_order(len(ids), recipe.steps, batch, seed)
    by_images = c.draws(recipe.image_steps, concepts, seed) if recipe.image_steps else []
    begun, first = time.perf_counter(), training.done
    about = {"t": c.data["adapt_t"], "text_encoder": c.data["text_encoder"]}

    def save() -> None:
        files = checkpoint.to_files(training.model, training.ema, {"step": training.done, **about})
        for file, data in (files | {"training.safetensors": training.state()}).items():
            (out / file).write_bytes(data)

    while training.done < recipe.total and not log.over:
        if training.done < recipe.steps:
            index = by_weights[training.done].to(c.device)
            log.add(training.step(raw[index], c.text([ids[i] for i in index.tolist()])))
        else:
            step = training.done - recipe.steps
            images = c.images(by_images, step, pairs, seed)
            index = by_weights[step % recipe.steps].to(c.device)
            log.add(training.step(raw[index], c.text([ids[i] for i in index.tolist()]), images))
        if training.done == recipe.steps:
            kept = checkpoint.to_files(training.model, training.ema, {})[checkpoint.EMA_FILE]
            (out / BEFORE_IMAGES).write_bytes(kept)
        if training.done % EVERY == 0 or training.done == recipe.total:
            took = (time.perf_counter() - begun) / (training.done - first)
            a_step = (recipe.blocks_per_concept or c.layout.n_blocks) * batch
            speed = {"blocks a second": a_step / took} if training.done <= recipe.steps else {}
            log.write(training.done, **validation(c, training, recipe), **speed)
            save()
    save()


@torch.no_grad()
def validation(
    c: Collection, training: GeneratorTraining, recipe: GeneratorRecipe
) -> dict[str, float]:
    """Eq. (1) of the average's weights on validation concepts, always the same noise and times."""
    ids, raw = c.blocks["val"]
    model = build(training.model.config).to(c.device)
    training.ema.copy_to(model)
    model.eval()
    rng = torch.Generator().manual_seed(0)
    x0 = c.normalisation.apply(raw)
    total, times = 0.0, 4
    for _ in range(times):
        t = torch.randint(recipe.t_min, model.config.steps, (len(ids),), generator=rng)
        eps = torch.randn(x0.shape, generator=rng).to(c.device)
        places = torch.arange(c.layout.n_blocks, device=c.device)
        loss = denoising_loss(
            model, training.schedule, x0, places, training.mask, c.text(ids), t.to(c.device), eps
        )
        total += float(loss) / times
    return {"validation": total}


def train_refiner(c: Collection, words: dict[str, str], out: Path, log: Log) -> None:
    """From the predictions of the weight generator in the folder `generator`."""
    member = c.data["refiner"]
    settings = member["settings"] | {
        k: int(words[k]) for k in ("steps", "iterations") if k in words
    }
    recipe, seed = RefinerRecipe(**settings), member["seed"]
    concepts, pairs = member["draws"]
    concepts = int(words.get("concepts", concepts))
    names = (checkpoint.CONFIG_FILE, checkpoint.MODEL_FILE, checkpoint.EMA_FILE)
    read = checkpoint.from_files({n: Path(words["generator"], n).read_bytes() for n in names})
    assert read.ema is not None
    read.ema.copy_to(read.model)
    generator = read.model.to(c.device).eval()
    loss = ImageLoss(c.translator, c.layout, c.normalisation, c.critic, c.data["critic_weight"])
    basis = GradientBasis.from_bytes(c.data["basis"], c.layout)
    torch.manual_seed(seed)
    config = refiner.RefinerConfig.from_dict(
        member["config"]
        | {k: int(words[k]) for k in ("depth", "width", "iterations") if k in words}
    )
    model = refiner.Refiner(config, basis).to(c.device)
    training = RefinerTraining(model, loss, recipe, seed)
    state = out / "training.safetensors"
    if state.exists():
        training.load_state(state.read_bytes())
    orders = c.draws(recipe.steps, concepts, seed)
    schedule, mask = generator.config.noise_schedule(), c.layout.mask.to(c.device)
    shape = (concepts, generator.config.n_blocks, generator.config.block_size)

    def save() -> None:
        files = refiner.to_files(training.ema.average, config)
        for file, data in (files | {"training.safetensors": training.state()}).items():
            (out / file).write_bytes(data)

    while training.done < recipe.steps and not log.over:
        images = c.images(orders, training.done, pairs, seed)
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(training.done))
        at = predict_blocks(
            generator,
            schedule,
            images.text,
            c.data["adapt_t"],
            noise=noise.to(c.device),
            mask_w=mask,
        )
        log.add(training.step(at, images))
        if training.done % 50 == 0:
            log.write(training.done)
            save()
    save()


if __name__ == "__main__":
    given = dict(w.partition("=")[::2] for w in sys.argv[2:])
    {"pack": pack, "train": train}[sys.argv[1]](given)
