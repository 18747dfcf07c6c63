"""Which concepts there are: what a user may set of the grammar, the writer and its models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass
class ConceptSpec:
    """How many concepts of which kind the grammar plans."""

    families: list[str] = field(default_factory=list)
    """Families to draw from; empty = all that the editor supports."""
    heldout_families: list[str] = field(default_factory=list)
    """Families of the test set that no training sees."""
    validation_families: list[str] = field(default_factory=list)
    """The same of the validation set."""
    paired_families: list[str] = field(default_factory=list)
    """Further training families, with pairs but no adapters: the image loss learns from them."""
    atoms_per_family: int = 0
    """0 = all, else an even sample."""
    train_atoms: int = -1
    """-1 = all that are not held out."""
    train_combinations: int = 0
    """Combinations of training atoms, each with an adapter."""
    paired_combinations: int = 0
    """Further training combinations, with pairs but no adapter: the image loss learns from them."""
    val_atoms: int = 0
    """Held out for validation, of families that training sees."""
    val_combinations: int = 0
    """Combinations held out for validation; their parts are in training."""
    val_families: int = 0
    """Atoms of validation_families that are concepts of the validation set."""
    test_atoms: int = 0
    """Held out for the test, of families that training sees."""
    test_combinations: int = 0
    """Combinations held out for the test; their parts are in training."""
    test_families: int = 0
    """Atoms of heldout_families that are concepts of the test set."""
    paraphrases: int = 0
    """Per training concept; a paraphrase shares its parent's adapter."""
    combine: list[list[str]] = field(default_factory=list)
    """Tuples of families that may be combined; empty = pairs across categories."""


@dataclass
class WritingSettings:
    """How a language model is asked for concepts (paper Sec. 3.1, 5.1)."""

    combine: list[list[str]] = field(default_factory=lambda: [["characteristic", "art"]])
    """Tuples of categories for concepts.*_combinations, in the order in which a text has them."""
    per_request: int = 20
    """Concepts asked for in one request."""
    paraphrased_together: int = 5
    """Concepts paraphrased in one request."""
    round_requests: int = 16
    """Requests for one category in a round; the next round sees what this one brought."""
    requests: int = 400
    """Budget of the writer, and of the paraphraser."""
    allow_fewer: bool = False
    """Go on with what there is when the budget is spent."""
    paraphrase_similarity: float = 0.3
    """Least cosine of a paraphrase to its concept."""


@dataclass
class WritingSpec(WritingSettings):
    """How many concepts of each category ("art", "characteristic", "facial").

    counts: written, of which `test` and `val` are held out. paraphrases: of training concepts, in
    all.
    """

    counts: Mapping[str, int] = field(default_factory=dict)
    test: Mapping[str, int] = field(default_factory=dict)
    val: Mapping[str, int] = field(default_factory=dict)
    paraphrases: Mapping[str, int] = field(default_factory=dict)


RESPONSE_FORMATS = ("json_schema", "json_object", "none")


@dataclass
class LanguageModelSettings:
    """A language model and how it is asked (modeling/concepts/language_models.py)."""

    provider: str = "endpoint"
    """endpoint (OpenAI-compatible: vLLM, Ray Serve LLM, hosted) | local (transformers)"""
    model: str = ""
    """What the endpoint calls it; or a folder, or a cached hub id."""
    base_url: str = ""
    """Of the endpoint, such as http://127.0.0.1:8000/v1."""
    key_env: str = ""
    """Name of the environment variable that holds the endpoint's key; empty = no key."""
    response_format: str = "json_schema"
    """json_schema | json_object | none: what the endpoint supports."""
    temperature: float = 0.0
    """0 = the likeliest answer, always the same."""
    max_tokens: int = 2048
    """Of an answer."""
    timeout_s: float = 120.0
    """Of a request."""
    retries: int = 6
    """Of a request that meets a time-out, a lost connection, 429 or 5xx."""
    rate: float = 0.0
    """Requests a minute over all actors, retries included; 0 = any number."""
    batch: int = 8
    """Prompts at once in a local model."""


@dataclass
class ModelOptions(LanguageModelSettings):
    """One model, resolved. named: where the options come from, for error messages."""

    allow_download: bool = False
    named: str = "llm.writer"
