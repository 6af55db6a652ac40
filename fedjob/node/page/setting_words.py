"""The words for a node's settings, and which of them only a terminal changes."""

from __future__ import annotations

import inspect
import re
from functools import cache

from fedjob.node.config.config import NodeConfig

AT_TERMINAL = frozenset(
    {
        *("approval", "approvers", "plans", "ask_data", "unknown"),
        *("encryption", "sandbox", "own_of", "verifier", "verifier_options"),
        *(
            "launcher",
            "launcher_options",
            "hooks",
            "hook_options",
            "notify_command",
            "notify_webhook",
            "smtp",
        ),
        *("proxy", "tls_ca", "tls_cert", "tls_key", "metrics_port"),
        *("page_issuer", "page_client_id", "page_secret_file", "page_people"),
        *("page_groups_claim", "page_scopes", "page_tls_ca"),
    }
)
"""Settings that run programs, name files and addresses, take a protection away, or say who has to be asked: whoever gets
hold of a browser must not get hold of these, and one of two approvers must not do without the other."""


@cache
def meanings() -> dict[str, str]:
    """Return setting -> what it is, as the documentation of `NodeConfig` says it."""
    text = inspect.cleandoc(NodeConfig.__doc__ or "").partition("Args:\n")[2]
    found: dict[str, str] = {}
    for entry in re.split(r"\n(?= {4}\S)", text.rstrip()):
        names, _, words = entry.strip().partition(": ")
        sentence = " ".join(words.split()).replace("`", "")
        for name in names.split(", "):
            found[name] = sentence[:1].upper() + sentence[1:]
    return found


def without_login(value: str) -> str:
    """Return a setting without the login that an address in it may hold."""
    return re.sub(r"//[^/@\s]+@", "//(login not shown)@", value)
