"""Names of adapters over HTTP. No Ray and no torch in here.

A predicted adapter's name says how to predict it, so it needs no store: any replica can make it
again, and it means the same after a restart. A fine-tuned adapter's name is that of the job which
made it. Both are read strictly, as everything that a client sends.
"""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass

PREDICTED, FINETUNED = "p-", "f-"
JOB = re.compile(r"[0-9a-f]{16}")
MODEL_DIGITS = 12
"""Of the model's digest, in a predicted adapter's name."""
OTHER_MODEL = (
    "this adapter is of another model than the one that is served: ask for its text again, make the"
    " fine-tune anew, or have its run served"
)


class UnknownAdapterError(LookupError):
    """A name that no adapter has."""


class OtherModelError(ValueError):
    """The name of an adapter of another base or weight generator than the one that is served."""


@dataclass(frozen=True)
class Ask:
    """What determines a predicted adapter, once the model is given."""

    concept: str
    seed: int
    t: int
    """Time step of the recovery (Sec. 4.4)."""
    steps: int
    """1 = direct recovery, more = DDIM from t."""


def name_of(ask: Ask, model: str) -> str:
    """model: digest of what predicts, hexadecimal; "" for whatever is served."""
    fields = [ask.concept, ask.seed, ask.t, ask.steps, model[:MODEL_DIGITS]]
    text = json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()
    return PREDICTED + base64.urlsafe_b64encode(text).decode().rstrip("=")


def parse(name: str) -> tuple[Ask, str]:
    """The inverse of `name_of`, with the model's first digits; UnknownAdapterError."""
    try:
        if not name.startswith(PREDICTED):
            raise ValueError
        data = name.removeprefix(PREDICTED)
        text = base64.b64decode(data + "=" * (-len(data) % 4), altchars=b"-_", validate=True)
        concept, seed, t, steps, model = json.loads(text)
        if not all(isinstance(word, str) for word in (concept, model)):
            raise ValueError
        if any(type(number) is not int for number in (seed, t, steps)):
            raise ValueError
        ask = Ask(concept, seed, t, steps)
        if name_of(ask, model) != name:  # one name for one adapter: no other spelling of the same
            raise ValueError
    except (ValueError, TypeError, RecursionError) as error:
        raise UnknownAdapterError("no adapter has this name") from error
    return ask, model


def ask_of(name: str, model: str) -> Ask:
    """What a name asks for; OtherModelError if it is of another model; raises as `parse`."""
    ask, digits = parse(name)
    if digits not in ("", model[:MODEL_DIGITS]):
        raise OtherModelError(OTHER_MODEL)
    return ask


def job_of(name: str) -> str:
    """The fine-tune that made an adapter; UnknownAdapterError for any other name."""
    job = name.removeprefix(FINETUNED)
    if not name.startswith(FINETUNED) or not JOB.fullmatch(job):
        raise UnknownAdapterError("no adapter has this name")
    return job
