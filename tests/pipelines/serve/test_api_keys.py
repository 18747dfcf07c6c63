"""Keys that clients must send."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipelines.config.error import ConfigError
from pipelines.config.load import load_config
from pipelines.serve import api_keys
from pipelines.serve.api_keys import Keys, from_environment, hashed, read_keys

OLD, NEW, OTHER = (
    "the old key of a client",
    "the new key of a client",
    "a key that is kept as a hash",
)


def test_keys_come_from_the_environment_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asking = load_config(["serve.require_key=true"])
    assert from_environment(load_config([])) == []
    for value, message in ((None, "DENOISED_WEIGHTS_API_KEYS"), ("short", "16 characters")):
        monkeypatch.setenv("DENOISED_WEIGHTS_API_KEYS", value or "")
        with pytest.raises(ConfigError, match=message):
            from_environment(asking)
    monkeypatch.setenv("DENOISED_WEIGHTS_API_KEYS", f"{'a' * 16}, {'b' * 20},")
    assert from_environment(asking) == [hashed("a" * 16), hashed("b" * 20)]


def test_a_file_of_keys_may_change_while_it_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As people rotate them: both for a while, then the new one; by writing, or by putting another
    file in its place, as Kubernetes does with a secret."""
    monkeypatch.setattr(api_keys, "LOOK_SECONDS", 0.0)
    file = tmp_path / "keys"
    file.write_text(f"# two clients\n{OLD}  # until May\n\nsha256:{hashed(OTHER).upper()}\n")
    keys = Keys(file=str(file))
    assert keys.owner(OLD) == hashed(OLD) and keys.owner(OTHER) == hashed(OTHER)
    assert not keys.owner(NEW) and not keys.owner(hashed(OTHER)) and not keys.owner("")
    file.write_text(f"{OLD}\n{NEW}\n")
    assert keys.owner(OLD) and keys.owner(NEW) and not keys.owner(OTHER)
    (tmp_path / "next").write_text(NEW)
    os.replace(tmp_path / "next", file)
    assert not keys.owner(OLD) and keys.owner(NEW)
    # damaged or gone: those from before go on, and the log says why
    for damage in (lambda: file.write_text("short\n"), lambda: file.write_text(""), file.unlink):
        damage()
        caplog.clear()
        assert keys.owner(NEW) and not keys.owner("short")
        assert "the keys from before go on" in caplog.text
    file.write_text(OLD)
    assert keys.owner(OLD) and not keys.owner(NEW)


def test_without_keys_everybody_is_let_in() -> None:
    assert not Keys()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
        (b"# nothing\n\n", "holds no key"),
        (b"a good long key indeed\nshort", "line 2: a key needs 16 characters"),
        (b"sha256:12", "line 1: a key needs 16 characters"),
    ],
)
def test_a_file_that_cannot_be_is_refused(text: bytes | None, reason: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "keys").write_bytes(text)
    with pytest.raises(ConfigError, match=reason):
        read_keys(tmp_path / "keys")
