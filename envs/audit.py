"""The search for known weaknesses in the locked packages, with pip-audit; part of `make check`.

    python envs/audit.py

A weakness fails it, with the version that mends it. Where the database of weaknesses can't be had (no network, an
index that has none), it says so and passes: nobody's build depends on somebody else's server. A weakness that does not
concern fedjob is named in `envs/audit.txt`, an identifier and the reason in each line.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ENVS = Path(__file__).parent
FIRST, ALL = ENVS / "locks" / "build.txt", ENVS / "locks" / "demo.txt"
"""The first, of one package, shows whether there is a database."""
ACCEPTED = ENVS / "audit.txt"
WITHIN_S = 90.0
ANSWER_WITHIN_S = "10"


def accepted(text: str) -> list[str]:
    """Return the identifiers of `audit.txt`."""
    return [line.split()[0] for line in text.splitlines() if line.strip() and not line.startswith("#")]


def verdict(found: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Return the weaknesses, one line each, and the packages that were not looked up, of pip-audit's JSON."""
    weak, skipped = [], []
    for package in found["dependencies"]:
        if "skip_reason" in package:
            skipped.append(package["name"])
        for each in package.get("vulns", ()):
            mended = ", ".join(each.get("fix_versions", ())) or "none yet"
            weak.append(f"{package['name']} {package['version']}: {each['id']}, mended in {mended}")
    return weak, skipped


def search(lock: Path) -> Mapping[str, Any]:
    """Ask pip-audit about the packages of a lock file.

    Raises:
        ConnectionError: there is no answer, with what it said.
    """
    words = [sys.executable, "-m", "pip_audit", "--requirement", str(lock), "--no-deps", "--disable-pip"]
    words += ["--format", "json", "--progress-spinner", "off", "--timeout", ANSWER_WITHIN_S]
    words += [
        word for each in accepted(ACCEPTED.read_text(encoding="utf-8")) for word in ("--ignore-vuln", each)
    ]
    try:
        ended = subprocess.run(words, capture_output=True, text=True, check=False, timeout=WITHIN_S)
        found: Mapping[str, Any] = json.loads(ended.stdout)
        return found
    except subprocess.TimeoutExpired:
        raise ConnectionError(f"no answer within {WITHIN_S:g} s") from None
    except ValueError:
        last = (ended.stderr.strip().splitlines() or [f"it ended with status {ended.returncode}"])[-1]
        raise ConnectionError(last[:200]) from None


def main() -> None:
    """Print what was found; end with status 1 if that is a weakness."""
    try:
        weak, skipped = verdict(search(FIRST))
        if skipped:
            raise ConnectionError("it knows none of the packages")
        weak, skipped = verdict(search(ALL))
    except ConnectionError as error:
        print(f"pip-audit: skipped, its database can't be had ({error})")
        return
    for name in skipped:
        print(f"pip-audit: {name} was not looked up")
    if weak:
        sys.exit("\n".join(["pip-audit found:", *weak]))
    print("pip-audit: no known weakness")


if __name__ == "__main__":
    main()
