"""Refuse plan text that does not read as it runs, before it is hashed or shown to anybody.

What an owner approves must be what the owner saw: no text that turns around or
hides, no second encoding, no line beyond the edge of the screen, no identifier
that Python reads as another one (Boucher and Anderson 2021, "Trojan Source",
https://arxiv.org/abs/2111.00169).
"""

from __future__ import annotations

import io
import re
import tokenize
import unicodedata
from pathlib import Path

from fedjob.common.errors import PlanError

MAX_PLAN_BYTES = 256 * 1024
MAX_LINE_CHARS = 1000

_COOKIE = re.compile(r"^[ \t\f]*#.*?coding[:=][ \t]*([-\w.]+)")
# letters and marks that draw nothing, beside the categories below
_INVISIBLE = frozenset(
    "\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0"
    + "".join(map(chr, [*range(0x180B, 0x1810), *range(0xFE00, 0xFE10), *range(0xE0000, 0xE01F0)]))
)
_REFUSED_CATEGORIES = {
    "Cc": "a control character",
    "Cf": "an invisible or direction-changing character",
    "Cs": "half of a surrogate pair",
    "Co": "a private-use character",
    "Cn": "an unassigned character",
    "Zl": "a line separator",
    "Zp": "a paragraph separator",
}


def decode_plan(data: bytes, *, path: str | Path | None = None) -> str:
    """Decode the bytes of a Python file; `\\r\\n` becomes `\\n`.

    Raises:
        PlanError: not UTF-8, or with a byte order mark, a NUL or another encoding's cookie.
    """
    where = "the plan" if path is None else str(path)
    if data.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise PlanError(f"{where} begins with a byte order mark: save it as UTF-8 without one", path=path)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise PlanError(f"{where} is not UTF-8 text: {error}", path=path) from error
    if "\0" in text:
        raise PlanError(f"{where} contains a NUL character", path=path)
    _refuse_cookie(text, where, path)
    return text.replace("\r\n", "\n")


def check_plan_text(text: str | bytes) -> str:
    """Return plan text that reads as it runs.

    Args:
        text: as it will be hashed, approved and compiled.

    Raises:
        PlanError: names the first thing that does not belong into a plan, and its line.
    """
    if isinstance(text, bytes):
        if b"\r" in text:
            raise PlanError("the plan contains a carriage return: lines end with \\n alone")
        text = decode_plan(text)
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_PLAN_BYTES:
        raise PlanError(f"the plan has {size} bytes; at most {MAX_PLAN_BYTES} are read and approved")
    if text.startswith("\ufeff"):
        raise PlanError("the plan begins with a byte order mark: save it as UTF-8 without one")
    for number, line in enumerate(text.split("\n"), start=1):
        if len(line) > MAX_LINE_CHARS:
            raise PlanError(f"line {number} of the plan has {len(line)} characters; at most {MAX_LINE_CHARS}")
        if not line.isascii() or not line.isprintable():
            _refuse_characters(line, number)
    _refuse_cookie(text, "the plan", None)
    if not text.isascii():
        _refuse_identifiers(text)
    return text


def _refuse_cookie(text: str, where: str, path: str | Path | None) -> None:
    for line in text.split("\n", 2)[:2]:
        cookie = _COOKIE.match(line)
        if cookie and cookie.group(1).lower().replace("_", "-") not in ("utf-8", "utf8"):
            raise PlanError(
                f"{where} names the encoding {cookie.group(1)!r}: save it as UTF-8 and remove that line",
                path=path,
            )


def _refuse_characters(line: str, number: int) -> None:
    for column, char in enumerate(line, start=1):
        if char == "\t":
            continue
        what = _REFUSED_CATEGORIES.get(unicodedata.category(char))
        if what is None and char in _INVISIBLE:
            what = "an invisible character"
        if what is not None:
            raise PlanError(
                f"line {number} of the plan has {what}, U+{ord(char):04X}, in column {column}: "
                "write it as an escape sequence"
            )


def _refuse_identifiers(text: str) -> None:
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
    except (tokenize.TokenError, SyntaxError) as error:
        raise PlanError(f"the plan is not valid Python: {error}") from error
    for token in tokens:
        if token.type != tokenize.NAME or token.string.isascii():
            continue
        plain = unicodedata.normalize("NFKC", token.string)
        if plain != token.string:
            raise PlanError(
                f"line {token.start[0]} of the plan spells {plain!r} as {token.string!r}, which Python reads "
                "as the same name: write it plainly"
            )
        scripts = {unicodedata.name(char, "").split(" ")[0] for char in token.string if char.isalpha()}
        if "LATIN" in scripts and scripts & {"CYRILLIC", "ARMENIAN", "CHEROKEE"}:
            raise PlanError(
                f"line {token.start[0]} of the plan mixes alphabets in the name {token.string!r}: "
                "letters of one look like letters of the other"
            )
