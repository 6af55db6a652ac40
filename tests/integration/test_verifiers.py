"""Who is behind a key: signatures, OpenID logins by device code, and verifiers that others wrote."""

from __future__ import annotations

import re
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fedjob import Job, JobFailed
from fedjob.cli import cli
from fedjob.common.config import FoundSettings
from fedjob.common.errors import ConfigError, NotPermitted, RepositoryError, WaitTimeout
from fedjob.identity.keys import Identity
from fedjob.identity.openid.provider import nonce_of
from fedjob.node.config.config import NodeConfig
from fedjob.node.daemon.settings import settle
from fedjob.node.verifiers import build_verifier
from fedjob.node.verifiers.base import Claim
from fedjob.researcher.connection.login import Proving, load_login, log_out, login
from fedjob.researcher.jobs.session import Session
from tests import remote
from tests.integration.nodes import Federation
from tests.integration.provider import CLIENT, Provider
from tests.integration.scripted import open_session

ANN = Identity.generate("ann")


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with Provider().running() as running:
        yield running


@pytest.fixture(scope="module")
def federation(provider: Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    found = Federation(tmp_path_factory.mktemp("federation"))
    options = f"issuer={provider.issuer}, client_id={CLIENT}"
    config = NodeConfig(approval="off", threads=1, verifier="oidc", verifier_options=options)
    found.node("strict", config).start()
    yield found
    found.close()


@pytest.fixture
def session(federation: Federation, tmp_path: Path) -> Iterator[Session]:
    with open_session(federation, tmp_path / "lab", Identity.generate("lab")) as found:
        yield found


def greet(session: Session) -> Job:
    return Job(remote.nothing_needed.bind(word="hi"), data="strict/toy", session=session)


def log_in(provider: Provider, home: Path, identity: Identity, person: str = "") -> Any:
    def confirm(prompt: Any) -> None:
        provider.people[prompt.code] = person or identity.party

    return login(home, identity, issuer=provider.issuer, client_id=CLIENT, tell=confirm, sleep=time.sleep)


@pytest.mark.feature("BF-44")
def test_a_node_that_wants_a_login_refuses_who_has_none_and_serves_who_has(
    session: Session, provider: Provider, tmp_path: Path
) -> None:
    with pytest.raises(JobFailed, match=r"unverified: .*run `fedjob login --issuer") as caught:
        greet(session).run(progress=False)
    assert (caught.value.reason, caught.value.outcome) == ("unverified", "unschedulable")
    said: list[str] = []

    def confirm(prompt: Any) -> None:
        said.append(str(prompt))
        provider.people[prompt.code] = "lab"

    session.login(provider.issuer, CLIENT, tell=confirm)
    assert said == [f"open {provider.issuer}/confirm and confirm the code {said[0].rpartition(' ')[2]}"]
    kept = session.home / "keys" / "login.json"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert greet(session).check().ok
    assert greet(session).run(progress=False).value == [False, "hi"]


def test_logging_in_by_command(provider: Provider, tmp_path: Path) -> None:
    Identity.load_or_create(tmp_path / "keys", "ann")
    words = ["login", "--issuer", provider.issuer, "--client-id", CLIENT, "--home", str(tmp_path)]
    provider.confirm_all = "ann"
    try:
        done = CliRunner().invoke(cli, words)
    finally:
        provider.confirm_all = None
    assert done.exit_code == 0, done.output
    assert f"open {provider.issuer}/confirm and confirm the code" in done.output
    assert f"ann is logged in at {provider.issuer} until" in done.output
    for said in ("logged out", "nobody was logged in"):
        assert CliRunner().invoke(cli, ["logout", "--home", str(tmp_path)]).output.strip() == said


@pytest.mark.feature("BF-44")
def test_another_partys_login_is_of_no_use(session: Session, provider: Provider) -> None:
    session.prove = lambda: provider.token("ann", nonce=nonce_of(ANN.public_key_hex))
    with pytest.raises(JobFailed, match="somebody else's"):
        greet(session).run(progress=False)
    # not even where the provider, or the roster, calls both by one name
    session.prove = lambda: provider.token("lab", nonce=nonce_of(ANN.public_key_hex))
    with pytest.raises(JobFailed, match="made for another key"):
        greet(session).run(progress=False)


def test_nothing_of_a_token_stays_at_the_node(
    session: Session, provider: Provider, federation: Federation
) -> None:
    session.prove = lambda: token
    token = provider.token("lab")
    greet(session).run(progress=False)
    found = [path for path in (federation.folder / "strict").rglob("*") if path.is_file()]
    assert found
    for path in found:
        with suppress(FileNotFoundError):  # the node may be tidying up
            assert token.encode()[-60:] not in path.read_bytes()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"exp": time.time() - 120}, "has expired"),
        ({"aud": "another-client"}, "InvalidAudienceError"),
        ({"iss": "https://other.example"}, "InvalidIssuerError"),
        ({"exp": None}, "MissingRequiredClaimError"),
        ({"preferred_username": "Ann"}, "somebody else's"),
        ({"preferred_username": None}, "somebody else's"),
        ({"nonce": nonce_of("00" * 32)}, "made for another key"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_a_token_that_says_something_else_is_refused(
    provider: Provider, changes: dict[str, Any], words: str
) -> None:
    verifier = build_verifier("oidc", f"issuer={provider.issuer}, client_id={CLIENT}")
    with pytest.raises(NotPermitted, match=words):
        verifier.verify(Claim("ann", ANN.public_key_hex, provider.token("ann", **changes)))
    good = Claim("ann", ANN.public_key_hex, provider.token("ann", nonce=nonce_of(ANN.public_key_hex)))
    found = verifier.verify(good)
    assert found.subject == f"{provider.issuer}#id-of-ann"
    assert 0 < found.until - time.time() <= provider.lasts_s + 60
    late = provider.token("ann", exp=time.time() - 30)  # clocks may differ by a minute
    assert verifier.verify(Claim("ann", ANN.public_key_hex, late)).until > time.time()


def test_a_token_that_somebody_else_signed_is_refused(provider: Provider) -> None:
    verifier = build_verifier("oidc", f"issuer={provider.issuer}, client_id={CLIENT}")
    number = format(provider.key.public_key().public_numbers().n, "x")  # known to everybody, so no secret
    foreign = Provider()
    foreign._server.server_close()
    forged = [
        provider.token("ann", key=foreign.key),
        provider.token("ann", key=number, alg="HS256"),
        provider.token("ann", key="", alg="none"),
        "not.a.token",
        "x" * 5000,
    ]
    for token in forged:
        with pytest.raises(NotPermitted, match="is none of"):
            verifier.verify(Claim("ann", ANN.public_key_hex, token))


def test_a_provider_that_binds_nothing_is_refused_where_that_is_required(provider: Provider) -> None:
    options = f"issuer={provider.issuer}, client_id={CLIENT}"
    claim = Claim("ann", ANN.public_key_hex, provider.token("ann"))
    build_verifier("oidc", options).verify(claim)
    with pytest.raises(NotPermitted, match="does not bind logins to keys"):
        build_verifier("oidc", f"{options}, nonce=required").verify(claim)


def test_a_login_is_renewed_before_it_expires(provider: Provider, tmp_path: Path) -> None:
    first = log_in(provider, tmp_path, ANN)
    prove = Proving(tmp_path)
    assert prove() == first.id_token
    later = Proving(tmp_path, clock=lambda: time.time() + provider.lasts_s - 30)
    time.sleep(1.1 - time.time() % 1)  # tokens count whole seconds
    assert later() != first.id_token
    assert load_login(tmp_path).refresh_token != first.refresh_token  # type: ignore[union-attr]
    # a renewal that was used up elsewhere: the old token is shown, and the nodes say what is missing
    provider._renewals.clear()
    current = prove()
    assert later() == current
    assert log_out(tmp_path)
    assert prove() == ""


@pytest.mark.parametrize(
    ("person", "client", "error", "words"),
    [
        ("", CLIENT, NotPermitted, "the person said no"),
        (None, CLIENT, WaitTimeout, "nobody confirmed"),
        ("ann", "unknown", NotPermitted, "invalid_client"),
    ],
    ids=["no", "nobody", "client"],
)
def test_a_login_that_does_not_come_about_says_why(
    provider: Provider, tmp_path: Path, person: str | None, client: str, error: type[Exception], words: str
) -> None:
    def confirm(prompt: Any) -> None:
        if person is not None:
            provider.people[prompt.code] = person

    provider.code_lasts_s = 1 if person is None else 60
    try:
        with pytest.raises(error, match=words):
            login(tmp_path, ANN, issuer=provider.issuer, client_id=client, tell=confirm, sleep=time.sleep)
    finally:
        provider.code_lasts_s = 60
    assert not (tmp_path / "keys").exists()


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("oidc", "", "issuer=URL and client_id=NAME"),
        ("oidc", "issuer=http://idp.example, client_id=x", "expected an https URL"),
        ("oidc", "issuer=https://idp.example, client_id=x, nonce=maybe", "'optional' or 'required'"),
        ("oidc", "issuer=https://idp.example, klient=x", "klient"),
        ("oidcc", "", "did you mean 'oidc'"),
    ],
)
def test_a_setting_that_does_not_hold_together_never_becomes_no_verification(
    name: str, options: str, words: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=words):
        build_verifier(name, options)
    given = NodeConfig(verifier=name, verifier_options=options, approval="off")
    found = settle(FoundSettings(asdict(given), ()), None)
    assert re.search(words, found.faults[0])
    assert found.config.approval == "on"
    with pytest.raises(NotPermitted, match="ask its owner"):
        build_verifier(found.config.verifier, found.config.verifier_options).verify(
            Claim("ann", ANN.public_key_hex, "a.b.c")
        )


def test_a_provider_that_is_away_is_no_yes(tmp_path: Path) -> None:
    verifier = build_verifier("oidc", f"issuer=http://127.0.0.1:9, client_id={CLIENT}")
    with pytest.raises(RepositoryError):
        verifier.verify(Claim("ann", ANN.public_key_hex, "a.b.c"))


SESAME = """\
from dataclasses import dataclass
from typing import ClassVar

from fedjob.common.errors import NotPermitted
from fedjob.node.verifiers.base import Verified, Verifier


@dataclass(frozen=True)
class Sesame(Verifier):
    word: str = ""
    name: ClassVar[str] = "sesame"

    def verify(self, claim):
        if claim.proof == "crash":
            raise RuntimeError("a bug")
        if claim.proof != self.word:
            raise NotPermitted("say the word")
        return Verified(claim.researcher)
"""


@pytest.mark.feature("BF-44")
def test_a_verifier_that_is_installed_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sesame_verifier.py").write_text(SESAME)
    about = tmp_path / "sesame_verifier-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: sesame-verifier\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[fedjob.verifier]\nsesame = sesame_verifier:Sesame\n")
    monkeypatch.syspath_prepend(tmp_path)
    federation = Federation(tmp_path)
    try:
        config = NodeConfig(approval="off", verifier="sesame", verifier_options="word=open")
        federation.node("cave", config).start()
        with open_session(federation, tmp_path / "lab", Identity.generate("lab")) as session:
            job = Job(remote.nothing_needed.bind(word="hi"), data="cave/toy", session=session)
            for proof, reason in (("", "say the word"), ("crash", "RuntimeError"), ("open", "")):
                session.prove = lambda proof=proof: proof  # type: ignore[misc]
                (answer,) = job.check()
                assert answer.may_run is (not reason)
                assert reason in answer.note
    finally:
        federation.close()
