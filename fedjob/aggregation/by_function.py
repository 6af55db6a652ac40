"""An aggregator made of a researcher's own function `(values, weights) -> total`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from fedjob.aggregation.base import Aggregator, Origin, totalled
from fedjob.common.errors import SpecError

if TYPE_CHECKING:
    from fedjob.aggregation.contribution import Contribution


@dataclass(frozen=True, slots=True)
class FunctionAggregator(Aggregator):
    """The total that a function makes of the values; weights and metrics add.

    The function is stored in the job as source text, so the registry has no name for it.

    Args:
        function: takes the values in the order of node ids (named tensors are maps, each loaded when
            it is read) and their weights; returns a total of the same names, dtypes and shapes.
        called: the function's name, for errors.
    """

    function: Callable[[list[Any], list[float]], Any]
    called: str
    name: ClassVar[str] = "function"

    def aggregate(self, contributions: Sequence[Contribution], origin: Origin | None = None) -> Contribution:
        values = [c.value for c in contributions]
        if values[0] is None:
            return totalled(None, contributions)
        total = self.function(values, [c.weight for c in contributions])
        self._check(total, values[0])
        return totalled(total, contributions)

    def _check(self, total: Any, like: Any) -> None:
        from fedjob.aggregation.guard import not_finite
        from fedjob.parameters.files import is_params, schema_of

        if not is_params(like):
            return
        if not isinstance(total, Mapping) or not is_params(total) or schema_of(total) != schema_of(like):
            raise SpecError(
                f"aggregator {self.called} has to return a map with the same tensors that it was given, "
                "of the same names, dtypes and shapes"
            )
        if problem := not_finite(total):
            raise SpecError(f"aggregator {self.called}: {problem}")
