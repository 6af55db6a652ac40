"""Homes on their way into a federation: half made, revoked, of another role; and hubs that are not trusted."""

from __future__ import annotations

import datetime
import ipaddress
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fedjob.cli import cli
from fedjob.common.errors import ConfigError, NotPermitted, RepositoryUnreachable
from fedjob.hub.config.tls import TlsFiles
from fedjob.hub.server.service import ServiceThread
from fedjob.identity.enrolment import PENDING_NAME, enrol_home
from fedjob.identity.membership import Invitation, fetch_hub, load_membership
from fedjob.identity.party_list import fetch_parties
from tests.hubs import HubThread

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubThread]:
    (tmp_path / "hub").mkdir()
    with HubThread(tmp_path / "hub") as running:
        yield running


def invite(hub: HubThread, party: str, role: str, path: Path) -> Path:
    path.write_bytes(Invitation(hub.url, party, role, hub.parties.invite(party, role)).dump())
    return path


@pytest.mark.parametrize("role", ["node", "researcher"])
def test_an_init_that_failed_leaves_a_home_that_the_right_command_finishes(
    hub: HubThread, tmp_path: Path, role: str
) -> None:
    home = tmp_path / "home"
    with pytest.raises(RepositoryUnreachable):
        enrol_home(home, "eve", role, hub="http://127.0.0.1:9", invite=None)
    membership, identity = enrol_home(home, "alice", role, hub=hub.url, invite=None)
    assert (membership.party, identity.party) == ("alice", "alice")
    assert not (home / PENDING_NAME).exists()
    assert enrol_home(home, "alice", role, hub=hub.url, invite=None)[0] == membership
    with pytest.raises(ConfigError, match="the home of 'alice', not of 'eve'"):
        enrol_home(home, "eve", role, hub=hub.url, invite=None)


def test_an_enrolment_whose_answer_was_lost_is_finished_by_the_same_command(
    hub: HubThread, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    invitation = invite(hub, "alice", "researcher", tmp_path / "alice.invitation")
    membership, _ = enrol_home(home, "alice", "researcher", hub=None, invite=invitation)
    token = membership.token
    (home / "membership.mpk").unlink()  # as if the answer had not come: the hub knows her, the home does not
    who = {"party": "alice", "role": "researcher", "key": hub.parties.all()[0].key, "token": token}
    (home / PENDING_NAME).write_text(json.dumps(who))
    again, _ = enrol_home(home, "alice", "researcher", hub=None, invite=invitation)
    assert again == membership


def test_a_revoked_member_joins_again_with_a_new_invitation(hub: HubThread, tmp_path: Path) -> None:
    home = tmp_path / "home"
    before, identity = enrol_home(home, "alice", "researcher", hub=hub.url, invite=None)
    hub.parties.revoke("alice")
    with pytest.raises(NotPermitted):
        enrol_home(home, "alice", "researcher", hub=hub.url, invite=None)
    invitation = invite(hub, "alice", "researcher", tmp_path / "alice.invitation")
    after, same = enrol_home(home, "alice", "researcher", hub=None, invite=invitation)
    assert same.public_key_hex == identity.public_key_hex
    assert after.token != before.token
    assert "alice" in fetch_parties(load_membership(home))


@pytest.mark.parametrize(("mine", "other"), [("node", "researcher"), ("researcher", "node")])
def test_a_home_of_one_role_is_refused_by_the_commands_of_the_other(
    hub: HubThread, tmp_path: Path, mine: str, other: str
) -> None:
    home = tmp_path / "home"
    enrol_home(home, "ann", mine, hub=hub.url, invite=None)
    commands = {
        "node": [["node", "init", "--id", "ann", "--hub", hub.url], ["node", "status"], ["node", "start"]],
        "researcher": [["init", "--id", "ann", "--hub", hub.url], ["nodes"], ["data"]],
    }
    before = sorted(path.name for path in home.rglob("*"))
    for words in commands[other]:
        done = CliRunner().invoke(cli, [*words, "--home", str(home)])
        assert isinstance(done.exception, ConfigError), (words, done.output, done.exception)
        assert f"the home of a {mine}" in str(done.exception)
    assert sorted(path.name for path in home.rglob("*")) == before


# -- TLS ----------------------------------------------------------------------------------------------------------


def make(
    folder: Path,
    *,
    ends: datetime.datetime = NOW + DAY,
    host: str = "127.0.0.1",
    usage: bool = True,
) -> tuple[Path, TlsFiles]:
    """Make an authority and a certificate of it, as docs/tls.md does; return the authority's file and the server's."""
    folder.mkdir()

    def build(subject: str, issuer: str, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        def name(text: str) -> x509.Name:
            return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])

        builder = x509.CertificateBuilder().subject_name(name(subject)).issuer_name(name(issuer))
        return builder.public_key(key).serial_number(x509.random_serial_number())

    authority, server = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root = build("authority", "authority", authority.public_key()).not_valid_before(NOW - 9 * DAY)
    root = root.not_valid_after(NOW + 9 * DAY).add_extension(
        x509.BasicConstraints(ca=True, path_length=0), True
    )
    if usage:
        flags = dict.fromkeys(
            (
                "digital_signature",
                "content_commitment",
                "key_encipherment",
                "data_encipherment",
                "key_agreement",
            ),
            False,
        )
        more = {"key_cert_sign": True, "crl_sign": True, "encipher_only": False, "decipher_only": False}
        root = root.add_extension(x509.KeyUsage(**flags, **more), True)
    leaf = (
        build("hub", "authority", server.public_key()).not_valid_before(NOW - 9 * DAY).not_valid_after(ends)
    )
    address = x509.IPAddress(ipaddress.ip_address(host)) if host[0].isdigit() else x509.DNSName(host)
    leaf = leaf.add_extension(x509.SubjectAlternativeName([address]), False)
    leaf = leaf.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()), False
    )
    pem = serialization.Encoding.PEM
    (folder / "ca.pem").write_bytes(root.sign(authority, hashes.SHA256()).public_bytes(pem))
    (folder / "hub.pem").write_bytes(leaf.sign(authority, hashes.SHA256()).public_bytes(pem))
    private = serialization.PrivateFormat.PKCS8
    (folder / "hub.key").write_bytes(server.private_bytes(pem, private, serialization.NoEncryption()))
    return folder / "ca.pem", TlsFiles(folder / "hub.pem", folder / "hub.key")


def serve(hub: HubThread, tls: TlsFiles) -> ServiceThread:
    return ServiceThread(hub._app.app, limits=hub.limits, tls=tls)


def test_six_causes_of_trouble_with_tls_are_told_apart(hub: HubThread, tmp_path: Path) -> None:
    ca, good = make(tmp_path / "good")
    other_ca, expired = make(tmp_path / "expired", ends=NOW - DAY)
    named_ca, named = make(tmp_path / "named", host="hub.example.org")
    junk = tmp_path / "junk.pem"
    junk.write_text("no certificate")
    with serve(hub, good) as running:
        https = running.url
        assert fetch_hub(https, verify=ca).federation == hub.ledger.federation
        for verify, words in (
            (True, "name its authority, --tls-ca FILE"),
            (good.cert, "not the certificate of its authority"),
            (other_ca, "not the certificate of its authority"),
        ):
            with pytest.raises(RepositoryUnreachable, match="not trusted") as caught:
                fetch_hub(https, verify=verify)
            assert words in str(caught.value)
        with pytest.raises(ConfigError, match="holds no certificate"):
            fetch_hub(https, verify=junk)
        with pytest.raises(ConfigError, match="can't be read"):
            fetch_hub(https, verify=tmp_path / "none.pem")
        with pytest.raises(RepositoryUnreachable, match="speaks TLS: give its address as https://"):
            fetch_hub(https.replace("https://", "http://"))
    with (
        serve(hub, expired) as running,
        pytest.raises(RepositoryUnreachable, match=f"expired on {NOW - DAY:%Y-%m-%d}"),
    ):
        fetch_hub(running.url, verify=other_ca)
    with (
        serve(hub, named) as running,
        pytest.raises(RepositoryUnreachable, match=r"is for hub\.example\.org, not for 127"),
    ):
        fetch_hub(running.url, verify=named_ca)
    with pytest.raises(RepositoryUnreachable, match="does not speak TLS: its address is http://"):
        fetch_hub(hub.url.replace("http://", "https://"))


def test_the_authority_is_copied_into_the_home_and_goes_with_it(hub: HubThread, tmp_path: Path) -> None:
    ca, tls = make(tmp_path / "tls")
    with serve(hub, tls) as running:
        enrol_home(tmp_path / "home", "alice", "researcher", hub=running.url, invite=None, tls_ca=ca)
        ca.unlink()
        shutil.move(tmp_path / "home", tmp_path / "moved")
        assert "alice" in fetch_parties(load_membership(tmp_path / "moved"))


@pytest.mark.parametrize(
    ("left", "words"),
    [(-DAY, "expired on"), (3 * DAY, "expires on"), (datetime.timedelta(days=90), "")],
)
def test_the_hub_warns_of_a_certificate_that_ends(
    tmp_path: Path, left: datetime.timedelta, words: str
) -> None:
    _, tls = make(tmp_path / "tls", ends=NOW + left)
    warnings = tls.check().warnings(NOW)
    assert bool(warnings) is bool(words)
    assert all(words in warning for warning in warnings)
