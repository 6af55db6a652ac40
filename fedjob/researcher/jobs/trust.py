"""The question whose breakpoint it is, asked before anything of it is used: whoever resumes one runs the plan in it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fedjob.common.checks import printable, shown
from fedjob.common.errors import BreakpointForeign, SpecError
from fedjob.identity.keys import SealKey
from fedjob.researcher.connection.home import home_path, used_homes
from fedjob.researcher.connection.opening import default_home
from fedjob.researcher.storage.breakpoints import Admit, Breakpoint, Seal, load_breakpoint, only_breakpoint
from fedjob.researcher.storage.folder import JobFolder

_LONGEST = 80


def own_homes(home: str | Path | None, session_home: Path | None) -> list[Path]:
    """Return the homes whose breakpoints are the researcher's own.

    That is the one that is named, by itself or with its session, and no other; where none is, the default one and
    those in which this process has worked before. The path of a breakpoint names no home: what somebody sent may lie
    in one, too.

    Args:
        home: as it was given.
    """
    if home is not None:
        return [home_path(home)]
    return [default_home() or home_path(None), *used_homes()] if session_home is None else [session_home]


def own_or_trusted(homes: Iterable[Path], trust: str | None, call: str) -> Admit:
    """Return what admits breakpoints that one of these homes signed, and one that the researcher has been shown.

    Args:
        trust: what the researcher accepts, see `BreakpointForeign`; None for nothing.
        call: what to write to accept one, up to the value of `trust`, such as `Job.resume('...', trust=`.

    Raises:
        SpecError: `trust` is none.
    """
    if trust is not None and not isinstance(trust, str):
        raise SpecError(f"trust is the text that the error about the breakpoint gave, not {shown(trust)}")
    places = list(homes)

    def admit(seal: Seal) -> None:
        if seal.signer and seal.signer in {SealKey.public_of(home) for home in places}:
            return
        if not seal.signer and any(seal.path.parent == home / "jobs" for home in places):
            return  # the beginning of a job that lies in the home itself
        accepted = seal.signer or seal.digest
        if trust is not None and trust.strip().lower() == accepted:
            return
        raise BreakpointForeign(_question(seal, accepted, trust, call), trust=accepted)

    return admit


def load_in_job(folder: JobFolder, path: Path, trust: str | None) -> Breakpoint:
    """Return a breakpoint that a job with an open round goes back to; see `Job.load_state_breakpoint`."""
    call = f"job.load_state_breakpoint({str(path)!r}, trust="
    return load_breakpoint(only_breakpoint(path), own_or_trusted([folder.path.parent.parent], trust, call))


def _question(seal: Seal, accepted: str, trust: str | None, call: str) -> str:
    """Return the message that shows whose plan would run, and what accepts it."""
    spec = seal.spec if isinstance(seal.spec, Mapping) else {}
    whose = (
        f"was signed by another home, whose key is {seal.signer}" if seal.signer else "was signed by nobody"
    )
    owner = spec.get("owner")
    described = ", ".join(
        _text(owner, key) for key in ("name", "org") if isinstance(owner, Mapping) and owner.get(key)
    )
    researcher = _text(spec, "researcher") or described or "nobody by name"
    claims = (
        f"it says, and nobody vouches for that, that it is of job {_text(spec, 'name') or _text(spec, 'id')} of "
        f"{researcher}, round folder {seal.path.name}"
    )
    text = seal.plan_text
    plan = (
        f"its plan is {_text(spec, 'plan_entry') or 'one without a name'}, {len(text.splitlines())} lines, sha256 "
        f"{hashlib.sha256(text.encode()).hexdigest()}: read {seal.path / 'plan.py'}"
        if text
        else "it has no plan"
    )
    wrong = "" if trust is None else " (what was given as trust is of another one)"
    around = next((folder.parent for folder in seal.path.parents if folder.name == "jobs"), None)
    elsewhere = f"; if {around} is a home of your own, name it: home={str(around)!r}" if around else ""
    return (
        f"the breakpoint {seal.path} {whose}; nothing of it was run or loaded{wrong}. {claims}; {plan}. To run it on "
        f"this machine, with your rights: {call}{accepted!r}){elsewhere}"
    )


def _text(plain: Mapping[str, Any], key: str) -> str:
    return printable(str(plain.get(key) or ""))[:_LONGEST]
