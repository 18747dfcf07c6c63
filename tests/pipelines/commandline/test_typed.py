"""What people type: other command lines' habits, slips, and the line that helps."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.commandline.commands import COMMANDS
from pipelines.commandline.typed import command_of, key_words
from pipelines.config.error import ConfigError
from pipelines.config.nearest import all_keys, nearest


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("preset=demo", "preset=demo"),
        ("--preset=demo", "preset=demo"),
        ("--preset demo", "preset=demo"),
        ("-preset demo", "preset=demo"),
        ("—preset demo", "preset=demo"),  # a word processor's two hyphens
        ("preset demo", "preset=demo"),
        ("preset = demo", "preset=demo"),
        ("preset =demo", "preset=demo"),
        ("--run-dir runs/a", "run_dir=runs/a"),
        ("--run_dir=s3://b/a=b", "run_dir=s3://b/a=b"),
        ("--run_dir s3://b/a=b seed=1", "run_dir=s3://b/a=b seed=1"),
        ("--allow-download", "allow_download=true"),
        ("--allow_download --seed 3", "allow_download=true seed=3"),
        ("--allow_download seed=3", "allow_download=true seed=3"),
        ("--seed -1", "seed=-1"),
        ("--gans.lr 1e-3 gans.steps 5", "gans.lr=1e-3 gans.steps=5"),
        ("images.path=", "images.path="),
        ("lora.ranks={a: 1}", "lora.ranks={a: 1}"),
        ("--redo [gans]", "redo=[gans]"),
        ("colour=red", "colour=red"),  # refused later, with its nearest keys
    ],
)
def test_other_command_lines_habits_are_understood(typed: str, meant: str) -> None:
    words = typed.split(" ") if "{" not in typed else [typed]
    expected = meant.split(" ") if "{" not in typed else [meant]
    assert key_words(COMMANDS["run"], words) == expected


@pytest.mark.parametrize(
    ("command", "typed", "meant"),
    [
        ("plan", ["--json", "price", "2.5"], ["--json", "price=2.5"]),
        ("plan", ["--json=out.json"], ["json=out.json"]),
        ("plan", ["--calibrate", "--preset", "paper"], ["--calibrate", "preset=paper"]),
        (
            "tune",
            ["--study", "block_size", "run_dir", "r", "seeds=1"],
            ["study=block_size", "run_dir=r", "seeds=1"],
        ),
        ("submit", ["--address", "http://h:1"], ["address=http://h:1"]),
        (
            "export-dataset",
            ["--target", "a", "licence", "mit", "--run-dir=r"],
            ["target=a", "licence=mit", "run_dir=r"],
        ),
    ],
)
def test_a_commands_own_words_are_understood_alike(
    command: str, typed: list[str], meant: list[str]
) -> None:
    assert key_words(COMMANDS[command], typed) == meant


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["demo"], "'demo' is not of the form key=value; did you mean preset=demo?"),
        (["gans"], "'gans' is not of the form key=value: one command at a time"),
        (["preset:demo"], "did you mean preset=demo?"),
        (["sed", "3"], "did you mean seed=…"),
        (["--seed"], "--seed needs a value: seed=VALUE"),
        (["--seed", "--preset", "demo"], "--seed needs a value"),
        (["--verbose"], "unknown key verbose"),
        (["--block-size"], "unknown key block_size; did you mean weights.block_size?"),
        (["=3"], "'=3' is not of the form key=value"),
        (["nonsense"], "'nonsense' is not of the form key=value"),
    ],
)
def test_what_is_not_understood_is_answered_with_what_to_type(
    words: list[str], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        key_words(COMMANDS["run"], words)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("command", "words", "message"),
    [
        ("export-dataset", [], "export-dataset needs run_dir (the run): denoised-weights export"),
        ("export-dataset", ["run_dir=a", "target=b"], "needs licence"),
        ("export-dataset", ["run_dir=a", "target=", "licence=c"], "needs target"),
        ("export-dataset", ["run_dir=a", "target=b", "licence=c", "x=y"], "unknown word x"),
        ("import-dataset", ["run_dir=a", "sorce=b", "source=c"], "did you mean source?"),
        ("tune", ["study=block_size"], "tune needs run_dir (the finished run)"),
        ("tune", ["run_dir=a"], "tune needs study"),
    ],
)
def test_a_commands_own_words_are_whole(command: str, words: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        key_words(COMMANDS[command], words)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["gan"], "unknown command 'gan'; did you mean gans"),
        (["Generator"], "unknown command 'Generator'; did you mean generator?"),
        (["export_dataset"], "did you mean export-dataset?"),
        (["train"], "unknown command 'train'"),
        (["--preset", "demo", "run"], "denoised-weights run --preset demo"),
        (["preset=demo", "run"], "denoised-weights run preset=demo"),
        (["preset=demo"], "denoised-weights run preset=demo"),
    ],
)
def test_a_wrong_command_is_answered_with_the_nearest(argv: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        command_of(argv)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("gans.stps", "gans.steps"),
        ("weights.blok_size", "weights.block_size"),
        ("block_size", "weights.block_size"),
        ("IMAGES.SIZE", "images.size"),
        ("run-dir", "run_dir"),
        ("blok_size", "weights.block_size"),
        ("text_encodr", "text_encoder"),
    ],
)
def test_the_nearest_key_comes_first(typed: str, found: str) -> None:
    assert nearest(typed, all_keys())[0] == found


def test_nothing_is_near_to_nonsense() -> None:
    assert nearest("qqq", all_keys()) == []


@given(st.lists(st.text(min_size=1, max_size=12), max_size=4))
def test_whatever_is_typed_is_words_or_one_line(words: list[str]) -> None:
    try:
        out = key_words(COMMANDS["run"], words)
    except ConfigError as error:
        assert str(error)
    else:
        assert all("=" in word for word in out)


@given(st.sampled_from(all_keys()), st.from_regex(r"[A-Za-z0-9_./:]+", fullmatch=True))
def test_every_key_is_understood_in_every_form(key: str, value: str) -> None:
    for words in ([f"{key}={value}"], [f"--{key}={value}"], [f"--{key}", value], [key, value]):
        assert key_words(COMMANDS["run"], words) == [f"{key}={value}"]
