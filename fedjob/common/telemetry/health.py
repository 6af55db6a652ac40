"""The health of a hub or a node, as `GET /healthz` answers it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fedjob.common.telemetry.metrics import MetricFamily, by_label


@dataclass(frozen=True, slots=True)
class Health:
    """The outcome of each check.

    Args:
        checks: name -> whether it passed.
    """

    checks: Mapping[str, bool]

    @property
    def status(self) -> int:
        """The HTTP status: 200 where all passed, else 503."""
        return 200 if all(self.checks.values()) else 503

    def to_json(self) -> bytes:
        """Return it as JSON: names of checks and whether they passed, and nothing that strangers should not read."""
        words = {True: "ok", False: "failing"}
        plain = {
            "status": words[self.status == 200],
            "checks": {name: words[passed] for name, passed in sorted(self.checks.items())},
        }
        return json.dumps(plain).encode() + b"\n"

    def metric(self, name: str) -> MetricFamily:
        """Return it as a metric, 1 for each check that passed and 0 for each that did not."""
        values = {check: float(passed) for check, passed in self.checks.items()}
        return by_label("gauge", name, "Whether a check of health passes, by name.", "check", values)


def free_bytes(folder: Path) -> int:
    """Return the free bytes of the disk that a folder lies on; 0 where the folder is gone."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return 0
