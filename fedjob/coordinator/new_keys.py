"""New keys for the party of a home: made beside the ones before, signed with them, accepted by the hub, then put in use.

After a break anywhere the same command goes on with the same new keys.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from fedjob.common.errors import ConfigError
from fedjob.common.files import fsync_dir, is_locked, remove_folder
from fedjob.identity.keys import SEALING_NAME, Identity
from fedjob.identity.membership import load_membership
from fedjob.identity.pinned_roster import web_of
from fedjob.identity.statements.succession import Succession

NEXT_NAME = "next"
_IN_USE = ("ed25519", SEALING_NAME)


def give_new_keys(home: Path) -> tuple[str, str, str]:
    """Give the party of a home new keys.

    Returns:
        Its name, its public key before, and the one that it has now, in hex.

    Raises:
        ConfigError: a node runs there, or nobody lives there.
        NotPermitted, RepositoryUnreachable: the hub does not take them.
    """
    membership = load_membership(home)
    if membership.federation_keys is None:
        raise ConfigError(
            f"{home} pinned no keys of a federation, so the others would take new keys for somebody else's: they trust on "
            "first use, see docs/federation.md"
        )
    if (home / "lock").exists() and is_locked(home / "lock"):
        raise ConfigError(f"a node runs in {home}: stop it first, `fedjob node stop --home {home}`")
    folder, fresh = home / "keys", home / "keys" / NEXT_NAME
    old = Identity.load_or_create(folder, membership.party)
    new = Identity.load_or_create(fresh, membership.party)
    if new.public_key_hex != old.public_key_hex:
        statement = Succession(
            membership.federation, membership.party, old.public_key_hex, new.public_keys
        ).statement(old, new)
        web = web_of(membership)
        try:
            web.call("POST", "/v1/parties/keys", body=statement.dump(), what="the new keys")
        finally:
            web.close()
    # The signing key last: as long as it is the old one, the command begins again.
    for name in reversed(_IN_USE):
        shutil.copyfile(fresh / name, folder / f".{name}.tmp")
        (folder / f".{name}.tmp").chmod(0o600)
        os.replace(folder / f".{name}.tmp", folder / name)
    fsync_dir(folder)
    remove_folder(fresh, marker=_IN_USE[0])
    return membership.party, old.public_key_hex, new.public_key_hex
