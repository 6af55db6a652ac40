"""The certificate and the signatures of a party at its hub, and the renewal of the certificate while a process runs.

The hub issues a certificate for a month. After two thirds of it, whoever next talks to the hub has a new one fetched
besides, by another thread; the files are replaced, and new connections use them. A certificate whose time is over is
not shown, so that a machine that was off for months gets a new one by itself.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from fedjob.common.errors import ConfigError, DecodeError, FedjobError
from fedjob.common.http_client import Patience, Web
from fedjob.common.network.credentials import PROOF_HEADER
from fedjob.identity.client_certificate import (
    ClientCertificate,
    certificate_of_home,
    is_due,
    request_of,
    store,
    validity,
)
from fedjob.identity.keys import Identity
from fedjob.identity.request_signature import prove

_log = logging.getLogger("fedjob")

AGAIN_S = 60.0
"""Between two tries to renew, at least."""

_PATIENCE = Patience(num_retries=1)


@dataclass(frozen=True, slots=True)
class HubAddress:
    """Where a party's hub is, and how it is reached; see `Membership`."""

    url: str
    federation: str
    token: str = field(repr=False)
    verify: bool | str
    proxy: str = field(repr=False)


class PartyCredentials:
    """What a party shows its hub.

    Args:
        home: the party's, with its keys.
        own: the certificate that the party brings itself; None for the one that the hub issues.
        clock: returns seconds since 1970.
    """

    def __init__(
        self,
        home: Path,
        hub: HubAddress,
        own: ClientCertificate | None = None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._home = home
        self._hub = hub
        self._own = own
        self._clock = clock

    def certificate(self) -> tuple[str, str] | None:
        """Return the files to show; see `Credentials`. Where they are soon too old, have new ones fetched."""
        if self._own is not None:
            _check(self._own, *_stamps(self._own))
            return self._own.files
        found = certificate_of_home(self._home)
        stamps = _stamps(found)
        begins, renew_at, ends = _validity(found, *stamps)
        now = self._clock()
        if now >= renew_at:
            self._renew_soon("due")
        return found.files if begins <= now < ends else None

    def headers(self, method: str, path: str) -> dict[str, str]:
        """Return the signature of a request."""
        return {PROOF_HEADER: prove(self.identity, self._hub.federation, method, path, clock=self._clock)}

    def refused(self) -> None:
        """Look whether the hub would issue another certificate than the one that it refuses."""
        if self._own is None:
            self._renew_soon("refused")

    @property
    def identity(self) -> Identity:
        """The party's key."""
        return _identity(self._home, (self._home / "keys" / "ed25519").stat().st_mtime_ns)

    def renew(self) -> bool:
        """Get a certificate from the hub, if it issues any and this home should have a new one; tell whether it got one.

        Raises:
            ConfigError: the hub takes certificates that parties bring, and this one has brought none; or a file of the
                home can't be used.
            NotPermitted: the hub does not take this party.
            RepositoryUnreachable: it does not answer.
        """
        web = Web(
            self._hub.url,
            token=self._hub.token,
            verify=self._hub.verify,
            proxy=self._hub.proxy,
            patience=_PATIENCE,
        )
        try:
            return self._renew(web)
        finally:
            web.close()

    def _renew(self, web: Web) -> bool:
        facts = web.call("GET", "/v1/hub", what="the hub").json()
        match facts:
            case {"certificates": {"from": "hub", "authority": str(authority)}}:
                pass
            case {"certificates": {"from": "parties"}}:
                if self._own is None:
                    raise ConfigError(
                        f"the hub {self._hub.url} knows its parties by certificates of another authority: give this "
                        "party's, the settings tls_cert and tls_key"
                    )
                return False
            case _:
                return False
        if self._own is not None or not is_due(certificate_of_home(self._home), authority):
            return False
        body = json.dumps(request_of(self._home, self.identity)).encode()
        answer: Any = web.call("POST", "/v1/certificate", body=body, what="a certificate").json()
        match answer:
            case {"certificate": str(pem)}:
                store(self._home, pem)
                return True
        raise DecodeError(f"{self._hub.url} does not answer as a hub of fedjob does")

    def _renew_soon(self, why: str) -> None:
        """Start a thread that renews, unless one did so for the same reason within `AGAIN_S`."""
        with _lock:
            now, of = time.monotonic(), (str(self._home), why)
            if now - _tried.get(of, -AGAIN_S) < AGAIN_S:
                return
            _tried[of] = now
        threading.Thread(target=self._renew_or_log, name="fedjob-certificate", daemon=True).start()

    def _renew_or_log(self) -> None:
        try:
            if self.renew():
                _log.info("%s: the hub issued a new certificate", self._home)
        except (FedjobError, OSError) as error:
            _log.warning("the certificate of %s can't be renewed, tried again later: %s", self._home, error)


@dataclass(frozen=True, slots=True)
class OwnCertificate:
    """A certificate that a party brings itself, where nothing else is known of it yet; see `Credentials`."""

    files: ClientCertificate

    def certificate(self) -> tuple[str, str] | None:
        """Return the files to show."""
        return self.files.check().files

    def headers(self, method: str, path: str) -> dict[str, str]:
        """Return none."""
        return {}

    def refused(self) -> None:
        """Do nothing: whoever gave the files reads the error."""


def shown_by(own: ClientCertificate | None) -> OwnCertificate | None:
    """Return what a party shows that has no home yet."""
    return None if own is None else OwnCertificate(own)


_lock = threading.Lock()
_tried: dict[tuple[str, str], float] = {}
"""Home and reason -> when a renewal was last tried, monotonic seconds."""


def _stamps(certificate: ClientCertificate) -> tuple[int, int]:
    """Return when the files of a certificate were written, 0 for one that is not there."""
    found = []
    for path in certificate.files:
        try:
            stat = Path(path).stat()
            found.append(stat.st_mtime_ns ^ stat.st_ino ^ stat.st_mode << 40)
        except OSError:
            found.append(0)
    return found[0], found[1]


@lru_cache(maxsize=64)
def _check(certificate: ClientCertificate, cert_stamp: int, key_stamp: int) -> None:
    certificate.check()


@lru_cache(maxsize=64)
def _validity(certificate: ClientCertificate, cert_stamp: int, key_stamp: int) -> tuple[float, float, float]:
    """Return when a certificate begins, is to be renewed and ends; all past for one that is not there or is damaged."""
    if not cert_stamp or not key_stamp:
        return 0.0, 0.0, 0.0
    try:
        return validity(certificate.check())
    except ConfigError as error:
        _log.warning("%s", error)
        return 0.0, 0.0, 0.0


@lru_cache(maxsize=16)
def _identity(home: Path, stamp: int) -> Identity:
    return Identity.load_or_create(home / "keys")
