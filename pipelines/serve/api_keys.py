"""Keys that clients of the service must send, if it asks for any.

They come from the environment, or from a file that may change while the service runs, so that no
configuration, log or run directory holds one; of those of the environment the service is given the
SHA-256 alone.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path

from pipelines.config.error import ConfigError
from pipelines.config.schema import Config

VARIABLE = "DENOISED_WEIGHTS_API_KEYS"
LEAST = 16
"""Characters of a key: shorter ones can be guessed."""
LOOK_SECONDS = 5.0
"""Between two looks at a file of keys."""

logger = logging.getLogger(__name__)


def hashed(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def from_environment(config: Config) -> list[str]:
    """SHA-256 of every key, [] if none is asked for or a file has them; ConfigError if none."""
    if not config.serve.require_key or config.serve.keys_file:
        return []
    keys = [k.strip() for k in os.environ.get(VARIABLE, "").split(",") if k.strip()]
    if not keys:
        raise ConfigError(
            f"serve.require_key=true: give the keys in ${VARIABLE}, separated by , or in a file"
            " (serve.keys_file=FILE)"
        )
    if min(map(len, keys)) < LEAST:
        raise ConfigError(f"${VARIABLE}: a key needs {LEAST} characters or more")
    return [hashed(k) for k in keys]


def read_keys(file: Path) -> list[str]:
    """SHA-256 of the keys of a file, one a line, or `sha256:HEX`; # begins a comment.

    ConfigError if it cannot be read, or holds none, or one that can be guessed.
    """
    try:
        lines = file.read_text().splitlines()
    except (OSError, ValueError) as error:
        raise ConfigError(f"serve.keys_file={file}: cannot be read ({error})") from error
    found = []
    for number, line in enumerate(lines, 1):
        key = line.partition("#")[0].strip()
        if re.fullmatch(r"sha256:[0-9a-fA-F]{64}", key):
            found.append(key.removeprefix("sha256:").lower())
        elif key and len(key) < LEAST:
            raise ConfigError(
                f"serve.keys_file={file}, line {number}: a key needs {LEAST} characters or more"
            )
        elif key:
            found.append(hashed(key))
    if not found:
        raise ConfigError(f"serve.keys_file={file}: holds no key")
    return found


class Keys:
    """Those that are let in now; everybody is, if there is neither a key nor a file.

    file: is looked at every LOOK_SECONDS. Where it is damaged or gone, the keys that it held go on,
    and the log says so.
    """

    def __init__(self, fixed: Sequence[str] = (), file: str = "") -> None:
        self.file = Path(file) if file else None
        self.known = list(fixed)
        self.looked = time.monotonic()
        self.seen = self._state()
        if self.file is not None:
            self.known = read_keys(self.file)

    def __bool__(self) -> bool:
        return bool(self.known)

    def owner(self, given: str) -> str:
        """The SHA-256 of a key that is let in, "" for another.

        In a time that does not tell how near it came.
        """
        self._look()
        mine = hashed(given)
        return mine if any([hmac.compare_digest(mine, k) for k in self.known]) else ""

    def _look(self) -> None:
        if self.file is None or time.monotonic() - self.looked < LOOK_SECONDS:
            return
        self.looked = time.monotonic()
        state = self._state()
        if state == self.seen:
            return
        self.seen = state
        try:
            self.known = read_keys(self.file)
            logger.warning("%s: %d keys from now on", self.file, len(self.known))
        except ConfigError as error:
            logger.error("%s: the keys from before go on", error)

    def _state(self) -> tuple[int, int, int] | None:
        """Changes when the file does, whether it is written or put in its place."""
        try:
            status = self.file.stat() if self.file is not None else None
        except OSError:
            return None
        return (status.st_mtime_ns, status.st_size, status.st_ino) if status else None
