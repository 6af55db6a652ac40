"""The interface of estimators whose parameters exist before a fit and can be combined over nodes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from fedjob.parameters.tensor_kinds import NUM_EXAMPLES

Array = np.ndarray[Any, Any]


class Fitted(ABC):
    """An estimator whose parameters exist.

    Args:
        estimator: as the user made it.
        num_features: columns of the inputs.
        classes: labels in ascending order, None for a regressor.
    """

    def __init__(self, estimator: Any, num_features: int, classes: Array | None) -> None:
        self.estimator, self.num_features, self.classes = estimator, num_features, classes

    exact: ClassVar[bool] = False
    """True if its parameters are sums over examples, so that one update takes all of a node's rows."""

    @property
    def is_prepared(self) -> bool:
        """True if it knows what it needs of all nodes before it can be trained."""
        return True

    @abstractmethod
    def allocate(self) -> None:
        """Make the first parameters."""

    @abstractmethod
    def arrays(self) -> dict[str, Array]:
        """Return the parameters by name; writing into them changes the estimator."""

    def refresh(self) -> None:
        """Make the estimator what the parameters say, after they were written into."""
        return

    def forget(self) -> None:
        """Be as before the first update, apart from the parameters."""
        return

    def memory(self) -> dict[str, Any]:
        """Return what the next update depends on beside the parameters; arrays included."""
        return {}

    def recall(self, memory: Mapping[str, Any]) -> None:
        """Go on from what `memory` returned.

        Raises:
            ValueError: it does not fit.
        """
        return

    def settings(self) -> dict[str, Any]:
        """Return what the last update worked with, such as the learning rate, as plain data."""
        return {}

    sums_by_class: ClassVar[bool] = False
    """True if its parameters are sums over the rows of each class."""

    def point(self) -> list[list[float]]:
        """Return the coefficients of the inputs, the constant last, at which an update sums; empty for none."""
        return []

    def weights_at(self, point: list[list[float]], inputs: Array, targets: Array) -> list[Array]:
        """Return the weights of all rows in the sums of an update at a point."""
        return []

    @abstractmethod
    def loss(self, inputs: Array, targets: Array) -> float:
        """Return the mean loss, without the penalty, of the estimator as it is."""

    def update(self, inputs: Array, targets: Array) -> None:
        """Fit a batch once; of an exact estimator, all rows.

        Raises:
            ValueError: the estimator refuses them.
        """
        self.estimator.partial_fit(inputs, targets)


class Exact(Fitted):
    """An estimator that is computed from sums over the examples of all nodes.

    Its parameters are those sums divided by the number of examples, so the mean over
    nodes, weighted by their examples, is that of all examples together. `NUM_EXAMPLES`
    is their number, 0 before the first round; the protocol writes the sum of all nodes.
    """

    exact = True
    _arrays: dict[str, Array]

    def arrays(self) -> dict[str, Array]:
        return self._arrays

    def allocate(self) -> None:
        self._arrays = {**self.zeros(), NUM_EXAMPLES: np.zeros(())}
        self.refresh()

    @property
    def num_examples(self) -> float:
        """The examples that the sums are of."""
        return float(self._arrays[NUM_EXAMPLES])

    @abstractmethod
    def zeros(self) -> dict[str, Array]:
        """Return the parameters before the first round."""

    @abstractmethod
    def means(self, inputs: Array, targets: Array) -> dict[str, Array]:
        """Return the parameters that some rows give."""

    def update(self, inputs: Array, targets: Array) -> None:
        found = {**self.means(inputs, targets), NUM_EXAMPLES: np.float64(len(inputs))}
        for name, array in self._arrays.items():
            array[...] = found[name]
        self.refresh()
