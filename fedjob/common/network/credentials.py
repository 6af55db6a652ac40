"""The things that a party shows a server of itself besides its token: a certificate, and signatures of its requests."""

from __future__ import annotations

from typing import Protocol

PROOF_HEADER = "X-Fedjob-Proof"
"""Header with a party's signature of a request, for a server that its certificate does not reach."""


class Credentials(Protocol):
    """A party's certificate and its signatures."""

    def certificate(self) -> tuple[str, str] | None:
        """Return the PEM files of the certificate and of its key, as they are now; None for none.

        Raises:
            ConfigError: they are there and can't be used.
        """

    def headers(self, method: str, path: str) -> dict[str, str]:
        """Return the headers that a request has besides its own."""

    def refused(self) -> None:
        """Take note that the server refuses what it was shown."""
