"""An output of a notebook's cell that is redrawn in place, by what every front end of Jupyter knows."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Mapping
from importlib import import_module
from typing import Any

Forms = Mapping[str, str]
"""Media type -> content: `text/plain` for front ends that show text, `text/html` for the others."""


def in_notebook() -> bool:
    """Tell whether this runs in a kernel of Jupyter, whose outputs can be redrawn; IPython is not imported for it."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and hasattr(shell, "kernel")


class LivingOutput:
    """One output below the cell that runs; each drawing takes the place of the one before, also in the saved notebook."""

    def __init__(self) -> None:
        self._id = ""

    def draw(self, forms: Forms) -> None:
        """Show forms of the same thing, in place of what was shown."""
        shows: Any = import_module("IPython.display")
        if self._id:
            shows.update_display(dict(forms), display_id=self._id, raw=True)
            return
        self._id = f"fedjob-{uuid.uuid4().hex}"
        shows.display(dict(forms), display_id=self._id, raw=True)
