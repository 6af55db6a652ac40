"""The text of a plan as the owner's page shows it: line by line, with what to look at twice, and what is new in it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from fedjob.node.grants.plan_review import Remark, can_look_for_risks, remarks, visible
from fedjob.training_plans.source.packages import imported_packages, missing_packages

_PLACE = re.compile(r"@@ -\S+ \+(\d+)\S* @@")


@dataclass(frozen=True, slots=True)
class CodeLine:
    """One line of a plan.

    Args:
        text: with signs that no eye sees drawn.
        remarks: of kind `risk` or `import`.
    """

    number: int
    text: str
    remarks: tuple[Remark, ...]

    @property
    def is_risky(self) -> bool:
        """True where a remark is about a risk."""
        return any(remark.kind == "risk" for remark in self.remarks)


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeView:
    """A plan's text with its remarks.

    Args:
        imports: packages that it imports.
        missing: those of them that are not installed here.
        is_whole: False where bandit is not installed, so that fewer risks were looked for.
    """

    lines: tuple[CodeLine, ...]
    imports: tuple[str, ...]
    missing: tuple[str, ...]
    is_whole: bool

    @property
    def risky(self) -> list[int]:
        """The numbers of the lines to look at twice."""
        return [line.number for line in self.lines if line.is_risky]

    @property
    def num_risks(self) -> int:
        """How many remarks are about risks."""
        return sum(remark.kind == "risk" for line in self.lines for remark in line.remarks)


@lru_cache(maxsize=16)
def code_view(text: str) -> CodeView:
    """Return a plan's text as it is shown; the same marks as `fedjob node grants show --code` prints."""
    under: dict[int, list[Remark]] = {}
    for remark in remarks(text):
        under.setdefault(remark.line, []).append(remark)
    lines = text.split("\n")[: -1 if text.endswith("\n") else None]
    return CodeView(
        lines=tuple(
            CodeLine(number, visible(line), tuple(under.get(number, ())))
            for number, line in enumerate(lines, start=1)
        ),
        imports=tuple(imported_packages(text)),
        missing=tuple(missing_packages(text)),
        is_whole=can_look_for_risks(),
    )


def shown_changes(changes: Iterable[str]) -> list[tuple[str, str, str]]:
    """Return the lines of a difference as (kind, sign, text); kinds are `added`, `removed`, `place` and empty."""
    kinds = {"+": "added", "-": "removed"}
    shown = []
    for line in changes:
        if place := _PLACE.match(line):
            shown.append(("place", "", f"from line {place[1]} on"))
        else:
            shown.append((kinds.get(line[:1], ""), line[:1].strip(), visible(line[1:])))
    return shown
