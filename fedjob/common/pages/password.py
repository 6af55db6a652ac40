"""The password of a page: its scrypt hash in a file of the home, and the pauses between wrong attempts."""

from __future__ import annotations

import hashlib
import json
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path

from fedjob.common.errors import ConfigError
from fedjob.common.files import write_atomic
from fedjob.common.pages.sessions import same

MIN_PASSWORD_CHARS = 12
MAX_PASSWORD_CHARS = 1024

FREE_ATTEMPTS = 5
"""Wrong attempts in a row before there are pauses."""

MAX_PAUSE_S = 300.0

_N, _R, _P = 2**15, 8, 1
"""Costs of scrypt: 32 MB and about 0.1 s an attempt."""

_MAX_MEMORY_BYTES = 64 << 20


def set_password(path: Path, password: str) -> None:
    """Write the hash of a password, readable by its owner alone, in place of an earlier one.

    Raises:
        ConfigError: it is too short or too long.
    """
    if not MIN_PASSWORD_CHARS <= len(password) <= MAX_PASSWORD_CHARS:
        raise ConfigError(
            f"expected a password of {MIN_PASSWORD_CHARS} characters or more, found {len(password)}: "
            "a few words in a row do"
        )
    salt = secrets.token_bytes(16)
    plain = {"scrypt": [_N, _R, _P], "salt": salt.hex(), "hash": _hash(password, salt, _N, _R, _P).hex()}
    write_atomic(path, json.dumps(plain).encode() + b"\n")


class PagePassword:
    """The password in a file; after a few wrong attempts in a row each costs a longer pause.

    Args:
        clock: returns seconds that never go back.

    Raises:
        ConfigError: there is no such file, or it can't be read.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._num_wrong = 0
        self._closed_until = 0.0
        try:
            plain = json.loads(path.read_text(encoding="ascii"))
            n, r, p = (int(value) for value in plain["scrypt"])
            self._costs = n, r, p
            self._salt, self._wanted = bytes.fromhex(plain["salt"]), str(plain["hash"])
        except FileNotFoundError as error:
            raise ConfigError(f"there is no password yet ({path})") from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"{path} can't be read as the hash of a password: {error}; set a new one"
            ) from error

    def wait_s(self) -> float:
        """Return for how many seconds no attempt is looked at."""
        return max(0.0, self._closed_until - self._clock())

    def fits(self, password: str) -> bool:
        """Tell whether this is the password; False, whatever it is, during a pause. One attempt at a time is looked at."""
        with self._lock:
            if self.wait_s() > 0:
                return False
            is_right = len(password) <= MAX_PASSWORD_CHARS and same(
                _hash(password, self._salt, *self._costs).hex(), self._wanted
            )
            if is_right:
                self._num_wrong = 0
                return True
            self._num_wrong += 1
            if self._num_wrong >= FREE_ATTEMPTS:
                pause = min(2.0 ** (self._num_wrong - FREE_ATTEMPTS + 1), MAX_PAUSE_S)
                self._closed_until = self._clock() + pause
            return False


def _hash(password: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    return hashlib.scrypt(
        password.encode("utf-8", "replace"), salt=salt, n=n, r=r, p=p, maxmem=_MAX_MEMORY_BYTES, dklen=32
    )
