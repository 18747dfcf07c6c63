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
ADMINS = "DENOISED_WEIGHTS_ADMIN_KEYS"
"""Of those who may change which runs are served."""
ADMIN = "admin:"
"""Before such a key in a file."""
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
    keys = _listed(VARIABLE)
    if not keys:
        raise ConfigError(
            f"serve.require_key=true: give the keys in ${VARIABLE}, separated by , or in a file"
            " (serve.keys_file=FILE)"
        )
    return keys


def admins_from_environment() -> list[str]:
    """SHA-256 of every key of those who may change which runs are served."""
    return _listed(ADMINS)


def _listed(variable: str) -> list[str]:
    keys = [k.strip() for k in os.environ.get(variable, "").split(",") if k.strip()]
    if keys and min(map(len, keys)) < LEAST:
        raise ConfigError(f"${variable}: a key needs {LEAST} characters or more")
    return [hashed(k) for k in keys]


def read_keys(file: Path) -> dict[str, bool]:
    """SHA-256 of the keys of a file, and whether it is an administrator's.

    One a line: KEY or sha256:HEX, an administrator's after `admin:`; # begins a comment.
    ConfigError if it cannot be read, or holds none, or one that can be guessed.
    """
    try:
        lines = file.read_text().splitlines()
    except (OSError, ValueError) as error:
        raise ConfigError(f"serve.keys_file={file}: cannot be read ({error})") from error
    found = {}
    for number, line in enumerate(lines, 1):
        given = line.partition("#")[0].strip()
        admin, key = given.startswith(ADMIN), given.removeprefix(ADMIN).strip()
        if re.fullmatch(r"sha256:[0-9a-fA-F]{64}", key):
            found[key.removeprefix("sha256:").lower()] = admin
        elif given and len(key) < LEAST:
            raise ConfigError(
                f"serve.keys_file={file}, line {number}: a key needs {LEAST} characters or more"
            )
        elif key:
            found[hashed(key)] = admin
    if not found:
        raise ConfigError(f"serve.keys_file={file}: holds no key")
    return found


class Keys:
    """Those that are let in now; everybody is, if there is neither a key nor a file.

    file: is looked at every LOOK_SECONDS. Where it is damaged or gone, the keys that it held go on,
    and the log says so.
    """

    def __init__(
        self, fixed: Sequence[str] = (), file: str = "", admins: Sequence[str] = ()
    ) -> None:
        """fixed, admins: SHA-256 of keys. An administrator's opens everything."""
        self.file = Path(file) if file else None
        self.known = dict.fromkeys(fixed, False)
        self.admins = list(admins)
        self.looked = time.monotonic()
        self.seen = self._state()
        if self.file is not None:
            self.known = read_keys(self.file)

    def __bool__(self) -> bool:
        """Whether a key is asked for at all."""
        return bool(self.known)

    def owner(self, given: str) -> str:
        """The SHA-256 of a key that is let in, "" for another.

        In a time that does not tell how near it came.
        """
        self._look()
        return self._among(given, [*self.known, *self.admins])

    def is_admin(self, given: str) -> bool:
        self._look()
        return bool(self._among(given, [*(k for k, a in self.known.items() if a), *self.admins]))

    def _among(self, given: str, keys: Sequence[str]) -> str:
        mine = hashed(given)
        return mine if any([hmac.compare_digest(mine, k) for k in keys]) else ""

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
