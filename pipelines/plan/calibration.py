"""Short measurements on the machine at hand, in place of a plan's assumed rates.

Every rate is measured as its stage works: the same functions, shapes and batches, random pictures.
One process alone: on a machine that runs several actors at once each of them is slower. A stage
that works on GPUs is measured on a GPU or not at all.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, cast

import numpy as np
import pyarrow as pa
import torch

from modeling.concepts.concept import Concept
from modeling.concepts.planning import plan_concepts
from modeling.cost import TOKENS
from modeling.editors.interface import EditError, Editor, Source
from modeling.editors.registry import EXACT, make_editor, supports
from modeling.editors.scores import EditScoreError, EditScores
from modeling.editors.sources import avatar_sources
from modeling.fitting import out_of_memory
from modeling.images import encode_png
from modeling.metrics.features import FeatureError
from modeling.targets.adapter_training import (
    ConceptData,
    Trained,
    pad_tokens,
    train_adapters,
    translate_all,
)
from modeling.targets.base_training import BaseTraining
from modeling.targets.discriminator import PatchDiscriminator
from modeling.targets.families import frozen_target, make_target
from modeling.targets.lora import AdaptedTranslator, from_bytes, stack, to_files
from modeling.targets.recipe import (
    Recipe,
    as_published,
    base_recipe,
    collection_recipe,
    finetune_recipe,
)
from modeling.text import TextColumns, TextEncoder, TextEncoderError
from modeling.weights.generator_training import GeneratorTraining
from modeling.weights.image_loss import ImageBatch
from modeling.weights.interface import SamplingMethod, TextBatch
from modeling.weights.normalisation import Normalisation, NormalisationSums
from modeling.weights.recipe import generator_recipe
from modeling.weights.weight_generator import build, predict_blocks
from pipelines.config.schema import Config
from pipelines.plan.counts import candidate_editors, image_splits
from pipelines.plan.rates import Rate, Rates
from pipelines.plan.shapes import Shapes
from pipelines.plan.work import Pool, actors_of, workers_of
from pipelines.runtime.log import log
from pipelines.runtime.machine import machine
from pipelines.runtime.run_dir import RunDir
from pipelines.runtime.text_table import writing_text
from pipelines.stages.base import discriminator_config, translator_config
from pipelines.stages.concepts import load_text
from pipelines.stages.editing import editor_options
from pipelines.stages.gans import concepts_at_once
from pipelines.stages.judging import features_of
from pipelines.stages.weight_generators import generator_config, members

SECONDS = 2.0
"""Least length of a measurement, after a first call that is not counted."""
BUSY = 0.25
"""Part of the cores that others may use before a measurement is doubted."""
IMAGES = 64
"""Pictures a concept, at most."""


class NotMeasured(Exception):
    """Why a rate cannot be measured here."""


def calibrate(config: Config, shapes: Shapes, rates: Rates) -> tuple[Rates, dict[str, Any]]:
    """The rates with those that could be measured here, and the machine."""
    about: dict[str, Any] = {**machine(), "load_average_before": os.getloadavg()}
    busy = about["load_average_before"][0] / (about["cores"] or 1)
    if busy > BUSY:
        log(f"plan: other processes take {busy:.0%} of this machine: it measures too slow")
    here = f"{about['gpu'] or about['processor']}, {about['cores']} cores"
    table = dict(rates.table)
    bench = Bench(config, shapes)
    for name, measure in bench.measures().items():
        old = table.get(name)
        if old is None:
            continue
        try:
            per_second, how = measure()
        except (NotMeasured, RuntimeError, MemoryError) as error:
            if not (isinstance(error, NotMeasured) or out_of_memory(error)):
                raise
            reason = error if isinstance(error, NotMeasured) else "out of memory"
            table[name] = replace(old, source=f"{old.source} (not measured: {reason})")
            log(f"plan: {name} not measured: {reason}")
            continue
        source = f"measured here on {here}: {how}"
        table[name] = Rate(per_second, source, old.flops, measured=True)
        log(f"plan: {name}: {per_second:,.3g} a second, {old.per_second:,.3g} assumed")
    return Rates(table, rates.weights), about


class Bench:
    """The networks of a configuration, untrained, and pictures to time them on."""

    def __init__(self, config: Config, shapes: Shapes) -> None:
        self.config, self.shapes = config, shapes
        self.splits = image_splits(config.images.count)

    def measures(self) -> dict[str, Callable[[], tuple[float, str]]]:
        """Rate name → what measures it: items a second and how. May raise NotMeasured."""
        c = self.config
        actor = actors_of(c)
        out: dict[str, Callable[[], tuple[float, str]]] = {}

        def add(name: str, pool: Pool, call: Callable[[torch.device], tuple[float, str]]) -> None:
            out[name] = lambda: call(_device(pool))

        steps = 4
        collect = replace(collection_recipe(c.gans, steps), warmup=0)
        together = concepts_at_once(c)
        add("collect", actor, lambda d: self.adapters(d, collect, together))
        finetune = replace(finetune_recipe(as_published(c.adapt)), steps=steps)
        add("finetune", actor, lambda d: self.adapters(d, finetune, 1))
        add("base", workers_of(c, c.base.workers), lambda d: self.whole(d, base_recipe(c.base)))
        a = c.adapt
        scratch = replace(
            base_recipe(c.base), batch=a.batch, l1_weight=a.l1_weight, gan_weight=a.gan_weight
        )
        add("scratch", actor, lambda d: self.whole(d, scratch))
        add("draw", actor, self.draw)
        add("features", replace(actor, gpus=0.0), lambda d: self.features())
        for member in members(c):
            if member.repeat:
                continue
            own, section = member.of(c), member.section
            workers = workers_of(c, own.generator.workers)
            step = partial(self.generator, own=own, on_images=False)
            add(f"{section} step", workers, step)
            add(f"{section} images", workers, partial(self.generator, own=own, on_images=True))
            add(f"{section} predict", actor, partial(self.predict, own=own))
        for editor in candidate_editors(c):
            add(f"edit {editor}", actor, partial(self.edit, name=editor))
        add("score", actor, self.score)
        out |= {"texts": self.texts, "load": self.load, "write": self.write}
        out["read"] = self.read
        return out

    def adapted(self, device: torch.device) -> tuple[AdaptedTranslator, PatchDiscriminator]:
        c = self.config
        base = frozen_target(translator_config(c, self.shapes.text_dim))
        adapted = AdaptedTranslator(base, c.lora.rank, c.lora.ranks, c.lora.seed).to(device)
        return adapted, PatchDiscriminator(discriminator_config(c)).to(device)

    def pictures(self, count: int, device: torch.device) -> torch.Tensor:
        size = self.config.images.size
        return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, device=device)

    def adapters(self, device: torch.device, recipe: Recipe, together: int) -> tuple[float, str]:
        """Images a second of training `together` adapters in one call."""
        items = recipe.steps * recipe.batch * together
        per_second = _timed(self.training(device, recipe, together), items, device)
        return per_second, f"{together} × {recipe.batch} images a step"

    def training(
        self, device: torch.device, recipe: Recipe, together: int
    ) -> Callable[[], list[Trained]]:
        """A call that trains `together` adapters."""
        translator, critic = self.adapted(device)
        count = min(IMAGES, self.splits["train"])
        data = [
            ConceptData(
                str(i),
                self.pictures(count, device),
                self.pictures(count, device),
                torch.randn(TOKENS, self.shapes.text_dim),
            )
            for i in range(together)
        ]
        starts = [translator.zero_adapter()] * together
        return partial(train_adapters, translator, data, starts, recipe, critic, 0)

    def whole(self, device: torch.device, recipe: Recipe) -> tuple[float, str]:
        """Images a second of training a whole translator, without other workers."""
        c, batch = self.config, recipe.batch
        network = make_target(translator_config(c, self.shapes.text_dim)).to(device)
        critic = PatchDiscriminator(discriminator_config(c)).to(device)
        training = BaseTraining(network, critic, recipe)
        size = c.images.size
        x, y = (torch.rand(batch, 3, size, size, device=device) for _ in range(2))
        tokens = torch.randn(batch, TOKENS, self.shapes.text_dim, device=device)
        mask = torch.ones(batch, TOKENS, dtype=torch.bool, device=device)
        per_second = _timed(lambda: training.step(x, y, tokens, mask), batch, device)
        return per_second, f"one worker, {batch} images a step"

    def draw(self, device: torch.device) -> tuple[float, str]:
        """Pictures a second of `translate_all`."""
        translator, _ = self.adapted(device)
        adapters = stack([translator.zero_adapter()] * 2)
        source, tokens = self.pictures(32, device), [torch.randn(TOKENS, self.shapes.text_dim)] * 2
        call = partial(translate_all, translator, adapters, source, tokens)
        return _timed(call, 64, device), "2 adapters × 32 pictures"

    def features(self) -> tuple[float, str]:
        try:
            extract = features_of(self.config)
        except FeatureError as error:
            raise NotMeasured(str(error)) from error
        images = self.pictures(32, torch.device("cpu")).permute(0, 2, 3, 1).contiguous().numpy()
        return _timed(lambda: extract(images), 32, torch.device("cpu")), extract.description

    def texts_of(self, concepts: int, device: torch.device) -> TextBatch:
        tokens, mask = pad_tokens([torch.randn(TOKENS, self.shapes.text_dim)] * concepts)
        pooled = torch.randn(concepts, self.shapes.text_dim)
        return TextBatch(*(v.to(device) for v in (tokens, mask, pooled)))

    def generator(self, device: torch.device, own: Config, on_images: bool) -> tuple[float, str]:
        """Concepts a second of one training worker, on weights or on the image loss."""
        g, layout = own.generator, self.shapes.layout
        translator, critic = self.adapted(device)
        model = build(generator_config(own, layout.n_blocks, self.shapes.text_dim)).to(device)
        recipe = generator_recipe(own.generator, own.adapt.t)
        if on_images:
            recipe = replace(recipe, steps=0)
        normalisation = self.normalisation(translator).to(device)
        training = GeneratorTraining(
            model, layout, normalisation, recipe, 0, translator, None, 0, critic
        )
        concepts = g.image_concepts if on_images else g.batch
        blocks = torch.randn(concepts, layout.n_blocks, layout.block_size)
        text, images = self.texts_of(concepts, device), None
        if on_images:
            shape = (concepts, g.image_batch)
            flat = self.pictures(concepts * g.image_batch, device)
            images = ImageBatch(flat.unflatten(0, shape), flat.unflatten(0, shape), text)
        per_second = _timed(lambda: training.step(blocks, text, images), concepts, device)
        return per_second, f"one worker, {concepts} concepts a step"

    def normalisation(self, translator: AdaptedTranslator) -> Normalisation:
        layout = self.shapes.layout
        sums = NormalisationSums.empty(layout)
        start = layout.to_blocks({k: v.cpu() for k, v in translator.zero_adapter().items()})
        sums.add(torch.stack([start, start + 0.01]))
        return sums.finish(layout, "element")

    def predict(self, device: torch.device, own: Config) -> tuple[float, str]:
        """Adapters a second, one at a time."""
        layout, a = self.shapes.layout, own.adapt
        model = build(generator_config(own, layout.n_blocks, self.shapes.text_dim)).to(device)
        text, mask = self.texts_of(1, device), layout.mask.to(device)

        def call() -> None:
            predict_blocks(
                model,
                model.config.noise_schedule(),
                text,
                a.t,
                seed=0,
                # config.check allows no other sampler; OmegaConf has no Literal
                method=cast(SamplingMethod, a.sampler),
                ddim_steps=a.ddim_steps,
                mask_w=mask,
            )

        return _timed(call, 1, device), "one adapter a call"

    def edit(self, device: torch.device, name: str) -> tuple[float, str]:
        """Edits a second, encoded as PNG, over concepts of the run spread evenly."""
        c = self.config
        try:
            editor = make_editor(name, **editor_options(c, name))
        except EditError as error:
            raise NotMeasured(str(error)) from error
        if name in EXACT:
            spec = replace(c.concepts, train_combinations=0, paired_combinations=0, paraphrases=0)
            concepts = plan_concepts(spec, c.seed, supports(name))
        else:
            concepts = [Concept("grey-hair", "grey hair", "facial", (), "train")]
        # an exact editor's differ in cost, a diffusion model's do not
        count = 16 if name in EXACT else 1
        chosen = concepts[:: max(1, len(concepts) // count)][:count]
        if c.images.source == "avatars":
            sources = list(avatar_sources(2, c.images.size))
        else:
            pixels = self.pictures(2, torch.device("cpu")).permute(0, 2, 3, 1).contiguous()
            sources = [Source(str(i), p.numpy()) for i, p in enumerate(pixels)]
        return _edits(editor, sources, chosen, device)

    def score(self, device: torch.device) -> tuple[float, str]:
        """Edits a second; the features of their sources are known after the first call."""
        e = self.config.editing
        try:
            scores = EditScores(e.clip, e.identity, str(device), self.config.allow_download)
        except EditScoreError as error:
            raise NotMeasured(str(error)) from error
        pixels = self.pictures(2 * e.part, torch.device("cpu")).permute(0, 2, 3, 1).contiguous()
        sources, edits = np.split(pixels.numpy(), 2)
        call = partial(scores, list(sources), list(edits), "a photo of a person")
        return _timed(call, e.part, device), e.clip

    def texts(self) -> tuple[float, str]:
        try:
            encoder = TextEncoder(self.config.text_encoder, self.config.allow_download)
        except TextEncoderError as error:
            raise NotMeasured(str(error)) from error
        texts = [f"green hair, on a coral background {i}" for i in range(64)]
        rate = _timed(lambda: encoder.encode(texts), 64, torch.device("cpu"))
        return rate, "64 texts a call"

    def load(self) -> tuple[float, str]:
        """Texts a second of `load_text`."""
        count, dim = 512, self.shapes.text_dim
        numbers = np.random.default_rng(0).random((count * (TOKENS + 1), dim), dtype=np.float32)
        columns = TextColumns(np.full(count, TOKENS, np.int32), numbers[count:], numbers[:count])
        with _storage(self.config) as (run, where):
            with writing_text(run) as table:
                table.add([str(i) for i in range(count)], columns)
            rate = _timed(lambda: load_text(run), count, torch.device("cpu"))
        return rate, f"{count} texts from {where}"

    def write(self) -> tuple[float, str]:
        """MB a second of Parquet files of PNGs, as of one concept's pairs."""
        pictures = self.pictures(32, torch.device("cpu")).permute(0, 2, 3, 1).contiguous().numpy()
        encoded = [encode_png(p) for p in pictures]
        table = pa.table({"source": encoded, "edited": encoded})
        size = 2 * sum(len(e) for e in encoded) / 1e6
        with _storage(self.config) as (run, where):
            rate = _timed(lambda: run.write_table("x.parquet", table), size, torch.device("cpu"))
        return rate, f"Parquet files of {size:.2g} MB to {where}"

    def read(self) -> tuple[float, str]:
        """Adapters a second, read and cut into blocks."""
        translator, _ = self.adapted(torch.device("cpu"))
        files = to_files(translator.zero_adapter(), translator.lora_config, {})
        name, layout = next(iter(files)), self.shapes.layout

        def call() -> None:
            layout.to_blocks(from_bytes(run.read(name), name))

        with _storage(self.config) as (run, where):
            run.write_files(".", files, last=name)
            return _timed(call, 1, torch.device("cpu")), f"adapters from {where}"


class _storage:
    """A folder to write to: beside a remote run directory, or a temporary one; gone after."""

    def __init__(self, config: Config) -> None:
        self.run = RunDir(config.run_dir)

    def __enter__(self) -> tuple[RunDir, str]:
        self.folder = tempfile.TemporaryDirectory() if self.run.local else None
        if self.folder:
            return RunDir(self.folder.name), "the local disk"
        return RunDir(f"{self.run.uri}/plan-probe"), self.run.uri

    def __exit__(self, *_: object) -> None:
        if self.folder:
            self.folder.cleanup()
        else:
            self.run.delete("plan-probe")


def _edits(
    editor: Editor, sources: list[Source], concepts: list[Any], device: torch.device
) -> tuple[float, str]:
    def call() -> None:
        # all of them: concepts differ in cost
        for concept in concepts:
            for result in editor.edit(sources, concept):
                if isinstance(result, EditError):
                    raise NotMeasured(str(result))
                encode_png(result.image)

    per_second = _timed(call, len(sources) * len(concepts), device)
    return per_second, f"{len(sources)} pictures × {len(concepts)} concepts, encoded"


def _device(pool: Pool) -> torch.device:
    torch.set_num_threads(pool.cores)
    if not pool.gpus:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise NotMeasured("the stage works on GPUs, this machine has none")
    return torch.device("cuda")


def _timed(call: Callable[[], object], items: float, device: torch.device) -> float:
    """Items a second, by the fastest tenth of the calls of SECONDS, after one that warms up.

    Other processes only slow a call down, and two threads far more than one.
    """

    def wait() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    call()
    begun = wait()
    took: list[float] = []
    while not took or time.perf_counter() - begun < SECONDS:
        before = wait()
        call()
        took.append(wait() - before)
    return items / sorted(took)[len(took) // 10]
