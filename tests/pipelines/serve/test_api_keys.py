"""Keys that clients must send."""

from __future__ import annotations

import pytest

from pipelines.config.error import ConfigError
from pipelines.config.load import load_config
from pipelines.serve.api_keys import from_environment, hashed


def test_keys_come_from_the_environment_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asking = load_config(["serve.require_key=true"])
    assert from_environment(load_config([])) == []
    for value, message in ((None, "DENOISED_WEIGHTS_API_KEYS"), ("short", "16 characters")):
        monkeypatch.setenv("DENOISED_WEIGHTS_API_KEYS", value or "")
        with pytest.raises(ConfigError, match=message):
            from_environment(asking)
    monkeypatch.setenv("DENOISED_WEIGHTS_API_KEYS", f"{'a' * 16}, {'b' * 20},")
    assert from_environment(asking) == [hashed("a" * 16), hashed("b" * 20)]
