"""The few lines that IPython and Jupyter show of an error of fedjob: the user's own line, and the sentence.

IPython asks an exception that has a method `_render_traceback_` for its lines. So nothing is registered or patched, and
errors of others are shown as ever. The whole traceback comes by `%tb`, by `%xmode Verbose`, or always, with
`FEDJOB_TRACEBACK=full` in the environment.
"""

from __future__ import annotations

import linecache
import os
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

VARIABLE = "FEDJOB_TRACEBACK"
"""The environment variable that asks for whole tracebacks, with the value `full`."""

PACKAGE = str(Path(__file__).resolve().parents[2]) + os.sep

_MAX_CAUSES = 3
_MAX_LAYERS = 20
_MAX_LINE = 160
_RED, _GREEN, _PLAIN = "\x1b[0;31m", "\x1b[0;32m", "\x1b[0m"


def wants_whole() -> bool:
    """Tell whether the environment asks for whole tracebacks."""
    return os.environ.get(VARIABLE, "").strip().lower() == "full"


def rendered(error: BaseException) -> list[str]:
    """Return the lines that IPython shows of an error, as its `_render_traceback_`.

    Args:
        error: being handled the first time it is shown; when `%tb` shows it again, it is not handled any more.
    """
    shell = _shell()
    is_asked_again = sys.exc_info()[1] is not error
    if shell is not None and (is_asked_again or wants_whole() or shell.InteractiveTB.mode == "Verbose"):
        whole: list[str] = shell.InteractiveTB.structured_traceback(type(error), error, error.__traceback__)
        return whole
    coloured = shell is None or str(getattr(shell, "colors", "")).lower() != "nocolor"
    return list(short_lines(error, coloured=coloured))


def short_lines(error: BaseException, *, coloured: bool = False) -> Iterator[str]:
    """Yield an error in few lines: where the user called fedjob, the sentence, its notes, what caused it.

    Args:
        coloured: with the colours of a terminal, which a notebook shows, too.
    """
    red, green, plain = (_RED, _GREEN, _PLAIN) if coloured else ("", "", "")
    own = own_frame(error)
    if own is not None:
        yield f"{green}{_place(own.filename)}, line {own.lineno}{plain}"
        yield f"{green}---->{plain} {(own.line or '').strip()[:_MAX_LINE]}"
    yield f"{red}{type(error).__name__}{plain}: {error}"
    for note in getattr(error, "__notes__", ()):
        yield _printable(str(note))
    shown = str(error)
    for cause in () if _says_the_systems_words(error) else _causes(error):
        words = _words(cause)
        if words and words not in shown:
            yield f"because of {type(cause).__name__}: {words}"
            shown += words
    yield f"(%tb shows the whole traceback; {VARIABLE}=full always does)"


def own_frame(error: BaseException) -> traceback.FrameSummary | None:
    """Return the innermost frame of an error that is neither of fedjob nor of an installed package; None for none."""
    own = None
    for frame, line in traceback.walk_tb(error.__traceback__):
        name = frame.f_code.co_filename
        if _is_users(name):
            text = linecache.getline(name, line, frame.f_globals)
            own = traceback.FrameSummary(name, line, frame.f_code.co_name, line=text, lookup_line=False)
    return own


def _is_users(filename: str) -> bool:
    if filename.startswith("<"):
        return filename.startswith("<ipython-input")
    return not filename.startswith(_others())


@cache
def _others() -> tuple[str, ...]:
    """Return the folders whose code is not the user's: this package, the standard library, installed packages."""
    kinds = ("stdlib", "platstdlib", "purelib", "platlib")
    return (PACKAGE, *(str(Path(path)) + os.sep for kind in kinds if (path := sysconfig.get_path(kind))))


def _place(filename: str) -> str:
    """Return the words for a file: the number of its cell, or its path."""
    shell = _shell()
    if shell is not None:
        kind, name = shell.compile.format_code_name(filename) or ("", "")
        if kind == "Cell":
            return f"{kind} {name}"
    path = Path(filename)
    try:
        return str(path.relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield what an error was raised from, the nearest first."""
    seen = {id(error)}
    for _ in range(_MAX_CAUSES):
        following = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if following is None or id(following) in seen:
            return
        seen.add(id(following))
        yield following
        error = following


def _says_the_systems_words(error: BaseException) -> bool:
    """Tell whether a sentence ends a chain that begins with the system's error in that error's own words.

    What stands between, such as the layers of a library for HTTP, adds nothing to it.
    """
    root, shown = error, str(error)
    for _ in range(_MAX_LAYERS):
        following = root.__cause__ or (None if root.__suppress_context__ else root.__context__)
        if following is None or following is error:
            break
        root = following
    words = root.strerror if isinstance(root, OSError) and root is not error else None
    return bool(words) and str(words) in shown


def _words(error: BaseException) -> str:
    """Return the first line of what an error says."""
    try:
        return _printable(str(error).strip().partition("\n")[0])[:_MAX_LINE]
    except Exception:  # of another's class, which may be unable to show itself
        return ""


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() or c == "\n" else " " for c in text)


def _shell() -> Any:
    """Return the running IPython shell, None outside of one; IPython is not imported for it."""
    ipython = sys.modules.get("IPython")
    return None if ipython is None else ipython.get_ipython()
