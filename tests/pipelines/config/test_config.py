"""The configuration: presets, the words of a command line, and one clear line for what is wrong."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from modeling.concepts.planning import plan_concepts
from modeling.editors.registry import make_editor
from pipelines.config import checks, ranges
from pipelines.config import tree as config_tree
from pipelines.config.derived import resolve_editor
from pipelines.config.error import ConfigError
from pipelines.config.load import load_config, preset_names
from pipelines.config.schema import Config

FOLDER = ["images.source=folder", "images.path=photos"]


@pytest.mark.parametrize("preset", preset_names())
def test_every_preset_loads(preset: str) -> None:
    config = load_config([f"preset={preset}"])
    assert (config.preset, config.run_dir) == (preset, f"runs/{preset}")


@pytest.mark.parametrize("words", [["preset=tiny"], ["preset=demo"], ["preset=small"], FOLDER])
def test_the_concepts_of_a_preset_can_be_planned(words: list[str]) -> None:
    """With photographs, too: the demo's own families are of avatars (paper's take 10 s to plan)."""
    config = load_config(words)
    editor = make_editor(resolve_editor(config))
    concepts = plan_concepts(config.concepts, config.seed, editor.supports)
    assert {"train", "test"} <= {c.split for c in concepts}
    assert all(editor.supports(f) for c in concepts for f in c.families)


def test_the_demo_is_the_default() -> None:
    assert load_config([]) == load_config(["preset=demo"])
    assert resolve_editor(load_config([])) == "avatar"
    assert resolve_editor(load_config(FOLDER)) == "filter"


def test_the_documented_keys() -> None:
    words = [
        "preset=tiny",
        "run_dir=/tmp/x",
        *FOLDER,
        "editor=filter",
        "weights.block_size=32",
        "weights.grouping=3",
        "text_encoder=/models/clip",
        "seed=7",
    ]
    c = load_config(words)
    assert (c.run_dir, c.images.source, c.images.path, c.editor) == (
        "/tmp/x",
        "folder",
        "photos",
        "filter",
    )
    assert (c.weights.block_size, c.weights.grouping) == (32, 3)
    assert (c.text_encoder, c.seed) == ("/models/clip", 7)


@pytest.mark.parametrize(
    ("word", "key", "value"),
    [
        ("redo=[base]", "redo", ["base"]),
        ("redo=[base,weights]", "redo", ["base", "weights"]),
        ("redo=[]", "redo", []),
        ("adapt.keep=[1,2]", "adapt.keep", [1, 2]),
        ("adapt.keep=[ 1, 3 ]", "adapt.keep", [1, 3]),
        ("lora.ranks={head: 2}", "lora.ranks", {"head": 2}),
        ("lora.ranks.head=2", "lora.ranks", {"head": 2}),
        ("concepts.combine=[[hair, background]]", "concepts.combine", [["hair", "background"]]),
        ("evaluate.controls=[zero LoRA, ridge]", "evaluate.controls", ["zero LoRA", "ridge"]),
        ("weights={block_size: 32}", "weights.block_size", 32),
        ("images.path=", "images.path", ""),
        ("run_dir=s3://bucket/a=b", "run_dir", "s3://bucket/a=b"),
        # a text is what was typed
        ("run_dir=out/${preset}-${seed}", "run_dir", "out/${preset}-${seed}"),
        ("run_dir=a\\${b", "run_dir", "a\\${b"),
        ("run_dir=$HOME", "run_dir", "$HOME"),
        ("run_dir=20241125_1830", "run_dir", "20241125_1830"),
        ("run_dir=2024-11-25", "run_dir", "2024-11-25"),
        ("run_dir=12:30:45", "run_dir", "12:30:45"),
        ("run_dir=007", "run_dir", "007"),
        ("run_dir=1e3", "run_dir", "1e3"),
        ("run_dir=0x1F", "run_dir", "0x1F"),
        ("run_dir=on", "run_dir", "on"),
        ("run_dir=null", "run_dir", "null"),
        ("run_dir=.nan", "run_dir", ".nan"),
        ("run_dir=/data/run #1", "run_dir", "/data/run #1"),
        ("run_dir=[x]", "run_dir", "[x]"),
        ("run_dir={a: b}", "run_dir", "{a: b}"),
        ("run_dir=a: b", "run_dir", "a: b"),
        ("run_dir='quoted'", "run_dir", "'quoted'"),
        ("run_dir=*x", "run_dir", "*x"),
        ("run_dir=!tag", "run_dir", "!tag"),
        ("run_dir= spaces ", "run_dir", " spaces "),
        ("run_dir=数字", "run_dir", "数字"),
        ("run_dir=C:\\runs", "run_dir", "C:\\runs"),
        ("text_encoder=5", "text_encoder", "5"),
        ("redo=[on, 007]", "redo", ["on", "007"]),
        ("editing.models={null_text: 1e3}", "editing.models", {"null_text": "1e3"}),
        ("editing.models.null_text=on", "editing.models", {"null_text": "on"}),
        ("editing.prompts.art={text} #1", "editing.prompts", {"art": "{text} #1"}),
        # ~ is one's home in every path
        ("run_dir=~/runs", "run_dir", "/home/me/runs"),
        ("text_encoder=~/clip", "text_encoder", "/home/me/clip"),
        ("llm.encoder=~/clip", "llm.encoder", "/home/me/clip"),
        ("editing.models.null_text=~/sd", "editing.models", {"null_text": "/home/me/sd"}),
        ("evaluate.features_path=~", "evaluate.features_path", "/home/me"),
        ("run_dir=a/~/b", "run_dir", "a/~/b"),
        # a mapping's key may have dots
        ("lora.ranks.down.0=2", "lora.ranks", {"down.0": 2}),
        ("lora.ranks={down.0: 2}", "lora.ranks", {"down.0": 2}),
        # numbers as people write them
        ("seed=007", "seed", 7),
        ("seed=1_000", "seed", 1000),
        ("seed=0x10", "seed", 16),
        ("base.lr=.5", "base.lr", 0.5),
        ("base.lr=2", "base.lr", 2.0),
        ("cluster.gpu_training=on", "cluster.gpu_training", True),
        ("cluster.gpu_training=0", "cluster.gpu_training", False),
        ("base.lr=1e-3", "base.lr", 1e-3),
        ("cluster.gpu_training=true", "cluster.gpu_training", True),
        ("max_error_fraction=1", "max_error_fraction", 1.0),
    ],
)
def test_values_from_the_command_line(
    word: str, key: str, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    tree: Any = config_tree.to_dict(load_config(["preset=tiny", word]))
    for part in key.split("."):
        tree = tree[part]
    assert tree == value and type(tree) is type(value)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        # what is not a key
        (["seed"], "'seed' is not of the form key=value"),
        (["=1"], "'=1' is not of the form key=value"),
        (["seed=1", "seed=1"], "seed is given twice"),
        (["preset=demo", "preset=tiny"], "preset is given twice"),
        (["sed=1"], "unknown key sed; did you mean seed?"),
        (["--seed=1"], "unknown key --seed; did you mean seed?"),
        (["images.soruce=x"], "unknown key images.soruce; did you mean images.source?"),
        (["images={soruce: x}"], "unknown key images.soruce; did you mean images.source?"),
        (
            ["images.qqq=x"],
            "unknown key images.qqq (images has: source, path, size, ",
        ),
        (["weights.block_size.x=1"], "weights.block_size must be a whole number"),
        (["images=5"], "images is a section: give images.KEY=value"),
        (["images="], "images is a section"),
        # wrong types
        (["seed=abc"], "seed=abc: seed must be a whole number"),
        (["seed=1.5"], "seed must be a whole number"),
        (["seed=true"], "seed must be a whole number"),
        (["seed="], "seed must be a whole number"),
        (["seed=null"], "seed must be a whole number"),
        (["base.lr=fast"], "base.lr must be a number"),
        (["cluster.gpu_training=maybe"], "cluster.gpu_training must be true or false"),
        (["redo=base"], "redo must be a list such as [a, b]"),
        (["adapt.keep=3"], "adapt.keep must be a list of whole numbers such as [1, 2]"),
        (["adapt.keep=[1,x]"], "adapt.keep must be a list of whole numbers"),
        (["concepts.combine=[hair]"], "concepts.combine must be a list of lists"),
        (["lora.ranks=5"], "lora.ranks must be a mapping to whole numbers such as {a: 1}"),
        (["redo=[[a]]"], "redo must be a list such as [a, b]"),
        (["lora.ranks={a: [1]}"], "lora.ranks must be a mapping to whole numbers"),
        (["lora.ranks.down.0=x"], "lora.ranks.down.0 must be a whole number"),
        (["images={size: big}"], "images must be a mapping of its keys"),
        (["seed=1e3"], "seed=1e3: seed must be a whole number"),
        (["seed=12:30"], "seed must be a whole number"),
        (["seed=१"], "seed must be a whole number"),
        (["base.lr=1,5"], "base.lr must be a number"),
        (["redo=[base"], "redo=[base: cannot be read as YAML"),
        (["seed=${nope}"], "seed=${nope}: seed must be a whole number"),
        (["run_dir=s3:/bucket/a"], "run_dir=s3:/bucket/a: did you mean run_dir=s3://bucket/a?"),
        (["run_dir=gs:/a"], "did you mean run_dir=gs://a?"),
        (["run_dir=file:/a"], "did you mean run_dir=file:///a?"),
        (
            ["images.source=folder", "images.path=s3:/a"],
            "images.path=s3:/a: did you mean images.path=s3://a?",
        ),
        # values that are not allowed
        (["preset=huge"], "preset=huge: no such preset; there are demo"),
        (["run_dir="], "run_dir: must not be empty"),
        (["text_encoder="], "text_encoder: must not be empty"),
        (["seed=-1"], "seed=-1: must be at least 0"),
        (["images.source=web"], "images.source=web: must be one of avatars, folder"),
        (
            ["editor=photoshop"],
            "editor=photoshop: must be one of auto, best, avatar, filter, img2img",
        ),
        (["weights.grouping=4"], "weights.grouping=4: must be one of 1, 2, 3"),
        (["weights.centre=mean"], "weights.centre=mean: must be one of element, tensor"),
        (["weights.block_size=4"], "weights.block_size=4: must be at least 8"),
        (["generator.kind=gpt"], "generator.kind=gpt: must be one of transformer, unet"),
        (["generator.prediction=x1"], "must be one of x0, v, epsilon"),
        (["generator.schedule=cosine"], "must be one of linear, scaled_linear, squaredcos_cap_v2"),
        (["adapt.sampler=euler"], "adapt.sampler=euler: must be one of one_step, ddim"),
        (
            ["evaluate.features=vgg"],
            "evaluate.features=vgg: must be one of efficientnet, inception",
        ),
        (["evaluate.controls=[magic]"], "evaluate.controls=magic: must be one of zero LoRA"),
        (["images.count=9"], "images.count=9: must be at least 10"),
        (["base.checkpoint_every=0"], "base.checkpoint_every=0: must be at least 1"),
        (["gans.batch=0"], "gans.batch=0: must be at least 1"),
        (["cluster.actors=-1"], "cluster.actors=-1: must be at least 0"),
        (["translator.heads=0"], "translator.heads=0: must be at least 1"),
        (["rival.kind=gpt"], "rival.kind=gpt: must be one of transformer, unet"),
        (["rival.channels=[3]"], "a multiple of rival.heads=2"),
        (["rival.train=true", "rival.t_min=500", "adapt.t=400"], "must lie in rival.t_min=500"),
        (["adapt.split=train"], "adapt.split=train: must be one of test, val"),
        (["repeats=0"], "repeats=0: must be at least 1"),
        (["generator.heads=0"], "generator.heads=0: must be at least 1"),
        (["lora.ranks={head: 0}"], "lora.ranks.head=0: must be at least 1"),
        (["lora.ranks.down.0=0"], "lora.ranks.down.0=0: must be at least 1"),
        (["editing.steps.null_text=0"], "editing.steps.null_text=0: must be at least 1"),
        (["editing.guidance.null_text=-1"], "editing.guidance.null_text=-1.0: must be at least 0"),
        (["editing.guidance.null_text=nan"], "must be at least 0"),
        (["editing.image_guidance.img2img=inf"], "must be at least 0"),
        (["editing.strength.img2img=0"], "editing.strength.img2img=0.0: must be more than 0"),
        (["editing.strength.img2img=2"], "editing.strength.img2img=2: must be at most 1"),
        (["editing.exponents.identity=-1"], "must be at least 0"),
        (["cluster.editor_actors.img2img=0"], "must be at least 1"),
        (["cluster.editor_gpus.img2img=-0.5"], "must be at least 0"),
        (["plan.evaluations.img2img=0"], "must be at least 1"),
        (["plan.evaluations.paint=5"], "plan.evaluations.paint: no such editor"),
        (["gans.pilot_score=fid"], "gans.pilot_score=fid: must be one of l1, fd"),
        (
            ["gans.steps=11", "gans.checkpoints=3"],
            "gans.checkpoints=3: the last quarter of gans.steps=11 has room for 2",
        ),
        (["base.lr=0"], "base.lr=0.0: must be more than 0"),
        (["gans.lr=.nan"], "gans.lr=nan: must be more than 0"),
        (["max_error_fraction=.nan"], "max_error_fraction=nan: must be at least 0"),
        (["generator.ema=1"], "generator.ema=1.0: must lie in [0, 1)"),
        (["translator.edge_kernel=4"], "translator.edge_kernel must be odd, not 4"),
        (["generator.t_min=1000"], "generator.t_min=1000: must lie in 0 … 999"),
        *(
            ([f"serve.allowed_origins=[{o}]"], f"serve.allowed_origins={o}: give scheme, host")
            for o in ("my.org", "https://my.org/", "null", "ftp://my.org", "https://*.my.org")
        ),
        # combinations that cannot be
        (["images.source=folder"], "images.source=folder needs images.path=DIR"),
        (["images.path=photos"], "use images.source=folder"),
        ([*FOLDER, "editor=avatar"], "use editor=filter with images.source=folder"),
        (["images.size=34"], "images.size=34: must be a multiple of 4"),
        (["translator.heads=3"], "translator.heads (3) must divide width · 2^downs (16)"),
        (["generator.heads=3"], "generator.heads=3: must divide generator.width=32"),
        (["generator.kind=unet", "generator.channels=[]"], "generator.channels=[]: one or more"),
        (["generator.kind=unet", "generator.channels=[3]"], "a multiple of generator.heads=2"),
        (["generator.blocks_per_concept=4"], "the transformer needs all blocks, set it to 0"),
        (["generator.t_min=500", "adapt.t=400"], "adapt.t=400: must lie in generator.t_min=500"),
        (["adapt.sampler=ddim", "generator.t_min=9"], "it needs generator.t_min=0"),
        (["adapt.keep=[4]"], "adapt.keep=[4]: must lie between 0 and adapt.steps=4"),
        (["evaluate.fd_images=100"], "at least 2048 images, or 0 for none"),
        (
            [*FOLDER, "evaluate.fd_images=2048"],
            "fresh pairs exist for images.source=avatars with an exact editor",
        ),
    ],
)
def test_one_clear_line_for_what_is_wrong(words: list[str], expected: str) -> None:
    preset = [] if any(w.startswith("preset=") for w in words) else ["preset=tiny"]
    with pytest.raises(ConfigError) as caught:
        load_config([*preset, *words])
    text = str(caught.value)
    assert expected in text
    assert "\n" not in text


WORDS = st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=12)


@settings(deadline=None, max_examples=20)
@given(text=st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12))
@example("1e3")
@example("0o7")
@example("~x")
@example("${a")
@example("\\${seed}")
@example("No")
@example("2024-11-25")
@example("'")
@example("- a")
@example(" #")
def test_a_text_is_the_same_in_config_yaml_and_back(text: str) -> None:
    config = load_config(["preset=tiny", f"llm.writer.key_env={text}"])
    assert config.llm.writer.key_env == text
    assert config_tree.from_dict(config_tree.to_dict(config)) == config
    assert config_tree.from_dict(config_tree.from_yaml(config_tree.to_yaml(config))) == config


@settings(deadline=None, max_examples=50)
@given(
    key=st.sampled_from(["seed", "images", "redo", "lora.ranks", "adapt.keep[0]", ""]), value=WORDS
)
@example("seed", "!!python/object/apply:os.system [echo]")
@example("seed", "*x")
@example("run_dir", "${oc.env:NO_SUCH_VARIABLE}")
@example("redo", "[[]]")
@example("images..size", "16")
@example("[", "1")
def test_whatever_is_typed_gives_a_config_or_one_line(key: str, value: str) -> None:
    try:
        load_config(["preset=tiny", f"{key}={value}"])
    except ConfigError as error:
        assert len(str(error).splitlines()) == 1


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"concepts.source": "web"}, "concepts.source=web: must be one of grammar, llm"),
        (
            {"concepts.families": "[hair]", "concepts.test_atoms": "2"},
            "with llm give concepts.families=[] concepts.test_atoms=0",
        ),
        (
            {"llm.counts": "{art: 0, characteristic: 0, facial: 0}"},
            "needs llm.counts, such as llm.counts.art",
        ),
        ({"llm.counts.art": "-1"}, "llm.counts.art=-1: must be at least 0"),
        ({"llm.test.art": "5"}, "llm.counts.art=5: must be more than the 5 that are held out"),
        ({"llm.paraphrases.facial": "5"}, "llm.paraphrases.facial: llm.counts.facial is 0"),
        (
            {"concepts.train_combinations": "15", "llm.test.art": "2"},
            "concepts.*_combinations: 15 wanted, but the training concepts of llm.counts make 12",
        ),
        ({"llm.combine": "[[art, hair]]"}, "llm.combine=hair: must be one of art, characteristic"),
        ({"llm.combine": "[[art, art]]"}, "must be two or more different categories"),
        ({"llm.similarity": "1.5"}, "llm.similarity=1.5: is a cosine, from -1 to 1"),
        ({"llm.requests": "0"}, "llm.requests=0: must be at least 1"),
        ({"llm.encoder": ""}, "llm.encoder: must not be empty"),
        ({"llm.writer.model": ""}, "concepts.source=llm needs llm.writer.model"),
        ({"llm.writer.base_url": ""}, "llm.writer.base_url=: must be the endpoint's address"),
        ({"llm.paraphraser.model": "x"}, "llm.paraphraser.base_url=: must be the endpoint's"),
        ({"llm.writer.provider": "x"}, "llm.writer.provider=x: must be one of endpoint, local"),
        ({"llm.writer.response_format": "xml"}, "must be one of json_schema, json_object, none"),
        ({"llm.writer.rate": "-1"}, "llm.writer.rate=-1.0: must be at least 0"),
        ({"llm.writer.key": "k"}, "unknown key llm.writer.key; did you mean llm.writer.key_env?"),
    ],
)
def test_a_language_models_configuration(changes: dict[str, str], expected: str) -> None:
    base = {"concepts.train_combinations": "0"}
    base |= {"concepts.val_combinations": "0", "concepts.test_combinations": "0"}
    none = "{art: 0, characteristic: 0, facial: 0}"
    base |= {"llm.test": none, "llm.paraphrases": none}
    base["llm.counts"] = "{art: 5, characteristic: 4, facial: 0}"
    load_config(["preset=paper", *(f"{k}={v}" for k, v in base.items())])
    with pytest.raises(ConfigError) as caught:
        load_config(["preset=paper", *(f"{k}={v}" for k, v in (base | changes).items())])
    assert expected in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("editor", ["avatar", "filter"])
def test_exact_editors_draw_what_the_grammar_says(editor: str) -> None:
    message = f"exact editor {editor} can draw only .* editor=instruct_pix2pix, or concepts"
    with pytest.raises(ConfigError, match=message):
        load_config(["preset=tiny", f"editor={editor}", "concepts.source=llm"])


@pytest.mark.parametrize("preset", preset_names())
def test_round_trips(preset: str) -> None:
    config = load_config([f"preset={preset}", "seed=3", "lora.ranks={head: 2}", "redo=[base]"])
    tree = config_tree.to_dict(config)
    assert config_tree.from_dict(tree) == config
    assert yaml.safe_load(config_tree.to_yaml(config)) == tree
    assert config_tree.to_dict(config_tree.from_dict(tree)) == tree


def test_a_saved_configuration_is_read_strictly() -> None:
    tree = config_tree.to_dict(load_config(["preset=tiny"]))
    with pytest.raises(ConfigError, match=r"unknown key images\.sise; did you mean images\.size"):
        config_tree.from_dict(tree | {"images": {**tree["images"], "sise": 1}})
    with pytest.raises(ConfigError, match=r"images\.size must be a whole number"):
        config_tree.from_dict(tree | {"images": {**tree["images"], "size": "big"}})


def test_every_bound_names_a_number_of_the_schema() -> None:
    config = Config()
    for key in (*ranges.LEAST, *ranges.RATES, *ranges.FRACTIONS):
        value: Any = config
        for part in key.split("."):
            value = getattr(value, part)
        assert isinstance(value, int | float), key


def test_the_schemas_own_defaults_pass() -> None:
    checks.check(Config())
