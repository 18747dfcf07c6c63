"""The words that are `plan`'s own, apart from the configuration's keys."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.config.error import ConfigError

OWN = ("calibrate", "command", "json", "price")
PLANNED = ("run", "compare", "tune")
"""Words of this command; all others are the configuration's."""


def own_words(words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Word → value of its own (flags as words: `--json` is json=-), and the other words.

    ConfigError if one is given twice, or has no value; price=P becomes plan.price.
    """
    own: dict[str, str] = {}
    rest: list[str] = []
    for word in words:
        flag = {"--json": "json=-", "--calibrate": "calibrate=true"}.get(word, word)
        key, equals, value = flag.partition("=")
        if key not in OWN:
            rest.append(word)
            continue
        if key in own:
            raise ConfigError(f"{key} is given twice")
        if not equals or not value:
            raise ConfigError(f"{word!r} is not of the form {key}=value")
        own[key] = value
    if own.get("calibrate", "false") not in ("true", "false"):
        raise ConfigError(f"calibrate={own['calibrate']}: calibrate must be true or false")
    if own.get("command", "run") not in PLANNED:
        raise ConfigError(f"command={own['command']}: must be one of {', '.join(PLANNED)}")
    if "price" in own:
        rest.append(f"plan.price={own['price']}")
    return own, rest
