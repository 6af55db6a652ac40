"""The words of a grant's limits, which command lines offer and grants check."""

from __future__ import annotations

LOGS = ("none", "stdout", "all")
"""The parts of a task's log that the researcher may see, the strictest first."""

PREDICTIONS = ("leave", "stay")
"""The ways to treat predictions for single rows, the laxest first."""
