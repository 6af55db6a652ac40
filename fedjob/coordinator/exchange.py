"""The ways between a signer and the hub: over HTTP as a party or with the federation's key, in the hub's own home, in files."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from fedjob.common.errors import ConfigError, DecodeError, SpecError
from fedjob.common.files import write_atomic
from fedjob.common.http_client import Patience, Web
from fedjob.coordinator.drafts import Candidate
from fedjob.identity.membership import MEMBERSHIP_NAME, load_membership
from fedjob.identity.pinned_roster import web_of
from fedjob.identity.statements.federation_keys import FederationKeys
from fedjob.identity.statements.key_file import FederationKey
from fedjob.identity.statements.request_proof import make_proof
from fedjob.identity.statements.roster_statement import ROSTER_KIND
from fedjob.identity.statements.signed import MAX_STATEMENT_BYTES, Signed
from fedjob.identity.statements.succession import SUCCESSION_KIND

CANDIDATES = "/v1/roster/candidates"
ROSTER = "/v1/roster"


@dataclass(frozen=True, slots=True)
class ToSign:
    """What a hub has to be signed.

    Args:
        keys: the federation's, as the hub has them.
        roster: the newest one; None for none yet.
        draft: the next one, which fewer keys signed than it takes.
    """

    keys: FederationKeys
    roster: Signed | None
    draft: Signed | None
    parties: tuple[Candidate, ...]
    successions: tuple[Signed, ...] = ()

    @classmethod
    def of_plain(cls, plain: Any) -> ToSign:
        """Read what a hub answers, or a file has.

        Raises:
            DecodeError: it is malformed.
        """
        match plain:
            case {"keys": keys, "roster": roster, "draft": draft, "parties": list(rows)}:
                return cls(
                    FederationKeys.of_plain(keys),
                    None if roster is None else Signed.of_plain(roster, ROSTER_KIND),
                    None if draft is None else Signed.of_plain(draft, ROSTER_KIND),
                    tuple(Candidate.of_plain(row) for row in rows),
                    tuple(Signed.of_plain(each, SUCCESSION_KIND) for each in plain.get("successions", ())),
                )
        raise DecodeError(f"expected keys, roster, draft and parties of a hub, found {str(plain)[:80]!r}")


class Exchange(Protocol):
    """A way to the hub and back."""

    def fetch(self) -> Any:
        """Return what the hub has to be signed, as plain data for `ToSign.of_plain`."""
        ...

    def put(self, kind: str, signed: Signed) -> str:
        """Bring a signed statement; return in words what became of it."""
        ...


class HubExchange:
    """The hub over HTTP.

    Args:
        header: returns the header `Authorization` of a request with this method and path; None where `web` has a token.
    """

    def __init__(self, web: Web, header: Callable[[str, str], str] | None = None) -> None:
        self._web = web
        self._header = header

    def fetch(self) -> Any:
        return self._web.call(
            "GET",
            CANDIDATES,
            headers=self._headers("GET", CANDIDATES),
            what="the parties to sign",
            limit_bytes=2 * MAX_STATEMENT_BYTES,
        ).json()

    def put(self, kind: str, signed: Signed) -> str:
        path = f"{ROSTER}?kind={kind}"
        body, headers = signed.dump(), self._headers("POST", ROSTER)
        answer = self._web.call("POST", path, headers=headers, body=body, what=f"the {kind}").json()
        match answer:
            case {"number": int(number), "signatures": int(count), "threshold": int(threshold)}:
                if count < threshold:
                    return (
                        f"{kind} {number} is at the hub with {count} of {threshold} signatures: the next signer runs "
                        "`fedjob federation sign`"
                    )
                return f"{kind} {number} is at the hub; every party has it within half a minute"
        raise DecodeError(f"{self._web.url} does not answer as a hub of fedjob does")

    def _headers(self, method: str, path: str) -> dict[str, str]:
        return {} if self._header is None else {"Authorization": self._header(method, path)}


class FileExchange:
    """Files that are carried by hand.

    Args:
        source: as `fedjob federation roster fetch` or another signer wrote it.
        target: the same with one more signature; None where nothing is written.
    """

    def __init__(self, source: Path, target: Path | None) -> None:
        self._source = source
        self._target = target

    def fetch(self) -> Any:
        return read_file(self._source)

    def put(self, kind: str, signed: Signed) -> str:
        if self._target is None:
            raise ConfigError("expected the file to write the signed roster into: give --out FILE")
        write_file(self._target, {**read_file(self._source), "draft": signed.to_plain()})
        return (
            f"{self._target} has the roster with {len(signed.signatures)} signatures: carry it to the next signer, or to "
            "the hub and run `fedjob federation roster publish` there"
        )


def read_file(path: Path) -> dict[str, Any]:
    """Return what a signer's file has.

    Raises:
        ConfigError: there is no such file, or it is something else.
    """
    try:
        with path.open("rb") as file:
            plain = json.loads(file.read(3 * MAX_STATEMENT_BYTES))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"expected a file as `fedjob federation roster fetch` writes it in {path}: {error}"
        ) from error
    if not isinstance(plain, dict):
        raise ConfigError(f"expected a file as `fedjob federation roster fetch` writes it in {path}")
    return plain


def write_file(path: Path, plain: dict[str, Any]) -> None:
    """Write a signer's file; it holds no secret."""
    write_atomic(path, json.dumps(plain).encode() + b"\n", mode=0o666)


def exchange_of(
    *,
    home: Path | None,
    hub: str | None,
    tls_ca: Path | None,
    proxy: str,
    key: FederationKey | None,
    federation: str,
) -> HubExchange:
    """Return the way to the hub that the options name.

    Args:
        home: of a node or researcher, whose token is used.
        key: the federation's, which proves who asks where `hub` is given.

    Raises:
        SpecError: neither or both are given.
    """
    if (home is None) == (hub is None):
        raise SpecError(
            "expected one way to the hub: --hub URL, or --home FOLDER of a node or researcher; or --in FILE and --out "
            "FILE on a machine without a network"
        )
    if home is not None:
        if not (home / MEMBERSHIP_NAME).exists():
            raise ConfigError(f"{home} is the home of no node or researcher: give --hub URL instead")
        return HubExchange(web_of(load_membership(home)))
    assert hub is not None
    web = Web(hub, verify=tls_ca or True, proxy=proxy, patience=Patience(num_retries=1))
    if key is None:
        raise SpecError(
            "expected a key of the federation, --key FILE, to ask a hub without being a party of it"
        )
    return HubExchange(web, lambda method, path: make_proof(key, federation, method, path, time.time()))
