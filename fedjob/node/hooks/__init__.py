"""The registry of a node's hooks; third parties add theirs as entry points of group `fedjob.node_hook`."""

from __future__ import annotations

from fedjob.common.errors import ConfigError, FedjobError
from fedjob.common.registry import Registry
from fedjob.node.config.options import read_options
from fedjob.node.hooks.base import NodeHook

NODE_HOOKS: Registry[NodeHook] = Registry("node_hook", {"csv": "fedjob.node.hooks.csv:Csv"})


def build_hooks(names: str, options: str) -> list[NodeHook]:
    """Build the hooks that a node's owner chose.

    Args:
        names: separated by commas.
        options: `hook.field=value, ...`; values are text.

    Raises:
        ConfigError: no hook has one of the names, or the options do not fit.
    """
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    each: dict[str, dict[str, str]] = {name: {} for name in wanted}
    for key, value in read_options(options).items():
        name, dot, field = key.partition(".")
        if not dot or name not in each:
            raise ConfigError(
                f"hook_options: expected HOOK.FIELD=VALUE of one of {', '.join(wanted) or 'none'}, found {key!r}"
            )
        each[name][field] = value
    built = []
    for name, fields in each.items():
        try:
            built.append(NODE_HOOKS.find(name)(**fields))
        except (FedjobError, TypeError) as error:
            raise ConfigError(f"hook {name[:80]}: {error}") from error
    return built
