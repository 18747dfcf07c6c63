"""What requests hold, read strictly.

How far a field may go is the service's to say and is written in its OpenAPI document. So a router
that takes such fields is made with the limits, and declares its forms itself, from these.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from pipelines.serve.runs.served import Limits
from pipelines.use.adapter_names import FINETUNED, PREDICTED, Ask, UnknownAdapterError, parse
from pipelines.use.wording import says_something, worded

BINARY = {"type": "string", "format": "binary"}
"""OpenAPI's schema of a file."""


Words = Annotated[str, AfterValidator(worded)]


async def named_run(
    run: Annotated[
        str,
        Query(
            max_length=40,
            description="Name of one of the runs that are served (GET /v1/runs); the first if left"
            " out.",
        ),
    ] = "",
) -> None:
    """Of every route that a run answers; read by pipelines/serve/runs/choice.py."""


class Prediction(BaseModel):
    """How an adapter is predicted. A form declares `t` and `steps` again, with the bounds."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)

    seed: int = Field(0, ge=0, lt=2**63, description="Of the noise that is denoised.")
    t: int
    steps: int

    @model_validator(mode="after")
    def _enough_time_steps(self) -> Prediction:
        if self.steps > self.t + 1:
            raise ValueError("steps: there are only t + 1 time steps")
        return self

    def of(self, concept: str) -> Ask:
        return Ask(concept, self.seed, self.t, self.steps)


def time_step(limits: Limits) -> Any:
    return Field(
        limits.t,
        ge=limits.t_min,
        le=limits.t_max,
        description="Time step of the recovery; the run's own if left out.",
    )


def sampling_steps(limits: Limits) -> Any:
    return Field(
        limits.steps,
        ge=1,
        le=limits.max_steps,
        description="1 = direct recovery, more = DDIM from t.",
    )


def longest_name(limits: Limits) -> int:
    """Characters of an adapter's name: it holds the concept's text, encoded."""
    return 8 * limits.max_text + 200


def known(name: str, limits: Limits) -> str:
    """A name from a client, if it can be one; what it holds must keep to the limits, too."""
    if name.startswith(PREDICTED):
        ask, _ = parse(name)
        if (
            not says_something(ask.concept)
            or len(ask.concept.strip()) > limits.max_text
            or not 0 <= ask.seed < 2**63
            or not limits.t_min <= ask.t <= limits.t_max
            or not 1 <= ask.steps <= min(limits.max_steps, ask.t + 1)
        ):
            raise UnknownAdapterError("no adapter has this name")
    elif not name.startswith(FINETUNED):
        raise UnknownAdapterError("no adapter has this name")
    return name
