"""Logins at an OpenID provider by device code, for nodes that want more than a signature.

RFC 8628, OAuth 2.0 Device Authorization Grant, https://www.rfc-editor.org/rfc/rfc8628

The provider shows a page where a person types a short code; nothing opens a port here.
The tokens lie in the home beside the key, readable by its owner only, and are
renewed before they expire as long as the provider allows it.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from fedjob.common.checks import check_path
from fedjob.common.errors import ConfigError, DecodeError, FedjobError, NotPermitted, WaitTimeout
from fedjob.common.files import lock, make_folder, write_atomic
from fedjob.identity.keys import Identity
from fedjob.identity.openid.provider import (
    Provider,
    ProviderLine,
    discover,
    jwt_package,
    nonce_of,
    refusal_words,
)

SCOPE = "openid profile email offline_access"
DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
RENEW_BEFORE_S = 60.0
RETRY_S = 30.0
SLOWER_S = 5.0

log = logging.getLogger("fedjob")


@dataclass(frozen=True, slots=True)
class Prompt:
    """The page and the code with which a person confirms a login.

    Args:
        url: the page to open.
        code: what to type there.
        whole_url: the page with the code in it already; empty where the provider has none.
        within_s: seconds until the code expires.
    """

    url: str
    code: str
    whole_url: str
    within_s: float

    def __str__(self) -> str:
        return f"open {self.whole_url or self.url} and confirm the code {self.code}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """A login as the home keeps it."""

    issuer: str
    client_id: str
    tls_ca: str = ""
    id_token: str = field(repr=False)
    refresh_token: str = field(default="", repr=False)

    @property
    def expires(self) -> float:
        """Seconds since 1970."""
        return float(_claims(self.id_token).get("exp", 0.0))


def login(
    home: Path,
    identity: Identity,
    *,
    issuer: str,
    client_id: str,
    tell: Callable[[Prompt], object],
    tls_ca: str = "",
    sleep: Callable[[float], object] = time.sleep,
) -> Login:
    """Log in; returns when the person has confirmed it at the provider.

    Args:
        issuer: URL of the provider.
        client_id: that it knows fedjob by.
        tell: called with the page and the code for the person.
        tls_ca: file of the authority that vouches for its certificate; empty for the public ones.

    Raises:
        NotPermitted: the person, or the provider, refused.
        WaitTimeout: nobody confirmed it in time.
        RepositoryUnreachable, DecodeError: no OpenID provider with device codes answers there.
    """
    jwt_package()
    if tls_ca:
        check_path("tls_ca", tls_ca)
    line = ProviderLine(tls_ca=tls_ca)
    provider = discover(issuer, line)
    if not provider.device_url:
        raise DecodeError(f"{issuer} offers no logins by device code")
    wanted = {"client_id": client_id, "scope": SCOPE, "nonce": nonce_of(identity.public_key_hex)}
    status, answer = line.post(provider.device_url, urlencode(wanted).encode())
    if status != 200:
        raise NotPermitted(f"{issuer} gives {client_id!r} no device code: {refusal_words(answer)}")
    device, prompt, every_s = _device(answer, issuer)
    tell(prompt)
    form = {"grant_type": DEVICE_GRANT, "device_code": device, "client_id": client_id}
    tokens = _await(provider, form, line, prompt.within_s, every_s, sleep)
    made = Login(issuer=issuer, client_id=client_id, tls_ca=tls_ca, **tokens)
    _keep(home, made)
    return made


def log_out(home: Path) -> bool:
    """Delete a home's login; return whether there was one."""
    path = _path(home)
    there = path.exists()
    path.unlink(missing_ok=True)
    return there


def load_login(home: Path) -> Login | None:
    """Return a home's login; None for none.

    Raises:
        ConfigError: its file is damaged.
    """
    path = _path(home)
    try:
        return Login(**json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{path} is not readable ({error}): run fedjob login again") from error


class Proving:
    """The proof that a home sends to nodes beside its signature: the ID token of its login.

    Args:
        clock: seconds since 1970.
    """

    def __init__(self, home: Path, clock: Callable[[], float] = time.time) -> None:
        self._home = home
        self._clock = clock
        self._again = 0.0

    def __call__(self) -> str:
        """Return the token, renewed if it is about to expire; empty without a login."""
        found = load_login(self._home)
        if found is None:
            return ""
        if found.expires - self._clock() > RENEW_BEFORE_S or not found.refresh_token:
            return found.id_token
        return self._renewed()

    def _renewed(self) -> str:
        with lock(_path(self._home).with_suffix(".lock")):
            found = load_login(self._home)  # another process may have renewed it meanwhile
            if found is None:
                return ""
            now = self._clock()
            if found.expires - now > RENEW_BEFORE_S or now < self._again:
                return found.id_token
            try:
                made = renew(found)
            except FedjobError as error:
                # each node's verifier refuses an expired token with words of its own
                self._again = now + RETRY_S
                log.warning("the login at %s can't be renewed: %s", found.issuer, error)
                return found.id_token
            _keep(self._home, made)
            return made.id_token


def renew(found: Login) -> Login:
    """Return a login that lasts longer.

    Raises:
        NotPermitted: the provider wants the person to log in again.
    """
    form = {
        "grant_type": "refresh_token",
        "refresh_token": found.refresh_token,
        "client_id": found.client_id,
        "scope": SCOPE,
    }
    line = ProviderLine(tls_ca=found.tls_ca)
    provider = discover(found.issuer, line)
    status, answer = line.post(provider.token_url, urlencode(form).encode())
    if status != 200:
        raise NotPermitted(f"{refusal_words(answer)}: run `fedjob login` again")
    return replace(found, **{"refresh_token": found.refresh_token, **_tokens(answer)})


def _await(
    provider: Provider,
    form: dict[str, str],
    line: ProviderLine,
    within_s: float,
    every_s: float,
    sleep: Callable[[float], object],
) -> dict[str, str]:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        sleep(every_s)
        status, answer = line.post(provider.token_url, urlencode(form).encode())
        if status == 200:
            return _tokens(answer)
        match answer.get("error") if isinstance(answer, dict) else None:
            case "authorization_pending":
                continue
            case "slow_down":
                every_s += SLOWER_S
            case "expired_token":
                break
            case _:
                raise NotPermitted(f"{provider.issuer} refuses the login: {refusal_words(answer)}")
    raise WaitTimeout(f"nobody confirmed the code at {provider.issuer} in time: log in again")


def _device(answer: Any, issuer: str) -> tuple[str, Prompt, float]:
    match answer:
        case {"device_code": str(device), "user_code": str(code), "verification_uri": str(url)}:
            whole = str(answer.get("verification_uri_complete", ""))
            prompt = Prompt(url, code, whole, float(answer.get("expires_in", 600)))
            return device, prompt, float(answer.get("interval", 5))
    raise DecodeError(f"{issuer} does not answer as RFC 8628 says")


def _tokens(answer: Any) -> dict[str, str]:
    match answer:
        case {"id_token": str(token)}:
            _claims(token)
            refresh = answer.get("refresh_token")
            return {"id_token": token, **({"refresh_token": refresh} if isinstance(refresh, str) else {})}
    raise DecodeError("the identity provider gave no ID token: fedjob's client there needs the scope openid")


def _claims(token: str) -> dict[str, Any]:
    """Return the claims of a token, unverified: verifying them is for the nodes."""
    jwt = jwt_package()
    try:
        claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    except jwt.PyJWTError as error:
        raise DecodeError(f"expected an ID token: {type(error).__name__}") from error
    return claims


def _path(home: Path) -> Path:
    return home / "keys" / "login.json"


def _keep(home: Path, made: Login) -> None:
    path = _path(home)
    make_folder(path.parent)
    write_atomic(path, json.dumps(asdict(made)).encode())
