"""The file of a dossier: a page, and in its last line the signature over every byte before it.

    <!DOCTYPE html> ... </html>
    <!-- fedjob dossier 1 KEY SIGNATURE -->

`KEY` is the public Ed25519 key of the researcher in 64 hex digits, `SIGNATURE` has 128. Nothing stands behind the line, and
the page is the one that fedjob draws of the JSON inside it, so that people and machines read the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fedjob._version import __version__
from fedjob.common.errors import DecodeError
from fedjob.identity.audit_heads import read_held_head
from fedjob.identity.keys import verify
from fedjob.researcher.dossier.content import FORMAT, ledger_problem
from fedjob.researcher.dossier.page import JSON_CLOSES, JSON_OPENS, canonical_json, dossier_page
from fedjob.training_plans.source.plan_source import plan_hash

MAX_DOSSIER_BYTES = 256 << 20

_CONTEXT = b"fedjob dossier 1\n"
_LAST_LINE = re.compile(rb"<!-- fedjob dossier 1 ([0-9a-f]{64}) ([0-9a-f]{128}) -->\n")
_LAST_LINE_BYTES = len("<!-- fedjob dossier 1   -->\n") + 64 + 128


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedDossier:
    """A dossier whose signature holds.

    Args:
        key: the public key that signed it, in hex: compare it with the researcher's.
        problems: what in it contradicts itself, in words; empty where nothing does.
        notes: what could not be compared.
    """

    content: Mapping[str, Any]
    key: str
    problems: tuple[str, ...]
    notes: tuple[str, ...]


def signed_file(content: Mapping[str, Any], key: str, sign: Callable[[bytes], bytes]) -> bytes:
    """Return the file of a dossier.

    Args:
        key: the public key in hex.
        sign: returns the 64 bytes that the owner of `key` signs with.
    """
    as_read = json.loads(canonical_json(content))  # in the order that whoever checks it finds
    page = dossier_page(as_read).encode("utf-8", "replace")
    return page + f"<!-- fedjob dossier 1 {key} {sign(_CONTEXT + page).hex()} -->\n".encode()


def open_dossier(data: bytes) -> OpenedDossier:
    """Return what a dossier says, if every byte of it is as it was signed.

    Raises:
        DecodeError: it is no dossier, or it was changed.
    """
    page, line = data[:-_LAST_LINE_BYTES], data[-_LAST_LINE_BYTES:]
    if (match := _LAST_LINE.fullmatch(line)) is None:
        raise DecodeError(
            "the last line is no signature of a dossier: it was changed, cut off, or is another file"
        )
    key = match[1].decode()
    if not verify(key, bytes.fromhex(match[2].decode()), _CONTEXT + page):
        raise DecodeError(f"it was changed after {key[:16]}... signed it")
    content = _content_of(page.decode("utf-8", "replace"))
    if content.get("format") != FORMAT:
        raise DecodeError(
            f"it has format {content.get('format')!r}, this fedjob reads {FORMAT}: use the fedjob that made it"
        )
    try:
        problems, notes = tuple(_problems(content, page)), tuple(_notes(content))
        _check_job(content["job"])
    except Exception as error:  # its signer may write anything, such as lists in lists in lists
        raise DecodeError(
            f"it lacks what a dossier holds, or has it in another form: {type(error).__name__}: {str(error)[:200]}"
        ) from error
    return OpenedDossier(content=content, key=key, problems=problems, notes=notes)


def _content_of(text: str) -> dict[str, Any]:
    start = text.find(JSON_OPENS)
    end = text.find(JSON_CLOSES, start)
    try:
        content = json.loads(text[start + len(JSON_OPENS) : end]) if 0 <= start < end else None
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise DecodeError("it holds no data of a dossier")
    return content


def _problems(content: Mapping[str, Any], page: bytes) -> list[str]:
    """Return what a researcher who signs something wrong can be caught at."""
    found = []
    if content["made"]["fedjob"] == __version__ and dossier_page(content).encode("utf-8", "replace") != page:
        found.append("the page says something else than the data for machines in it")
    plan = content["plan"]
    if plan["text"] and plan_hash(plan["text"]) != plan["sha256"]:
        found.append("the plan's text does not have the sha256 that it names")
    found += [
        f"a node's plan does not have the sha256 {hash_[:16]}... that it names"
        for hash_, text in plan["texts_per_node"].items()
        if text and plan_hash(text) != hash_
    ]
    if problem := ledger_problem(content["rounds"]):
        found.append(problem)
    for line in content["audit_heads"]:
        head = read_held_head(line)
        if not head.is_signed:
            found.append(f"head {head.seq} of the audit log of {head.node} is not signed by the key it names")
    found += [
        f"round {check['round']}: {check['step']} gave other bytes when it was computed again"
        for check in content["verification"]
        if check["verdict"] == "different"
    ]
    found += [f"{each['node']}: {why}" for each in content["audit_logs"] for why in each["contradictions"]]
    return found


def _check_job(job: Any) -> None:
    """Hold the names that whoever checks a dossier is shown.

    Raises:
        ValueError: one is no text.
    """
    if not all(type(job[name]) is str for name in ("id", "researcher", "researcher_key")):
        raise ValueError("the job, its researcher and the researcher's key are texts")


def _notes(content: Mapping[str, Any]) -> list[str]:
    made = content["made"]["fedjob"]
    if made != __version__:
        return [
            f"it says that fedjob {str(made)[:40]} made it, and this is {__version__}: its page was not compared with the data in "
            "it, and may show something else. Check it with that fedjob"
        ]
    return []
