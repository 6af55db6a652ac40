"""The items of a result by name: a dict whose errors name the nearest item."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

from fedjob.common.checks import shown
from fedjob.common.errors import NoSuchItem

_MAX_NAMED = 20


class NamedItems(dict[Any, Any]):
    """A dict of a result's items; a name that it does not have is an error with the nearest one.

    `get`, `in` and all else are those of a dict.

    Args:
        what: the result's part that it is, for errors.
    """

    def __init__(self, items: Any = (), what: str = "result.value") -> None:
        super().__init__(items)
        self._what = what

    def __missing__(self, name: Any) -> Any:
        """Raise the error about a name that is not there.

        Raises:
            NoSuchItem: names the nearest, else all, as far as they are few.
        """
        names = [key for key in self if isinstance(key, str)]
        near = get_close_matches(name, names, 1) if isinstance(name, str) else []
        listed = ", ".join(map(shown, list(self)[:_MAX_NAMED])) + (", ..." if len(self) > _MAX_NAMED else "")
        advice = f"did you mean {near[0]!r}?" if near else f"it has {listed or 'nothing'}"
        raise NoSuchItem(f"{self._what} has no {shown(name)}: {advice}")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (dict(self), self._what)
