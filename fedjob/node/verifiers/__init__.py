"""The registry of verifiers; third parties add theirs as entry points of the group `fedjob.verifier`."""

from __future__ import annotations

from fedjob.common.errors import ConfigError, FedjobError
from fedjob.common.registry import Registry
from fedjob.node.config.options import read_options
from fedjob.node.verifiers.base import Verifier

VERIFIERS: Registry[Verifier] = Registry(
    "verifier",
    {
        "oidc": "fedjob.node.verifiers.openid:OpenId",
        "signature": "fedjob.node.verifiers.signature:Signature",
    },
)


def build_verifier(name: str, options: str) -> Verifier:
    """Build the verifier that a node's owner chose.

    Args:
        options: `name=value, name=value`.

    Raises:
        ConfigError: no verifier has that name, or the options do not fit it.
    """
    try:
        return VERIFIERS.find(name)(**read_options(options))
    except (FedjobError, TypeError) as error:
        raise ConfigError(f"verifier {name[:80]}: {error}") from error
