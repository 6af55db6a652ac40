"""The registry of a node's hooks; third parties add theirs as entry points of group `fedjob.node_hook`."""

from __future__ import annotations

from dataclasses import fields, is_dataclass

from fedjob.common.errors import ConfigError, FedjobError
from fedjob.common.registry import Registry
from fedjob.node.config.options import read_options
from fedjob.node.hooks.base import NodeHook

NODE_HOOKS: Registry[NodeHook] = Registry("node_hook", {"csv": "fedjob.node.hooks.csv:Csv"})


def build_hooks(names: str, options: str) -> list[NodeHook]:
    """Build the hooks that a node's owner chose.

    Args:
        names: separated by commas.
        options: `hook.field=value, ...`; values are text. Those of a hook that is not chosen are checked and wait.

    Raises:
        ConfigError: no hook has one of the names, or the options do not fit.
    """
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    known = NODE_HOOKS.names()
    each: dict[str, dict[str, str]] = {name: {} for name in wanted}
    for key, value in read_options(options).items():
        name, dot, field = key.partition(".")
        if not dot or (name not in each and name not in known):
            raise ConfigError(
                f"hook_options: expected HOOK.FIELD=VALUE of one of {', '.join(known)}, found {key[:80]!r}"
            )
        each.setdefault(name, {})[field] = value
    built = {name: _build(name, given) for name, given in each.items()}
    return [built[name] for name in dict.fromkeys(wanted)]


def _build(name: str, given: dict[str, str]) -> NodeHook:
    try:
        kind = NODE_HOOKS.find(name)
        known = [field.name for field in fields(kind)] if is_dataclass(kind) else list(given)
        if unknown := sorted(given.keys() - set(known)):
            raise ConfigError(
                f"there is no option {unknown[0][:80]!r}; its options: {', '.join(known) or 'none'}"
            )
        return kind(**given)
    except FedjobError as error:
        raise ConfigError(f"hook {name[:80]}: {error}") from error
    except Exception as error:  # a hook may be somebody else's code
        raise ConfigError(f"hook {name[:80]}: {type(error).__name__}: {error}") from error
