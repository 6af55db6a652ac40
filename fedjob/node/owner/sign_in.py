"""The settings of sign-in to the owner's page at an OpenID provider, read as a client of that provider."""

from __future__ import annotations

import stat
from pathlib import Path

from fedjob.common.config import load_config
from fedjob.common.errors import ConfigError
from fedjob.common.network.tls_trouble import check_authority
from fedjob.identity.openid.code_flow import BrowserClient
from fedjob.identity.openid.provider import ProviderLine, check_issuer
from fedjob.node.config.config import NodeConfig
from fedjob.node.config.home import NodeHome
from fedjob.node.config.page_people import read_people

MAX_SECRET_BYTES = 4096


def browser_client(home: NodeHome, redirect_url: str) -> BrowserClient:
    """Return the client that the settings of a home describe.

    Args:
        redirect_url: address of the page to which the provider sends browsers back.

    Raises:
        ConfigError: a setting is missing, or a file can't be used.
    """
    config = load_config(NodeConfig, home.root)
    for setting, example in (
        ("page_issuer", "https://login.clinic.example"),
        ("page_client_id", "fedjob-page"),
        ("page_people", "email=dpo@clinic.example"),
    ):
        if not getattr(config, setting):
            what = "nobody could enter" if setting == "page_people" else "sign-in needs it"
            raise ConfigError(
                f"the setting {setting} is empty, and {what}: fedjob node config set {setting} {example}"
            )
    people = read_people(config.page_people)
    if not people:
        raise ConfigError(f"page_people names nobody ({config.page_people[:80]!r}), and nobody could enter")
    wanted = {"name"}
    wanted |= {"email"} if any(entry.startswith("email=") for entry in people) else set()
    wanted |= {config.page_groups_claim} if any(entry.startswith("group=") for entry in people) else set()
    authority = _file(home, config.page_tls_ca)
    if authority is not None:
        check_authority(str(authority))
    return BrowserClient(
        issuer=check_issuer(config.page_issuer),
        client_id=config.page_client_id,
        secret=_secret(_file(home, config.page_secret_file)),
        redirect_url=redirect_url,
        scopes=config.page_scopes,
        claims=tuple(sorted(wanted)),
        line=ProviderLine(tls_ca=str(authority or ""), proxy=config.proxy),
    )


def _file(home: NodeHome, name: str) -> Path | None:
    """Return a file that a setting names, relative to the home."""
    return home.root / Path(name).expanduser() if name else None


def _secret(path: Path | None) -> str:
    """Return the client's secret.

    Raises:
        ConfigError: there is none, or others may read it.
    """
    if path is None:
        return ""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        with path.open("rb") as stream:
            text = stream.read(MAX_SECRET_BYTES + 1).decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"page_secret_file: can't read {path}: {error}") from error
    if mode & 0o077:
        raise ConfigError(f"page_secret_file: others may read {path} (mode {mode:o}): run `chmod 600 {path}`")
    if not text or len(text) > MAX_SECRET_BYTES or not text.isprintable():
        raise ConfigError(f"page_secret_file: expected one line with the client's secret in {path}")
    return text
