"""The joining of a node: its home is made, and enrolled in a federation."""

from __future__ import annotations

from pathlib import Path

from fedjob.identity.client_certificate import ClientCertificate
from fedjob.identity.enrolment import check_role_of_home, enrol_home
from fedjob.node.config.home import NodeHome
from fedjob.node.storage.database import Database


def init_node(
    home: NodeHome,
    node: str,
    *,
    hub: str | None,
    invite: Path | None,
    tls_ca: Path | None = None,
    proxy: str | None = None,
    key: Path | None = None,
    own: ClientCertificate | None = None,
) -> None:
    """Make a node's home and enrol it; doing it again with the same id and hub changes nothing.

    Args:
        tls_ca: the certificate of the hub's own authority.
        proxy: through which the hub is reached, see `Membership`.
        key: file of a private key to use; None makes one.
        own: the certificate that the node brings itself, at a hub that issues none.

    Raises:
        FedjobError: the home holds somebody else, or the hub refuses or does not answer.
    """
    check_role_of_home(home.root, "node")
    home.create()
    enrol_home(home.root, node, "node", hub=hub, invite=invite, tls_ca=tls_ca, proxy=proxy, key=key, own=own)
    Database(home.database).close()
