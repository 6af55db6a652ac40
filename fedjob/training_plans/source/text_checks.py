"""Refuse plan text that does not read as it runs, before it is hashed or shown to anybody.

What an owner approves must be what the owner saw: no text that turns around or
hides, no second encoding, nothing beyond the edge of the screen, and names in
letters that nobody takes for others (Boucher and Anderson 2021, "Trojan
Source", https://arxiv.org/abs/2111.00169; Unicode Technical Standard 39).
"""

from __future__ import annotations

import io
import re
import string
import tokenize
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path

from fedjob.common.errors import PlanError
from fedjob.training_plans.source.plan_source import Origins, line_words

MAX_PLAN_BYTES = 256 * 1024
MAX_LINE_CHARS = 1000
MAX_GAP_CHARS = 100
"""White space in one piece; a tab counts as eight."""

MAX_BLANK_LINES = 50
MAX_MARKS = 3
"""Marks over one letter."""

_COOKIE = re.compile(r"^[ \t\f]*#.*?coding[:=][ \t]*([-\w.]+)")
_BLANK = re.compile(rf"(?:^[ \t]*\n){{{MAX_BLANK_LINES + 1}}}", re.MULTILINE)
_GAP = re.compile(r"[ \t]{13,}")
# letters and marks that draw nothing, beside the categories below
_INVISIBLE = frozenset(
    "\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0\U0001d159\U00016fe4"
    + "".join(map(chr, [*range(0x180B, 0x1810), *range(0xFE00, 0xFE10), *range(0xE0000, 0xE01F0)]))
)
_REFUSED_CATEGORIES = {
    "Cc": "a control character",
    "Cf": "an invisible or direction-changing character",
    "Cs": "half of a surrogate pair",
    "Co": "a private-use character",
    "Cn": "an unassigned character",
    "Zl": "a line separator",
    "Zs": "a space other than the plain one",
    "Zp": "a paragraph separator",
}
GREEK = frozenset(
    "\u03b1\u03b2\u03b3\u03b4\u03b5\u03b8\u03bb\u03bc\u03c0\u03c3\u03c6\u03c8\u03c9\u0393\u0394\u0398\u039b\u039e\u03a0\u03a3\u03a6\u03a8\u03a9"
)
"""The letters of formulas, which may each be a whole word of a name: alpha, beta, gamma, delta, ..."""

_READ_AS = str.maketrans(
    "\u03b1\u03b2\u03b3\u03b5\u03bb\u03bc\u03c0\u03c3\u03c9\u0393\u0398\u039b\u03a6\u03a9", "aByeAunowrOAOO"
)
"""Greek letter -> the Latin one that it could be read as, where a plan uses both in the same place of a name."""

_IN_BRACES = re.compile(r"\{([^{}]*)\}")
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
# a string with code in it is one token until Python 3.11, and several from 3.12 on
_TEXTS = {tokenize.STRING, tokenize.COMMENT, getattr(tokenize, "FSTRING_MIDDLE", tokenize.COMMENT)}
_RIGHT_TO_LEFT = ("R", "AL", "AN")


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


def with_plain_comments(text: str) -> str:
    """Return a user's text with plain comments, as no comment changes what runs.

    Assistants, word processors and web pages put spaces of another width into
    comments, and invisible characters beside their signs. The first become plain
    ones here, the second go, before the text is hashed or shown to anybody.
    """
    if text.isascii():
        return text
    lines = text.split("\n")
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT and not token.string.isascii():
                row, column = token.start
                lines[row - 1] = (lines[row - 1][:column] + _plain(token.string)).rstrip()
    except (tokenize.TokenError, SyntaxError):
        return text  # the checks that follow name what is wrong with it
    return "\n".join(lines)


def _plain(comment: str) -> str:
    kept = []
    for char in comment:
        category = unicodedata.category(char)
        if category == "Zs":
            kept.append(" ")
        elif category not in _REFUSED_CATEGORIES and char not in _INVISIBLE:
            kept.append(char)
    return "".join(kept)


def check_plan_text(text: str | bytes, origins: Origins = ()) -> str:
    """Return plan text that reads as it runs.

    Args:
        text: as it will be hashed, approved and compiled.
        origins: where its lines were written, for messages.

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
        where = line_words(number, origins)
        if len(line) > MAX_LINE_CHARS:
            raise PlanError(f"{where} has {len(line)} characters; at most {MAX_LINE_CHARS}: break it in two")
        if not line.isascii() or not line.isprintable():
            _refuse_characters(line, where)
            _refuse_marks(line, where)
        _refuse_gaps(line, where)
    blank = _BLANK.search(text)
    if blank:
        where = line_words(text.count("\n", 0, blank.start()) + 1, origins)
        raise PlanError(f"the plan has more than {MAX_BLANK_LINES} empty lines in one piece ({where})")
    _refuse_cookie(text, "the plan", None)
    if not text.isascii():
        _refuse_tokens(text, origins)
    return text


def _refuse_cookie(text: str, where: str, path: str | Path | None) -> None:
    for line in text.split("\n", 2)[:2]:
        cookie = _COOKIE.match(line)
        if cookie and cookie.group(1).lower().replace("_", "-") not in ("utf-8", "utf8"):
            raise PlanError(
                f"{where} names the encoding {cookie.group(1)!r}: save it as UTF-8 and remove that line",
                path=path,
            )


def _refuse_characters(line: str, where: str) -> None:
    for column, char in enumerate(line, start=1):
        if char in "\t ":
            continue
        what = _REFUSED_CATEGORIES.get(unicodedata.category(char))
        if what is None and char in _INVISIBLE:
            what = "an invisible character"
        if what is not None:
            raise PlanError(
                f"{where} has {what}, U+{ord(char):04X}, in column {column}: "
                "delete or retype it; in a string, write it as an escape sequence"
            )


def _refuse_marks(line: str, where: str) -> None:
    """Marks are drawn over the letter before them: on anything else, or in a pile, they hide it."""
    num_marks, before = 0, " "
    for column, char in enumerate(line, start=1):
        if not unicodedata.category(char).startswith("M"):
            num_marks, before = 0, char
            continue
        num_marks += 1
        if num_marks > MAX_MARKS or not (before.isalnum() or ord(before) > 0x2000):
            raise PlanError(
                f"{where} has a mark, U+{ord(char):04X}, in column {column} that covers what "
                "stands before it: write it as an escape sequence"
            )


def _refuse_gaps(line: str, where: str) -> None:
    for gap in _GAP.finditer(line):
        if len(gap.group().replace("\t", " " * 8)) > MAX_GAP_CHARS:
            raise PlanError(
                f"{where} has {len(gap.group())} blanks in one piece, which put what follows "
                f"out of sight; at most {MAX_GAP_CHARS}"
            )


def _refuse_tokens(text: str, origins: Origins) -> None:
    """Look at names, and at text that is written from right to left."""
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
    except (tokenize.TokenError, SyntaxError) as error:
        raise PlanError(f"the plan is not valid Python: {error}") from error
    turned = 0
    seen: dict[str, str] = {}
    for token in tokens:
        if token.string.isascii():
            continue
        line = token.start[0]
        is_code = token.type not in _TEXTS
        if token.type == tokenize.STRING and "f" in token.string.split(token.string[-1])[0].lower():
            for name in _names(_QUOTED.sub(" ", " ".join(_IN_BRACES.findall(token.string)))):
                _refuse_name(name, line_words(line, origins))
        if any(unicodedata.bidirectional(char) in _RIGHT_TO_LEFT for char in token.string):
            if is_code or turned == line:
                raise PlanError(
                    f"{line_words(line, origins)} has text from right to left in a name or in two places, which turns "
                    "around what stands between them: write it as escape sequences"
                )
            turned = token.end[0]
    for line, code in _code_by_line(tokens):
        for name in _names(code):
            _refuse_name(name, line_words(line, origins))
            seen.setdefault(name, line_words(line, origins))
    _refuse_pairs(seen)


def _code_by_line(tokens: list[tokenize.TokenInfo]) -> Iterator[tuple[int, str]]:
    """Yield what is neither string nor comment, with what stands together in one piece.

    The tokenizer takes a name apart where it has a mark, which Python does not.
    """
    line, end, code = 0, (0, 0), ""
    for token in tokens:
        if token.type in _TEXTS:
            continue
        if token.start[0] != line:
            yield line, code
            line, code = token.start[0], ""
        code += ("" if token.start == end else " ") + token.string
        end = token.end
    yield line, code


def _names(text: str) -> list[str]:
    """Return the longest pieces that could be in a name."""
    return "".join(c if c.isalnum() or f"a{c}".isidentifier() else " " for c in text).split()


def _refuse_name(name: str, where: str) -> None:
    """Refuse a name that is not ASCII: a list of the letters that look like others can't be finished."""
    if all(word.isascii() or word.rstrip(string.digits) in GREEK for word in name.split("_")):
        return
    plain = unicodedata.normalize("NFKC", name)
    if plain != name:
        raise PlanError(
            f"{where} spells {plain!r} as {name!r}, which Python reads as the same name: write it plainly"
        )
    raise PlanError(
        f"{where} has the name {name!r} ({name!a}), whose letters may look like others: names are in ASCII letters, "
        f"digits and '_', or have a Greek letter as a whole word, such as \u03bb or \u03bb_1; in strings and comments any "
        "letters are welcome"
    )


def _refuse_pairs(names: Mapping[str, str]) -> None:
    """Refuse two names of one plan that could be read for each other.

    Args:
        names: name -> where it stands first.
    """
    for name, where in names.items():
        plain = name.translate(_READ_AS)
        if plain != name and plain in names:
            raise PlanError(
                f"{where} has the name {name!r} ({name!a}), and the plan has {plain!r} as well, which it may be read "
                "for: rename one of them"
            )
