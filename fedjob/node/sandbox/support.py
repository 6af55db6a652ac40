"""The kinds of sandbox that this machine allows, found by trying them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from fedjob.node.sandbox.enclosure import LANDLOCK, NAMESPACES, NONE

REFUSED = "refused"
"""The kind in force where no sandbox can be closed and the owner does without none: no worker is started."""

TRIED = (NAMESPACES, LANDLOCK)
TRIAL_S = 30.0


@dataclass(frozen=True, slots=True)
class SandboxSupport:
    """The best kind of sandbox that this machine allows.

    Args:
        kind: `namespaces` or `landlock`; `refused` where neither can be closed.
        problems: kind -> why it can't be closed, of those that are better.
    """

    kind: str
    problems: Mapping[str, str] = field(default_factory=dict)

    def in_force(self, setting: str) -> str:
        """Return the kind that holds under the owner's setting `sandbox`: also `none`."""
        return NONE if setting == NONE else self.kind

    @property
    def advice(self) -> str:
        """What the owner can do where no sandbox can be closed."""
        why = "; ".join(f"{kind}: {problem}" for kind, problem in self.problems.items())
        return (
            f"no sandbox can be closed around workers on this machine ({why}), so no worker is started: enable user "
            "namespaces or Landlock as docs/sandbox.md says for each system, or run without with `fedjob node config "
            "set sandbox none`, which every answer to a researcher says"
        )


@lru_cache(maxsize=8)
def find_support(kinds: tuple[str, ...] = TRIED) -> SandboxSupport:
    """Try the kinds of sandbox in turn, each in a process of its own, and return the first that holds.

    Args:
        kinds: that may be used, the best first.
    """
    problems: dict[str, str] = {}
    for kind in kinds:
        problem = _problem_of(kind)
        if not problem:
            return SandboxSupport(kind, problems)
        problems[kind] = problem
    return SandboxSupport(REFUSED, problems)


def _problem_of(kind: str) -> str:
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "fedjob.node.sandbox.trial", kind],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TRIAL_S,
            cwd="/",
            env={**os.environ},
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"it could not be tried: {type(error).__name__}"
    if done.returncode == 0:
        return ""
    lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
    return lines[-1][:300] if lines else f"the trial ended with status {done.returncode}"
