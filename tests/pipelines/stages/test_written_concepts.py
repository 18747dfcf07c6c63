"""The stage `concepts` with a language model, through Ray: whole, redone, killed, and failing."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from modeling.concepts.language_models import LanguageModelError
from modeling.concepts.text import has_phrase, normal_form
from pipelines.config.error import ConfigError
from pipelines.config.load import load_config
from pipelines.runtime.run_dir import ArtifactError, RunDir
from pipelines.runtime.session import ray_session
from pipelines.runtime.stage_graph import redo, run_stage
from pipelines.stages.concepts import load_concepts, load_text
from tests.chat_server import ChatServer, Reply, chat_server
from tests.driver import Driver
from tests.tiny_chat import save_tiny_chat

PLAIN = ("families", "combine", "paired_families", "atoms_per_family", "test_atoms", "paraphrases")
WORDS = [
    "preset=tiny",
    "editor=instruct_pix2pix",
    "concepts.source=llm",
    *(f"concepts.{key}={[] if key in PLAIN[:3] else 0}" for key in PLAIN),
    "concepts.train_combinations=20",
    "concepts.test_combinations=2",
    "concepts.paired_combinations=5",
    "llm.counts={art: 8, characteristic: 10, facial: 4}",
    "llm.test={art: 2, characteristic: 2, facial: 1}",
    "llm.val.art=1",
    "llm.paraphrases={art: 6, characteristic: 7}",
    "llm.per_request=6",
    "llm.writer.model=fake",
    "llm.writer.concurrency=4",
    "llm.writer.retries=1",
    "llm.writer.input_price=10",
    "llm.writer.output_price=20",
]


@pytest.fixture(scope="module")
def ray_runs() -> Iterator[None]:
    import ray

    ray.init(address="local", num_cpus=6, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def made(folder: Path, url: str, *more: str) -> RunDir:
    words = [*WORDS, f"run_dir={folder}", f"llm.writer.base_url={url}", *more]
    config = load_config(list({word.partition("=")[0]: word for word in words}.values()))
    run = RunDir(config.run_dir)
    with ray_session(config, run):
        if config.redo:
            redo(config, run, config.redo)
        run_stage(config, run, "concepts")
    return run


@pytest.fixture(scope="module")
def finished(
    ray_runs: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[RunDir, ChatServer]]:
    with chat_server() as server:
        yield made(tmp_path_factory.mktemp("written") / "run", server.url), server


def test_the_counts_and_origins(finished: tuple[RunDir, ChatServer]) -> None:
    run, _ = finished
    concepts = load_concepts(run)
    counts = Counter((c.origin, c.split, c.heldout, c.adapter) for c in concepts)
    assert counts == {
        ("written", "train", "", True): 16,
        ("combined", "train", "", True): 20,
        ("combined", "train", "", False): 5,
        ("written", "val", "atoms", True): 1,
        ("written", "test", "atoms", True): 5,
        ("combined", "test", "combinations", True): 2,
        ("paraphrased", "train", "", True): 13,
    }
    texts = load_text(run)
    assert set(texts) == {c.concept_id for c in concepts} and len(texts) == len(concepts)
    heldout = [c.text for c in concepts if c.heldout == "atoms"]
    for c in concepts:
        if c.split == "train":
            assert not any(has_phrase(c.text, h) for h in heldout)
            assert normal_form(c.text) not in map(normal_form, heldout)


def test_what_it_cost_and_what_was_rejected(finished: tuple[RunDir, ChatServer]) -> None:
    run, server = finished
    summary = run.read_json("stages/concepts.json")["summary"]
    asked = sum(used["requests"] for used in summary["llm"].values())
    assert asked == len(server.bodies) == len(run.files("llm"))
    assert summary["llm"]["writer"]["prompt_tokens"] == 100 * summary["llm"]["writer"]["requests"]
    cost = sum(used["cost"] for used in summary["llm"].values())
    assert cost == pytest.approx(asked * (100 * 10 + 10 * 20) / 1e6)
    rows = run.read_table("concepts/rejected.parquet").to_pylist()
    assert sum(summary["rejected"].values()) == len(rows) > 0
    assert {"more than asked for", "repeated"} == {r["reason"] for r in rows}
    assert all(r["text"] and r["category"] and 1 <= r["request"] <= asked for r in rows)


def test_paid_answers_outlive_a_redo_and_give_the_same(
    finished: tuple[RunDir, ChatServer],
) -> None:
    run, server = finished
    names = ("concepts.parquet", "text.parquet", "concepts/rejected.parquet")
    before, asked = [run.read(name) for name in names], len(server.bodies)
    # where it is asked, and how fast, decides nothing
    made(Path(run.uri), "http://127.0.0.1:9/v1", "redo=[concepts]", "llm.writer.concurrency=2")
    assert [run.read(name) for name in names] == before
    assert len(server.bodies) == asked
    summary = run.read_json("stages/concepts.json")["summary"]["llm"]
    assert all(used["cost_now"] == 0 < used["cost"] for used in summary.values())
    assert all(used["kept"] == used["requests"] for used in summary.values())
    with pytest.raises(ConfigError, match=r"llm\.per_request=6 then, llm\.per_request=5 now"):
        made(Path(run.uri), server.url, "llm.per_request=5")


def test_a_damaged_answer_is_named(finished: tuple[RunDir, ChatServer], tmp_path: Path) -> None:
    run, server = finished
    copy = RunDir(str(tmp_path / "run"))
    for name in run.files("llm"):
        copy.write(name, run.read(name))
    copy.write(copy.files("llm")[0], b'{"text": "x"}')
    with pytest.raises(ArtifactError, match=r"llm/\w+\.json is damaged: .*delete it"):
        made(Path(copy.uri), server.url)


def test_failures_stop_the_stage_and_what_came_is_kept(ray_runs: None, tmp_path: Path) -> None:
    def fail(number: int, text: str) -> Reply | None:
        bad = "a visible change" in text
        return (500, {"retry-after": "0.01"}, "") if bad else None

    with chat_server() as server:
        server.misbehave = fail
        with pytest.raises(LanguageModelError, match=r"requests have no answer: .* answers 500"):
            made(tmp_path / "run", server.url)
        kept = len(RunDir(str(tmp_path / "run")).files("llm"))
        assert kept == sum(server.answered.values())
        server.misbehave = lambda number, text: None
        run = made(tmp_path / "run", server.url)
        assert set(server.answered.values()) == {1}  # nothing was paid for twice
    assert len(load_concepts(run)) == 62


def test_no_endpoint_and_no_key(ray_runs: None, tmp_path: Path) -> None:
    with chat_server() as server:
        url = server.url
    with pytest.raises(LanguageModelError, match=r"llm\.writer\.base_url=.*cannot be reached"):
        made(tmp_path / "a", url, "llm.writer.retries=0")
    with pytest.raises(LanguageModelError, match=r"llm\.writer\.key_env=NO_SUCH_KEY.* is not set"):
        made(tmp_path / "b", url, "llm.writer.key_env=NO_SUCH_KEY")


def test_junk_of_a_local_model_ends_in_a_clear_error(ray_runs: None, tmp_path: Path) -> None:
    folder = save_tiny_chat(tmp_path / "model")
    words = ["llm.writer.provider=local", f"llm.writer.model={folder}", "llm.writer.max_tokens=8"]
    words += ["llm.requests=4", "llm.writer.batch=4"]
    with pytest.raises(ConfigError, match=r"art: 0 of 8 after llm\.requests=4 .*rejected"):
        made(tmp_path / "run", "", *words)
    rows = RunDir(str(tmp_path / "run")).read_table("concepts/rejected.parquet").to_pylist()
    assert len(rows) == 4 and all(r["reason"].startswith("malformed") for r in rows)


def test_a_killed_stage_pays_for_no_request_twice(tmp_path: Path) -> None:
    """Killed while the endpoint holds back some answers; those that came are not asked again."""
    held = threading.Event()

    def hold(number: int, text: str) -> Reply | None:
        if number < 3:
            return None
        held.wait(120)
        return (500, {}, "")  # never an answer to who is gone

    with chat_server(misbehave=hold) as server:
        words = ["concepts", *WORDS, f"run_dir={tmp_path / 'run'}"]
        words.append(f"llm.writer.base_url={server.url}")
        run = RunDir(str(tmp_path / "run"))
        with Driver(words, tmp_path, RAY_AUTH_MODE="disabled") as driver:
            driver.wait_until(lambda: len(run.files("llm")) == 3 and len(server.bodies) > 3)
            driver.kill()
        held.set()
        server.misbehave = lambda number, text: None
        assert not run.exists("concepts.parquet")
        with Driver(words, tmp_path, RAY_AUTH_MODE="disabled") as driver:
            driver.wait()
    assert set(server.answered.values()) == {1}
    assert len(server.answered) == len(run.files("llm"))
    assert "answered before" in driver.output()
    assert run.read_json("stages/concepts.json")["summary"]["llm"]["writer"]["kept"] == 3
