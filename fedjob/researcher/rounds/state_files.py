"""The files of a protocol's tensors, written once: breakpoints link them and the next tasks send them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fedjob.common.files import link_or_copy
from fedjob.common.types import Ref
from fedjob.parameters.files import FileParams, is_params, save_params
from fedjob.protocols.base import State


def unpublished(state: State) -> State:
    """Return the state that an attempt begins with: what an attempt before has published of it was taken back at its end."""
    return {
        key: FileParams(value.path) if isinstance(value, FileParams) else value
        for key, value in state.items()
    }


def spool_state(state: State, spool: Path, moved: Callable[[Ref, Path], None], *, saved: bool) -> State:
    """Return the state of a completed round with its parameters in a file of this round's spool.

    Args:
        state: sets that lie in the spool of a round before are linked: that spool goes.
        spool: an existing folder, beside those of other rounds.
        moved: takes note that tasks get the file of what they name from another path from now on.
        saved: a breakpoint is about to link the files: every other set of named tensors gets one too. It makes them
            durable; until then the breakpoint before and the journal give them again.
    """
    spooled = dict(state)
    for key, value in state.items():
        path = spool / f"state_{key}.safetensors"
        if isinstance(value, FileParams):
            if value.path.parent != spool and value.path.parent.parent == spool.parent:
                path.unlink(missing_ok=True)
                link_or_copy(value.path, path)
                spooled[key] = FileParams(path, value.ref)
                if value.ref is not None:
                    moved(value.ref, path)
        # a dict lies in memory already; any other map may be computed from files that go with their round
        elif is_params(value) and (saved or key == "params" or not isinstance(value, dict)):
            path.unlink(missing_ok=True)  # of an earlier try at this round
            save_params(value, path, durable=False)
            spooled[key] = FileParams(path)
    return spooled
