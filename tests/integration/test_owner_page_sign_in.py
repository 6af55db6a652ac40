"""Sign-in to the owner's page at an OpenID provider: people on the list enter, and no attack on the way does.

One page and one provider serve all cases; the provider is hostile where a case says so.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as curve_key
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fedjob.common.config import load_config, write_config
from fedjob.common.errors import ConfigError, DecodeError, NotPermitted, RepositoryUnreachable, SpecError
from fedjob.common.pages.sessions import SESSION_S
from fedjob.common.pages.site import listen_on_loopback
from fedjob.doctor.sign_in import examine_sign_in
from fedjob.identity.openid.id_tokens import KEYS_EVERY_S, KEYS_FOR_S
from fedjob.identity.openid.provider import ProviderLine, check_issuer, discover
from fedjob.node.config.config import NodeConfig
from fedjob.node.page.openid_door import ATTEMPT_S, MAX_FINISHED, OpenIdDoor, browser_client
from fedjob.node.storage.audit import Audit
from tests.authorities import Authority
from tests.owner_houses import House, Opened, furnish, served
from tests.sign_in_provider import CLIENT, SECRET, SignInProvider, b64, public_jwk, signed

FORM = "application/x-www-form-urlencoded"
PEOPLE = "sub=ann-1, email=Ben@clinic.example, group=data protection"
ANN = {"name": "Ann Lindqvist", "email": "ann@clinic.example", "email_verified": True}


class Clock:
    """Seconds that a test moves on."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    cookies: tuple[str, ...]
    text: str

    @property
    def location(self) -> str:
        return self.headers.get("location", "")


@dataclass
class Browser:
    """A browser that keeps cookies as it should; `cross` is how another site sends it here."""

    origin: str
    jar: dict[str, str] = field(default_factory=dict)

    def send(self, method: str, path: str, body: bytes = b"", **headers: str) -> Reply:
        connection = http.client.HTTPConnection(urlsplit(self.origin).netloc, timeout=60)
        own = {"Cookie": "; ".join(f"{k}={v}" for k, v in self.jar.items())} if self.jar else {}
        if method == "POST":
            own |= {"Origin": self.origin, "Content-Type": FORM}
        try:
            connection.request(method, path, body=body or None, headers={**own, **headers})
            answer = connection.getresponse()
            text = answer.read().decode()
            pairs = answer.getheaders()
        finally:
            connection.close()
        cookies = tuple(value for name, value in pairs if name == "set-cookie")
        for cookie in cookies:
            name, _, value = cookie.split(";")[0].partition("=")
            self.jar[name] = value
            if not value:
                del self.jar[name]
        return Reply(answer.status, {k.lower(): v for k, v in pairs}, cookies, text)

    def get(self, path: str, **headers: str) -> Reply:
        return self.send("GET", path, **headers)

    def back(self, url: str) -> Reply:
        """Follow the provider's redirect here: another site's, so that no strict cookie comes along."""
        kept = {name: value for name, value in self.jar.items() if not name.endswith("-sign-in")}
        self.jar = {name: value for name, value in self.jar.items() if name not in kept}
        answer = self.send(
            "GET",
            url.removeprefix(self.origin),
            **{"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"},
        )
        self.jar = {**kept, **self.jar}
        return answer

    @property
    def is_in(self) -> bool:
        return self.get("/").status == 200


@dataclass
class Scene:
    house: House
    provider: SignInProvider
    opened: Opened
    door: OpenIdDoor
    ids: Mapping[str, str]
    clock: Clock

    def browser(self) -> Browser:
        return Browser(self.opened.origin)

    def begun(self, browser: Browser, sub: str = "ann-1") -> str:
        """Begin a sign-in and return where the provider sends this person back."""
        self.clock.now += KEYS_EVERY_S
        answer = browser.get("/enter/openid")
        assert answer.status == 303, answer.text
        return self.provider.sent_back(answer.location, sub)

    def enter(self, sub: str = "ann-1", browser: Browser | None = None) -> tuple[Browser, Reply]:
        browser = browser or self.browser()
        return browser, browser.back(self.begun(browser, sub))

    def settings(self, **changes: Any) -> None:
        write_config(
            self.house.home.root,
            {
                "page_issuer": self.provider.issuer,
                "page_client_id": CLIENT,
                "page_secret_file": "page_secret",
                "page_people": PEOPLE,
                **changes,
            },
        )


@pytest.fixture(scope="module")
def house_of_all(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    house = House(tmp_path_factory.mktemp("house"))
    ids = furnish(house)
    provider = SignInProvider()
    secret = house.home.root / "page_secret"
    secret.write_text(SECRET + "\n")
    secret.chmod(0o600)
    listener = listen_on_loopback(0)
    port = int(listener.getsockname()[1])
    clock = Clock()
    scene = Scene(house, provider, None, None, ids, clock)  # type: ignore[arg-type]
    scene.settings()
    with provider.running():
        scene.door = OpenIdDoor(house.home, f"http://127.0.0.1:{port}", clock)
        provider.redirect_urls = {scene.door.client.redirect_url}
        with served(house.home, listener=listener, door=scene.door) as opened:
            scene.opened = opened
            yield scene
    house.close()


@pytest.fixture
def scene(house_of_all: Scene) -> Scene:
    """The scene, with a provider that does everything right, and the people whom everybody knows."""
    house_of_all.settings()
    house_of_all.provider.behave()
    house_of_all.provider.people = {
        "ann-1": dict(ANN),
        "ben-2": {"name": "Ben Okafor", "email": "ben@CLINIC.example", "email_verified": True},
        "cy-3": {"name": "Cy Data", "groups": ["staff", "data protection"]},
        "eve-9": {"name": "Eve", "email": "eve@evil.example", "email_verified": True, "groups": ["staff"]},
    }
    house_of_all.clock.now += 3 * SESSION_S
    return house_of_all


# --- people enter -------------------------------------------------------------------------------


@pytest.mark.parametrize("sub", ["ann-1", "ben-2", "cy-3"])
@pytest.mark.parametrize("in_token", [True, False], ids=["all in the token", "the rest beside it"])
def test_who_is_on_the_list_enters_by_subject_address_or_group(
    scene: Scene, sub: str, in_token: bool
) -> None:
    scene.provider.in_token = in_token
    browser, answer = scene.enter(sub)
    assert answer.status == 200, answer.text
    assert 'http-equiv="refresh" content="0; url=/"' in answer.text
    home = browser.get("/")
    assert home.status == 200
    assert str(scene.provider.people[sub]["name"]) in home.text


def test_the_way_to_the_provider_carries_a_fresh_state_a_fresh_nonce_and_a_challenge(scene: Scene) -> None:
    seen = []
    for _ in range(2):
        answer = scene.browser().get("/enter/openid")
        asked = dict(parse_qsl(urlsplit(answer.location).query))
        assert answer.location.startswith(f"{scene.provider.issuer}/authorize?")
        assert asked["response_type"] == "code"
        assert asked["code_challenge_method"] == "S256"
        assert asked["redirect_uri"] == scene.door.client.redirect_url
        assert SECRET not in answer.location
        seen.append((asked["state"], asked["nonce"], asked["code_challenge"]))
        (cookie,) = answer.cookies
        assert "HttpOnly; SameSite=Lax" in cookie
        assert "Path=/enter;" in cookie
    assert all(len(value) >= 43 and value not in seen[1] for value in seen[0])


def test_the_session_is_a_new_one_and_strict_and_the_attempt_is_over(scene: Scene) -> None:
    browser = scene.browser()
    name = f"fedjob-page-{urlsplit(scene.opened.origin).port}"
    browser.jar[name] = "planted"
    _, answer = scene.enter(browser=browser)
    session = next(cookie for cookie in answer.cookies if cookie.startswith(f"{name}="))
    assert "HttpOnly; SameSite=Strict" in session
    assert browser.jar[name] != "planted"
    assert f"{name}-sign-in" not in browser.jar


def test_a_browser_at_another_name_of_this_machine_begins_where_it_will_come_back(scene: Scene) -> None:
    port = urlsplit(scene.opened.origin).port
    answer = scene.browser().get("/enter/openid", Host=f"localhost:{port}")
    assert (answer.status, answer.location) == (303, f"{scene.opened.origin}/enter/openid")


def test_keys_that_the_provider_changes_are_fetched_again_under_a_new_name_or_the_old_one(
    scene: Scene,
) -> None:
    old_key, old_kid = scene.provider.key, scene.provider.kid
    assert scene.enter()[1].status == 200
    scene.provider.key, scene.provider.kid = generate_private_key(65537, 2048), "k2"
    assert scene.enter()[1].status == 200
    scene.provider.key = old_key
    assert scene.enter()[1].status == 200
    scene.provider.kid = old_kid
    assert scene.enter()[1].status == 200


def test_a_key_that_the_provider_withdraws_ends_within_an_hour(scene: Scene) -> None:
    old_key = scene.provider.key
    assert scene.enter()[1].status == 200
    scene.provider.key, scene.provider.kid = generate_private_key(65537, 2048), "k3"
    answers = []
    for wait_s in (0.0, KEYS_FOR_S):
        scene.clock.now += wait_s
        browser = scene.browser()
        back = scene.begun(browser)
        scene.provider.token = signed(right(scene.provider, scene.provider.nonce_in(back)), old_key)
        answers.append(browser.back(back).status)
    scene.provider.key, scene.provider.kid = old_key, "k1"
    assert answers == [200, 403]


# --- who may not ----------------------------------------------------------------------------------

STRANGERS: dict[str, dict[str, Any]] = {
    "another subject": {"sub": "eve-9"},
    "a subject in other letters": {"sub": "ANN-1"},
    "a subject with a blank": {"sub": "ann-1 "},
    "a subject that begins alike": {"sub": "ann-10"},
    "a subject that reads as an entry": {"sub": "email=ben@clinic.example"},
    "a subject that is an address of the list": {"sub": "ben@clinic.example"},
    "a name of somebody on the list": {"name": "Ann Lindqvist", "preferred_username": "ann-1"},
    "an address that was not verified": {"email": "ben@clinic.example", "email_verified": False},
    "an address of which nothing is said": {"email": "ben@clinic.example", "email_verified": None},
    "an address verified by a word": {"email": "ben@clinic.example", "email_verified": "yes"},
    "an address verified by a number": {"email": "ben@clinic.example", "email_verified": 1},
    "an address verified in a list": {"email": "ben@clinic.example", "email_verified": [True]},
    "an address with a foreign letter": {"email": "ben@\u0441linic.example", "email_verified": True},
    "an address with a sign that is small as k": {
        "email": "ben@clinic.example\u212a",
        "email_verified": True,
    },
    "an address with more behind it": {
        "email": "ben@clinic.example.evil.example",
        "email_verified": True,
    },
    "an address with a line break": {"email": "ben@clinic.example\n", "email_verified": True},
    "a list of addresses": {"email": ["ben@clinic.example"], "email_verified": True},
    "an address as user name": {"preferred_username": "ben@clinic.example", "email_verified": True},
    "a group in a text": {"groups": "data protection"},
    "a group in a map": {"groups": {"data protection": True}},
    "a group in a list of lists": {"groups": [["data protection"]]},
    "a group in other letters": {"groups": ["Data Protection"]},
    "a group under another claim": {"roles": ["data protection"]},
    "a group of more words": {"groups": ["data protection office"]},
    "a group behind very many": {"groups": ["x"] * 1000 + ["data protection"]},
}


@pytest.mark.parametrize("claims", STRANGERS.values(), ids=list(STRANGERS))
def test_who_is_not_on_the_list_stays_outside(scene: Scene, claims: dict[str, Any]) -> None:
    scene.provider.people["eve-9"] = {"name": "Eve"}
    scene.provider.claims = claims
    scene.provider.about = {"sub": claims.get("sub", "eve-9")}
    browser, answer = scene.enter("eve-9")
    assert answer.status == 403
    assert "is not among the people who may enter" in answer.text
    assert "page_people" in answer.text
    assert not browser.is_in


@pytest.mark.parametrize(
    ("in_token", "beside"),
    [
        (
            {"email": "ben@clinic.example", "email_verified": None},
            {"email": "eve@evil.example", "email_verified": True},
        ),
        ({"email": "ben@clinic.example", "email_verified": None}, {"email_verified": True}),
        ({"email": None, "email_verified": True}, {"email": "ben@clinic.example"}),
        ({"email": None, "email_verified": True}, {"email": "ben@clinic.example", "email_verified": False}),
    ],
)
def test_that_one_address_was_verified_says_nothing_of_another(
    scene: Scene, in_token: dict[str, Any], beside: dict[str, Any]
) -> None:
    scene.provider.people["eve-9"] = {"name": "Eve"}
    scene.provider.claims, scene.provider.about = in_token, beside
    _, answer = scene.enter("eve-9")
    assert answer.status == 403
    assert "is not among the people who may enter" in answer.text


def test_who_is_taken_off_the_list_is_out_at_the_next_click(scene: Scene) -> None:
    browser, _ = scene.enter()
    other, _ = scene.enter("ben-2")
    assert browser.is_in
    scene.settings(page_people="email=ben@clinic.example")
    assert not browser.is_in
    assert other.is_in
    scene.settings()
    assert not browser.is_in, "the session has ended, and does not come back with the list"


@pytest.mark.parametrize(
    "changes",
    [{"page_people": "sub="}, {"page_people": ""}, {"page_issuer": "https://other.example"}, {"x": 1}],
)
def test_a_list_that_can_not_be_read_lets_nobody_in(scene: Scene, changes: dict[str, Any]) -> None:
    browser, _ = scene.enter()
    assert browser.is_in
    scene.settings(**changes)
    assert not browser.is_in


def test_a_link_opens_the_page_beside_the_provider(scene: Scene) -> None:
    browser = scene.browser()
    secret = scene.opened.site.link().partition("#")[2]
    answer = browser.send("POST", "/enter", urlencode({"link": secret}).encode())
    assert answer.status == 303
    assert browser.is_in


# --- hostile tokens -------------------------------------------------------------------------------


def right(provider: SignInProvider, asked: str, /, **changes: Any) -> dict[str, Any]:
    now = time.time()
    claims = {"iss": provider.issuer, "aud": CLIENT, "sub": "ann-1", "iat": now, "exp": now + 300}
    claims |= {"nonce": asked, **ANN, **changes}
    return {name: value for name, value in claims.items() if value is not None}


def pem(provider: SignInProvider) -> bytes:
    return provider.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def hmac_token(claims: dict[str, Any], secret: bytes, alg: str = "HS256") -> str:
    text = f"{b64(json.dumps({'alg': alg, 'kid': 'k1'}).encode())}.{b64(json.dumps(claims).encode())}"
    return f"{text}.{b64(hmac.new(secret, text.encode(), hashlib.sha256).digest())}"


def plain(claims: dict[str, Any], alg: str) -> str:
    return f"{b64(json.dumps({'alg': alg, 'kid': 'k1'}).encode())}.{b64(json.dumps(claims).encode())}."


def stolen(token: str, **changes: Any) -> str:
    """Return a token with other claims under the signature of the right ones."""
    head, body, signature = token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    return f"{head}.{b64(json.dumps({**claims, **changes}).encode())}.{signature}"


Made = Callable[[SignInProvider, str], str]


def _claims(**changes: Any) -> Made:
    return lambda p, nonce: signed(right(p, nonce, **changes), p.key)


def _headed(**header: Any) -> Made:
    return lambda p, nonce: signed(right(p, nonce), p.key, **header)


OTHER = generate_private_key(65537, 2048)
CURVE = curve_key(SECP256R1())
TOKENS: dict[str, Made] = {
    "alg none": lambda p, n: plain(right(p, n), "none"),
    "alg None": lambda p, n: plain(right(p, n), "None"),
    "alg empty": lambda p, n: plain(right(p, n), ""),
    "no signature": lambda p, n: signed(right(p, n), p.key).rpartition(".")[0] + ".",
    "HS256 with the public key": lambda p, n: hmac_token(right(p, n), pem(p)),
    "HS256 with the client's secret": lambda p, n: hmac_token(right(p, n), SECRET.encode()),
    "HS256 with nothing": lambda p, n: hmac_token(right(p, n), b""),
    "RS256 said of HS256": lambda p, n: hmac_token(right(p, n), pem(p), "RS256"),
    "another key": lambda p, n: signed(right(p, n), OTHER),
    "another kind of key": lambda p, n: signed(right(p, n), CURVE, alg="ES256"),
    "a key of its own in the head": lambda p, n: signed(right(p, n), OTHER, jwk=public_jwk(OTHER, "k1")),
    "an address of keys in the head": lambda p, n: signed(right(p, n), OTHER, jku="http://127.0.0.1:1/"),
    "a key that nobody has": _headed(kid="k9"),
    "a key named by a path": _headed(kid="../../dev/null"),
    "a head that must be understood": _headed(crit=["x"], x=1),
    "changed claims": lambda p, n: stolen(signed(right(p, n), p.key), sub="ben-2"),
    "another audience": _claims(aud="another-client"),
    "an audience that begins alike": _claims(aud=CLIENT + "2"),
    "no audience": _claims(aud=None),
    "an empty audience": _claims(aud=[]),
    "two audiences and no party": _claims(aud=[CLIENT, "another-client"]),
    "two audiences and another party": _claims(aud=[CLIENT, "another-client"], azp="another-client"),
    "another party": _claims(azp="another-client"),
    "another issuer": _claims(iss="https://evil.example"),
    "an issuer with a slash": lambda p, n: signed(right(p, n, iss=p.issuer + "/"), p.key),
    "no issuer": _claims(iss=None),
    "expired": _claims(iat=time.time() - 4000, exp=time.time() - 3700),
    "no expiry": _claims(exp=None),
    "an expiry in words": _claims(exp="tomorrow"),
    "from tomorrow": _claims(iat=time.time() + 86400, exp=time.time() + 90000),
    "not valid yet": _claims(nbf=time.time() + 3600),
    "no time": _claims(iat=None),
    "another nonce": _claims(nonce="n" * 43),
    "no nonce": _claims(nonce=None),
    "a list with the nonce": lambda p, n: signed(right(p, n, nonce=[n]), p.key),
    "an empty nonce": _claims(nonce=""),
    "no subject": _claims(sub=None),
    "an empty subject": _claims(sub=""),
    "a number as subject": _claims(sub=1),
    "a list with the subject": _claims(sub=["ann-1"]),
    "a subject that is too long": _claims(sub="a" * 256),
    "no claims": lambda p, n: signed([], p.key),
    "claims that nest": lambda p, n: ".".join(
        [b64(b'{"alg":"RS256","kid":"k1"}'), b64(b"[" * 9000 + b"]" * 9000), "aaaa"]
    ),
    "no token": lambda p, n: "",
    "a word": lambda p, n: "token",
    "three empty parts": lambda p, n: "..",
    "an encrypted one": lambda p, n: "a.b.c.d.e",
    "a huge one": lambda p, n: "a" * 100_000,
}


@pytest.mark.parametrize("made", TOKENS.values(), ids=list(TOKENS))
def test_no_token_but_the_providers_own_for_this_sign_in_opens_the_page(scene: Scene, made: Made) -> None:
    browser = scene.browser()
    back = scene.begun(browser)
    scene.provider.token = made(scene.provider, scene.provider.nonce_in(back))
    answer = browser.back(back)
    assert answer.status == 403, answer.text
    assert "Not signed in: " in answer.text
    assert not browser.is_in


def test_a_token_that_is_right_in_each_of_these_opens_the_page(scene: Scene) -> None:
    scene.provider.claims = {"aud": [CLIENT], "azp": CLIENT}
    assert scene.enter()[1].status == 200


def test_a_clock_that_is_off_is_named(scene: Scene) -> None:
    scene.provider.claims = {"iat": time.time() + 3000, "exp": time.time() + 4000}
    assert "is the clock of this machine right?" in scene.enter()[1].text


def test_what_the_provider_tells_of_another_person_is_not_taken(scene: Scene) -> None:
    scene.provider.in_token = False
    scene.provider.about = {"sub": "ben-2"}
    browser, answer = scene.enter("eve-9")
    assert answer.status == 403
    assert "another person" in answer.text
    assert not browser.is_in


# --- hostile answers ------------------------------------------------------------------------------


def _changed(url: str, **changes: str | None) -> str:
    fields = dict(parse_qsl(urlsplit(url).query))
    changed = {name: value for name, value in {**fields, **changes}.items() if value is not None}
    return f"{url.partition('?')[0]}?{urlencode(changed)}"


ANSWERS: dict[str, Callable[[str], str]] = {
    "another state": lambda url: _changed(url, state="s" * 43),
    "no state": lambda url: _changed(url, state=None),
    "an empty state": lambda url: _changed(url, state=""),
    "a state with a foreign letter": lambda url: _changed(url, state="\u0131" * 43),
    "the state twice": lambda url: url + "&state=x",
    "the code twice": lambda url: url + "&code=x",
    "no code": lambda url: _changed(url, code=None),
    "an empty code": lambda url: _changed(url, code=""),
    "a code that nobody was given": lambda url: _changed(url, code="c" * 22),
    "a huge code": lambda url: _changed(url, code="c" * 9000),
    "another provider": lambda url: _changed(url, iss="https://evil.example"),
    "no provider, of one that names itself": lambda url: _changed(url, iss=None),
    "a refusal": lambda url: _changed(url, code=None, error="access_denied"),
    "a refusal with a code": lambda url: _changed(url, error="access_denied"),
}


@pytest.mark.parametrize("change", ANSWERS.values(), ids=list(ANSWERS))
def test_no_answer_but_the_one_to_this_sign_in_opens_the_page(
    scene: Scene, change: Callable[[str], str]
) -> None:
    browser = scene.browser()
    answer = browser.back(change(scene.begun(browser)))
    assert answer.status == 403, answer.text
    assert not browser.is_in


def test_an_answer_is_taken_once_and_in_the_browser_that_began(scene: Scene) -> None:
    scene.provider.keeps_codes = True
    victim, attacker = scene.browser(), scene.browser()
    back = scene.begun(attacker)
    assert victim.back(back).status == 403, "nobody is signed in as somebody else by a link"
    scene.begun(victim)
    assert victim.back(back).status == 403, "a state of another browser"
    keys = dict(attacker.jar)
    assert attacker.back(back).status == 200
    again = Browser(attacker.origin, keys)
    assert again.back(back).status == 403, "an answer that was used"
    assert not victim.is_in
    assert not again.is_in


def test_an_answer_that_comes_late_opens_nothing(scene: Scene) -> None:
    browser = scene.browser()
    back = scene.begun(browser)
    scene.clock.now += ATTEMPT_S + 1
    assert "it took too long" in browser.back(back).text


def test_very_many_attempts_of_strangers_end_nobody_elses_and_cost_no_memory(scene: Scene) -> None:
    inside, _ = scene.enter()
    browser = scene.browser()
    back = scene.begun(browser)
    for _ in range(1000):
        scene.door.begin()
    for _ in range(MAX_FINISHED + 10):
        with pytest.raises(NotPermitted):
            scene.door.finish(scene.door.begin().secret, {"state": "x", "code": "x"})
    assert len(scene.door._finished) == MAX_FINISHED
    assert browser.back(back).status == 200
    assert browser.is_in
    assert inside.is_in


@pytest.mark.parametrize("change", ["", "x", "A" * 400, "turned", "cut"])
def test_an_attempt_that_a_browser_has_changed_is_none(scene: Scene, change: str) -> None:
    secret = scene.door.begin().secret
    changed = {"turned": secret[:60] + ("A" if secret[60] != "A" else "B") + secret[61:], "cut": secret[:-8]}
    with pytest.raises(NotPermitted, match="no sign-in has begun in this browser"):
        scene.door.finish(changed.get(change, change), {"state": "x", "code": "x"})


@pytest.mark.parametrize("name", ["next", "redirect", "return_to", "url", "RelayState", "target_link_uri"])
@pytest.mark.parametrize(
    "target", ["https://evil.example", "//evil.example", "/\\evil.example", "javascript:1"]
)
def test_a_sign_in_leads_to_the_page_alone(scene: Scene, name: str, target: str) -> None:
    browser = scene.browser()
    answer = browser.get(f"/enter/openid?{urlencode({name: target})}")
    assert answer.location.startswith(scene.provider.issuer)
    assert "evil" not in answer.location
    assert "javascript" not in answer.location
    back = scene.provider.sent_back(answer.location, "ann-1")
    entered = browser.back(f"{back}&{urlencode({name: target})}")
    assert 'content="0; url=/"' in entered.text
    assert "evil" not in entered.text
    assert browser.get(f"/enter?{urlencode({name: target})}").location == "/"


@pytest.mark.parametrize("words", ["<script>alert(1)</script>", "a\u202eb", "\x1b[2J", "x" * 5000])
def test_what_an_answer_says_is_shown_as_text_and_short(scene: Scene, words: str) -> None:
    browser = scene.browser()
    back = _changed(scene.begun(browser), error="x", error_description=words)
    answer = browser.back(back)
    assert answer.status == 403
    assert words not in answer.text


def test_no_form_and_no_other_page_begins_or_ends_a_sign_in(scene: Scene) -> None:
    browser = scene.browser()
    back = scene.begun(browser).removeprefix(browser.origin)
    assert browser.send("POST", back).status == 403
    assert browser.send("POST", "/enter/openid").status == 403
    frame = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"}
    assert browser.get(back, **frame).status == 403
    assert browser.get("/enter/openid", **{**frame, "Sec-Fetch-Dest": "image"}).status == 403
    assert browser.get("/enter/openid/other").status == 404
    assert browser.get(f"{back}", Host="evil.example").status == 421


# --- hostile documents ----------------------------------------------------------------------------

ADDRESSES = (
    *("http://evil.example/x", "http://127.0.0.1.evil.example/x", "http://localhost.evil.example/x"),
    *("ftp://127.0.0.1/x", "javascript:alert(1)", "file:///etc/passwd", "//127.0.0.1/x", "/x"),
    *(
        "https://user:word@login.example/x",
        "https://login.example/x#y",
        "https:///x",
        "https://login.example/a b",
    ),
    *("https://login.example/\r\nSet-Cookie: a=b", "https://\u0131login.example/x", "https://[x/", 7, ["x"]),
)


@pytest.mark.parametrize("address", ADDRESSES, ids=[str(one)[:40] for one in ADDRESSES])
def test_a_document_that_names_addresses_others_listen_at_is_refused(scene: Scene, address: object) -> None:
    for entry in (
        "jwks_uri",
        "token_endpoint",
        "authorization_endpoint",
        "userinfo_endpoint",
        "end_session_endpoint",
    ):
        scene.provider.document = {entry: address}
        with pytest.raises(DecodeError):
            discover(scene.provider.issuer, ProviderLine())


DOCUMENTS: dict[str, tuple[int, dict[str, str], bytes]] = {
    "no JSON": (200, {}, b"hello"),
    "a list": (200, {}, b"[]"),
    "nothing": (200, {}, b""),
    "one that nests": (200, {}, b"[" * 100_000),
    "a huge one": (200, {}, b'{"issuer": "' + b"x" * 300_000 + b'"}'),
    "a page": (200, {"Content-Type": "text/html"}, b"<h1>Wifi</h1>"),
    "itself again": (302, {"Location": "/realm/.well-known/openid-configuration"}, b""),
    "another host": (301, {"Location": "https://evil.example/"}, b""),
    "trouble": (500, {}, b"{}"),
    "not there": (404, {}, b""),
    "packed": (200, {"Content-Encoding": "gzip"}, b"{}"),
    "another provider's": (200, {}, b'{"issuer": "https://x.example", "jwks_uri": "", "token_endpoint": ""}'),
}


@pytest.mark.parametrize("raw", DOCUMENTS.values(), ids=list(DOCUMENTS))
def test_a_provider_that_answers_nonsense_is_named_and_the_page_stays_open_to_links(
    scene: Scene, raw: tuple[int, dict[str, str], bytes]
) -> None:
    scene.provider.raw = {"/realm/.well-known/openid-configuration": raw}
    answer = scene.browser().get("/enter/openid")
    assert answer.status == 502
    assert f"Nobody can sign in at {scene.provider.host} now" in answer.text
    assert "One-time link" in answer.text


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b"[]",
        b'{"keys": 1}',
        b'{"keys": [1]}',
        b'{"keys": []}',
        b'{"keys": [{"kty": "oct", "k": "YQ", "kid": "k1"}]}',
    ],
)
def test_keys_that_are_none_sign_nobody_in(scene: Scene, body: bytes) -> None:
    scene.provider.raw = {"/realm/keys": (200, {}, body)}
    scene.clock.now += 2 * KEYS_EVERY_S
    assert scene.enter()[1].status in (403, 502)


def test_weak_keys_and_keys_for_encryption_sign_nobody_in(scene: Scene) -> None:
    weak = generate_private_key(65537, 1024)
    kept, scene.provider.key = scene.provider.key, weak
    answer = scene.enter()[1]
    scene.provider.key = kept
    assert answer.status == 403
    scene.provider.keys = [{**public_jwk(kept, "k1"), "use": "enc"}]
    scene.clock.now += 2 * SESSION_S
    assert scene.enter()[1].status in (403, 502)


def test_an_answer_in_drips_ends_at_the_deadline(scene: Scene) -> None:
    scene.provider.slow = {"/realm/keys"}
    with pytest.raises(RepositoryUnreachable, match="does not answer within"):
        ProviderLine(within_s=0.5).fetch(f"{scene.provider.issuer}/keys")


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1.evil.example",
        "http://localhost.evil.example",
        "http://clinic.example",
        "ftp://x.example",
    ],
)
def test_a_provider_without_tls_elsewhere_is_refused(url: str) -> None:
    with pytest.raises(SpecError):
        check_issuer(url)


# --- who decided ----------------------------------------------------------------------------------


def _decide(scene: Scene, browser: Browser, **form: str) -> Reply:
    id_ = scene.ids["changed"]
    waiting = scene.house.grants.get(id_)
    seen = f"{waiting.status} {len(waiting.approvals)} {waiting.decided or 0:.6f}"
    page = browser.get(f"/requests/{id_}").text
    csrf = page.partition('name="csrf" value="')[2].partition('"')[0]
    fields = {"csrf": csrf, "seen": seen, **form}
    answer = browser.send("POST", f"/requests/{id_}/approve", urlencode(fields).encode())
    assert answer.status == 303, answer.text
    return browser.get(f"/requests/{id_}")


def test_two_people_approve_under_the_names_that_the_provider_knows_them_by(scene: Scene) -> None:
    scene.settings(approvers=2)
    ann, _ = scene.enter()
    assert 'name="by"' not in ann.get(f"/requests/{scene.ids['changed']}").text
    _decide(scene, ann, by="Somebody Else")
    scene.provider.people["ann-1"]["name"] = "Another Name"
    again, _ = scene.enter()
    assert "has approved grant" in _decide(scene, again).text, "the same person, whatever she calls herself"
    assert scene.house.grants.get(scene.ids["changed"]).status == "pending"

    typed = scene.browser()
    secret = scene.opened.site.link().partition("#")[2]
    typed.send("POST", "/enter", urlencode({"link": secret}).encode())
    assert "has approved grant" in _decide(scene, typed, by="ann  lindqvist").text, "her name, typed"
    forged = f"Mira <{scene.provider.issuer}#ben-2>"
    assert "which nobody types" in _decide(scene, typed, by=forged).text

    ben, _ = scene.enter("ben-2")
    _decide(scene, ben)
    grant = scene.house.grants.get(scene.ids["changed"])
    assert grant.status == "granted"
    names = [f"Ann Lindqvist <{scene.provider.issuer}#ann-1>", f"Ben Okafor <{scene.provider.issuer}#ben-2>"]
    assert [one["by"] for one in grant.approvals] == names
    records = [record.to_plain() for record in Audit(scene.house.database).records()]
    assert any(names[1] in str(record) for record in records)


@pytest.mark.parametrize("form", [{"value": "1"}, {"usual": "yes"}])
def test_one_of_two_people_cannot_do_without_the_other_by_a_setting(
    scene: Scene, form: dict[str, str]
) -> None:
    scene.settings(approvers=2)
    ann, _ = scene.enter()
    csrf = ann.get("/settings").text.partition('name="csrf" value="')[2].partition('"')[0]
    fields = {"csrf": csrf, "name": "approvers", **form}
    assert ann.send("POST", "/settings", urlencode(fields).encode()).status == 303
    assert "approvers is changed at the terminal alone" in ann.get("/settings").text
    assert load_config(NodeConfig, scene.house.home.root).approvers == 2


def test_a_session_signs_out_here_and_is_shown_the_way_to_do_so_at_the_provider(scene: Scene) -> None:
    browser, _ = scene.enter()
    csrf = browser.get("/").text.partition('name="csrf" value="')[2].partition('"')[0]
    answer = browser.send("POST", "/leave", urlencode({"csrf": csrf}).encode())
    assert answer.location == "/enter?left"
    assert f"{scene.provider.issuer}/end?client_id={CLIENT}" in browser.get("/enter?left").text
    assert not browser.is_in


# --- settings and faults --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"page_people": ""}, "nobody could enter"),
        ({"page_people": " , "}, "nobody could enter"),
        ({"page_people": "*"}, "expected sub=ID"),
        ({"page_people": "email=*@clinic.example"}, "has no patterns"),
        ({"page_people": "email=clinic.example"}, "names no single person"),
        ({"page_people": "ann@clinic.example"}, "expected sub=ID"),
        ({"page_issuer": ""}, "page_issuer is empty"),
        ({"page_issuer": "http://login.clinic.example"}, "expected an https URL"),
        ({"page_client_id": ""}, "page_client_id is empty"),
        ({"page_scopes": "profile"}, "openid among them"),
        ({"page_secret_file": "nowhere"}, "can't read"),
        ({"page_secret_file": "empty"}, "expected one line"),
        ({"page_secret_file": "open"}, "others may read"),
        ({"page_tls_ca": "empty"}, "certificate"),
    ],
)
def test_settings_with_which_nobody_or_anybody_could_enter_are_refused(
    scene: Scene, changes: dict[str, str], words: str
) -> None:
    root = scene.house.home.root
    for name, text, mode in (("empty", "", 0o600), ("open", "secret", 0o644)):
        (root / name).write_text(text)
        os.chmod(root / name, mode)
    scene.settings(**changes)
    with pytest.raises((ConfigError, SpecError), match=words):
        browser_client(scene.house.home, scene.door.client.redirect_url)


def faults(scene: Scene, origin: str | None = None) -> dict[str, str]:
    client = browser_client(scene.house.home, f"{origin or scene.opened.origin}/enter/openid/back")
    return {
        f.check.removeprefix("sign-in "): f"{f.found}: {f.advice}"
        for f in examine_sign_in(client)
        if not f.ok
    }


def test_the_check_finds_each_fault_by_its_name(scene: Scene, tmp_path: Path) -> None:
    assert faults(scene) == {}
    found = faults(scene, "https://owner.clinic.example")
    assert list(found) == ["redirect URL"]
    assert "register https://owner.clinic.example/enter/openid/back" in found["redirect URL"]
    wrong = tmp_path / "wrong"
    wrong.write_text("wrong")
    wrong.chmod(0o600)
    scene.settings(page_secret_file=str(wrong))
    found = faults(scene)
    assert "wrong secret" in found["client"]
    assert "page_secret_file" in found["client"]
    scene.settings(page_client_id="another")
    assert {"client", "redirect URL"} <= faults(scene).keys()
    scene.settings(page_issuer="http://127.0.0.1:9/realm")
    found = faults(scene)
    assert list(found) == ["sign-in"]
    assert "is the identity provider running?" in found["sign-in"]
    scene.settings()
    scene.provider.document = {"issuer": f"{scene.provider.issuer}/other"}
    assert "calls itself" in faults(scene)["sign-in"]
    scene.provider.behave()
    scene.provider.raw = {"/realm/keys": (200, {}, b"{}")}
    assert list(faults(scene)) == ["keys"]


def test_a_provider_under_an_authority_of_the_house_is_trusted_by_page_tls_ca_alone(
    scene: Scene, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    secure = SignInProvider(pair=authority.server())
    secure.redirect_urls = scene.provider.redirect_urls
    with secure.running():
        scene.settings(page_issuer=secure.issuer)
        assert "certificate" in faults(scene)["sign-in"]
        scene.settings(page_issuer=secure.issuer, page_tls_ca=str(authority.cert))
        assert faults(scene) == {}
        secure.document = {"token_endpoint": secure.issuer.replace("https:", "http:") + "/token"}
        assert "expected an https address" in faults(scene)["sign-in"], (
            "a provider with TLS has no other address"
        )


def test_the_way_to_the_provider_leads_through_the_nodes_proxy(scene: Scene) -> None:
    scene.settings(page_issuer="https://login.clinic.example", proxy="http://127.0.0.1:9")
    assert "the proxy" in faults(scene)["sign-in"]
    assert "127.0.0.1:9" in faults(scene)["sign-in"]
