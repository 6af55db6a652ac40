"""The forms of the owner's page, read as the options of the commands are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from fedjob.common.errors import SpecError
from fedjob.common.pages.guard import field_of

Form = Mapping[str, list[str]]

MAX_TEXT_CHARS = 4000


def text_of(form: Form, name: str) -> str:
    """Return a text; empty where it was left empty.

    Raises:
        SpecError: it is too long.
    """
    text = field_of(form, name)
    if len(text) > MAX_TEXT_CHARS:
        raise SpecError(f"{name}: expected at most {MAX_TEXT_CHARS} characters, found {len(text)}")
    return text


def given_text(form: Form, name: str) -> str | None:
    """Return a text, None where it was left empty."""
    return text_of(form, name) or None


def whole_number(form: Form, name: str) -> int | None:
    """Return a whole number, None where it was left empty.

    Raises:
        SpecError: it is none.
    """
    text = text_of(form, name)
    if not text:
        return None
    if not re.fullmatch(r"-?[0-9]{1,18}", text):
        raise SpecError(f"{name}: expected a whole number, found {text[:40]!r}")
    return int(text)


def real_number(form: Form, name: str) -> float | None:
    """Return a number, None where it was left empty.

    Raises:
        SpecError: it is none.
    """
    text = text_of(form, name)
    if not text:
        return None
    if not re.fullmatch(r"[0-9]*\.?[0-9]+([eE][-+]?[0-9]{1,3})?", text):
        raise SpecError(f"{name}: expected a number, found {text[:40]!r}")
    return float(text)


def listed(form: Form, name: str) -> tuple[str, ...]:
    """Return the entries of a field with one a line."""
    return tuple(line.strip() for line in text_of(form, name).split("\n") if line.strip())


def limits_of(form: Form) -> dict[str, Any]:
    """Return the limits of a grant as `parse_limits` takes them."""
    return {
        "until": given_text(form, "until"),
        "runs": whole_number(form, "runs"),
        "inferences": whole_number(form, "inferences"),
        "rows": whole_number(form, "rows"),
        "moved_mb": whole_number(form, "moved_mb"),
        "min_rows": whole_number(form, "min_rows"),
        "predictions": given_text(form, "predictions"),
        "logs": given_text(form, "logs"),
        "secrets": listed(form, "secrets"),
        "args": listed(form, "args"),
        "any_args": text_of(form, "any_args") == "yes",
        "protections": listed(form, "protections"),
    }
