"""Sign-in to the owner's page at an OpenID provider: who may enter, attempts that have begun, and who decided."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import quote, urlencode, urlsplit

from cryptography.fernet import Fernet, InvalidToken

from fedjob.common.config import load_config
from fedjob.common.errors import FedjobError, NotPermitted, RepositoryUnreachable
from fedjob.common.pages.people import DoorAttempt, PagePerson
from fedjob.common.pages.site import BEGIN
from fedjob.identity.openid.code_flow import CodeFlow, SignInAttempt
from fedjob.node.config.config import NodeConfig
from fedjob.node.config.home import NodeHome
from fedjob.node.config.page_people import fact, read_people
from fedjob.node.owner.sign_in import browser_client

T = TypeVar("T")

ATTEMPT_S = 600.0
MAX_FINISHED = 4096
"""Attempts that are remembered as over, the newest ones; an older one has no code any more that a provider takes."""

MAX_AT_ONCE = 4
"""Sign-ins that may wait for the provider at one time: a slow one must not keep the page's threads."""

MAX_SUBJECT_CHARS = 255
MAX_NAME_CHARS = 80
MAX_GROUPS = 1000


class OpenIdDoor:
    """The provider of a home's settings, as a page lets people in by it.

    An attempt that has begun is kept by its browser, sealed, and by nobody here: however many strangers begin, nobody else's ends.

    Args:
        origin: address of the page, to which the provider sends browsers back.
        clock: returns seconds that never go back.

    Raises:
        ConfigError: see `browser_client`.
        MissingPackage: the extra `oidc` is not installed.
    """

    def __init__(self, home: NodeHome, origin: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._home = home
        self._clock = clock
        self.origin = origin
        self.client = browser_client(home, origin + BEGIN + "/back")
        self._flow = CodeFlow(self.client, clock)
        self._lock = threading.Lock()
        self._busy = threading.BoundedSemaphore(MAX_AT_ONCE)
        self._seal = Fernet(Fernet.generate_key())
        self._finished: dict[str, None] = {}

    @property
    def label(self) -> str:
        """The provider's host."""
        return urlsplit(self.client.issuer).netloc

    def begin(self) -> DoorAttempt:
        """Begin a sign-in.

        Raises:
            RepositoryUnreachable, RepositoryError, DecodeError: no provider answers.
        """
        attempt = self._asking(self._flow.begin)
        kept = [attempt.state, attempt.nonce, attempt.verifier, self._clock()]
        return DoorAttempt(attempt.url, self._seal.encrypt(json.dumps(kept).encode()).decode())

    def finish(self, secret: str, answer: Mapping[str, str]) -> PagePerson:
        """Return who signed in, once for each attempt.

        Raises:
            NotPermitted: nobody did in this browser, or nobody who may enter.
            RepositoryUnreachable, RepositoryError, DecodeError: the provider does not answer as it should.
        """
        begun = self._taken(secret)
        claims = self._asking(lambda: self._flow.finish(begun, answer))
        person = person_of(claims, load_config(NodeConfig, self._home.root).page_groups_claim)
        if not self.admits(person):
            raise NotPermitted(
                f"{person.name} is not among the people who may enter: the node's owner may add "
                f"sub={str(claims['sub'])[:80]} to the setting page_people"
            )
        return person

    def _taken(self, secret: str) -> SignInAttempt:
        """Return the attempt that a browser has kept, once.

        Raises:
            NotPermitted: it has kept none, or for too long.
        """
        try:
            state, nonce, verifier, began = json.loads(self._seal.decrypt(secret.encode("utf-8", "replace")))
        except (InvalidToken, ValueError):
            state, nonce, verifier, began = "", "", "", -ATTEMPT_S
        with self._lock:
            over = not state or state in self._finished or self._clock() - began > ATTEMPT_S
            if not over:
                self._finished[state] = None
            while len(self._finished) > MAX_FINISHED:
                self._finished.pop(next(iter(self._finished)))
        if over:
            raise NotPermitted("no sign-in has begun in this browser, or it took too long: begin again")
        return SignInAttempt(state, nonce, verifier, url="")

    def admits(self, person: PagePerson) -> bool:
        """Tell whether the settings, as they are now, let a person in."""
        try:
            config = load_config(NodeConfig, self._home.root)
            people = read_people(config.page_people)
        except (FedjobError, OSError):
            return False  # who may enter can't be known
        same_provider = config.page_issuer.rstrip("/") == self.client.issuer
        return same_provider and bool(people & person.facts)

    def way_out(self) -> str:
        """Return the address at which a person signs out at the provider, too; empty for none."""
        provider = self._flow.known_provider()
        if provider is None or not provider.end_url:
            return ""
        joint = "&" if "?" in provider.end_url else "?"
        return f"{provider.end_url}{joint}{urlencode({'client_id': self.client.client_id})}"

    def _asking(self, work: Callable[[], T]) -> T:
        if not self._busy.acquire(blocking=False):
            raise RepositoryUnreachable(
                f"{self.label} keeps {MAX_AT_ONCE} other sign-ins waiting: try again in a minute"
            )
        try:
            return work()
        finally:
            self._busy.release()


def person_of(claims: Mapping[str, Any], groups_claim: str) -> PagePerson:
    """Return who the claims of a provider speak of.

    The subject says who somebody is; a name is for people's eyes, and an address counts only if the provider has
    verified it.

    Raises:
        NotPermitted: the claims name nobody.
    """
    issuer, subject = str(claims["iss"]), claims["sub"]
    if not isinstance(subject, str) or not 0 < len(subject) <= MAX_SUBJECT_CHARS or not subject.isprintable():
        raise NotPermitted(f"{issuer} names nobody who could be recorded")
    facts = {fact("sub", subject)}
    email = claims.get("email")
    verified = claims.get("email_verified")
    if isinstance(email, str) and (verified is True or verified == "true"):
        facts.add(fact("email", email))
    groups = claims.get(groups_claim)
    if isinstance(groups, list):
        facts |= {fact("group", one) for one in groups[:MAX_GROUPS] if isinstance(one, str) and one}
    shown = (claims.get("name"), claims.get("preferred_username"), email, subject)
    name = next(filter(None, map(_clean_name, shown)), "somebody")
    return PagePerson(id=f"{issuer}#{quote(subject, safe='|@:._~-')}", name=name, facts=frozenset(facts))


def _clean_name(value: object) -> str:
    """Return a name without signs by which it could pass for another record."""
    if not isinstance(value, str):
        return ""
    kept = "".join(c if c.isprintable() and c not in "<>,#" else " " for c in value[: 4 * MAX_NAME_CHARS])
    return " ".join(kept.split())[:MAX_NAME_CHARS].strip()
