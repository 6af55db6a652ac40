"""The registry of verifiers; third parties add theirs as entry points of the group `fedjob.verifier`."""

from __future__ import annotations

from dataclasses import fields, is_dataclass

from fedjob.common.errors import ConfigError, FedjobError
from fedjob.common.registry import Registry
from fedjob.node.config.options import read_options
from fedjob.node.verifiers.base import Verifier

VERIFIERS: Registry[Verifier] = Registry(
    "verifier",
    {
        "nobody": "fedjob.node.verifiers.nobody:Nobody",
        "oidc": "fedjob.node.verifiers.openid:OpenId",
        "signature": "fedjob.node.verifiers.signature:Signature",
    },
)


def build_verifier(name: str, options: str) -> Verifier:
    """Build the verifier that a node's owner chose.

    Args:
        options: `name=value, name=value`; a verifier without options leaves them to the next one that is chosen.

    Raises:
        ConfigError: no verifier has that name, or the options do not fit it.
    """
    try:
        kind, given = VERIFIERS.find(name), read_options(options)
        known = [field.name for field in fields(kind)] if is_dataclass(kind) else list(given)
        if not known:
            return kind()
        if unknown := sorted(given.keys() - set(known)):
            raise ConfigError(f"there is no option {unknown[0][:80]!r}; its options: {', '.join(known)}")
        return kind(**given)
    except FedjobError as error:
        raise ConfigError(f"verifier {name[:80]}: {error}") from error
    except Exception as error:  # a verifier may be somebody else's code
        raise ConfigError(f"verifier {name[:80]}: {type(error).__name__}: {error}") from error
