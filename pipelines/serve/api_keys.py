"""Keys that clients of the service must send, if it asks for any.

They come from the environment, so that no configuration, log or run directory holds one; the
service itself is given their SHA-256 alone.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Sequence

from pipelines.config.error import ConfigError
from pipelines.config.schema import Config

VARIABLE = "DENOISED_WEIGHTS_API_KEYS"
LEAST = 16
"""Characters of a key: shorter ones can be guessed."""


def hashed(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def from_environment(config: Config) -> list[str]:
    """SHA-256 of every key, [] if none is asked for; ConfigError if there is none to ask for."""
    if not config.serve.require_key:
        return []
    keys = [k.strip() for k in os.environ.get(VARIABLE, "").split(",") if k.strip()]
    if not keys:
        raise ConfigError(f"serve.require_key=true: give the keys in ${VARIABLE}, separated by ,")
    if min(map(len, keys)) < LEAST:
        raise ConfigError(f"${VARIABLE}: a key needs {LEAST} characters or more")
    return [hashed(k) for k in keys]


def allowed(known: Sequence[str], given: str) -> bool:
    """Whether a key is one of those known, in a time that does not tell how near it came."""
    mine = hashed(given)
    return any([hmac.compare_digest(mine, k) for k in known])
