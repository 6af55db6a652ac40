"""Settings that can't be met, found before a job starts: too few nodes, or nothing to choose nodes by."""

from __future__ import annotations

from fedjob.common.errors import SpecError
from fedjob.common.folds.base import check_nodes
from fedjob.common.protocols.base import FederatedProtocol
from fedjob.common.protocols.training import TrainingProtocol
from fedjob.researcher.components import fold_of, selector_of
from fedjob.researcher.spec import JobSpec


def check_enough(spec: JobSpec, num_nodes: int, found: str) -> None:
    """Refuse settings of a fold or a selector that need more nodes than a job can have.

    Args:
        found: says which nodes were counted.

    Raises:
        SpecError: they do.
    """
    if (fold := fold_of(spec.fold)) is not None:
        check_nodes(fold, num_nodes, found)
    selector = selector_of(spec.selector)
    if num_nodes < selector.min_nodes:
        raise SpecError(f"{selector!r} needs {selector.min_nodes} nodes or more, but {found}")


def check_selector(spec: JobSpec, protocol: FederatedProtocol) -> None:
    """Refuse a selector that asks for losses where nothing is trained.

    Raises:
        SpecError: it does.
    """
    if selector_of(spec.selector).asks_losses and not isinstance(protocol, TrainingProtocol):
        raise SpecError(
            f"{spec.selector.name} goes by the losses of a model, and {protocol.name} trains none: choose another selector"
        )
