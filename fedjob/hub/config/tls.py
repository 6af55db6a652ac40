"""The certificate and the key by which a hub speaks TLS."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from fedjob.common.errors import ConfigError


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """A server's certificate (with its chain) and key, as PEM files."""

    cert: Path
    key: Path

    def check(self) -> TlsFiles:
        """Return itself if the files can be used.

        Raises:
            ConfigError: they can't; says why.
        """
        try:
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(self.cert, self.key)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"expected a PEM certificate and its key in {self.cert} and {self.key}: {error}"
            ) from error
        return self
