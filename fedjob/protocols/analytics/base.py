"""The base of protocols that fit a model to the rows of a table without stochastic training.

There are three kinds of asks. First, where there are categories, nodes report theirs, so that all have the same
terms, even for a category that occurs at one node only. Then nodes report counts, sums and sums of squares of the
complete rows, by which terms are centred and scaled. Then follow the asks of the model itself.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeVar

from fedjob.aggregation.contribution import Contribution
from fedjob.aggregation.sum import Sum
from fedjob.common.checks import check_kinds, shown
from fedjob.common.errors import SpecError
from fedjob.privacy.releases import Floats
from fedjob.protocols.analytics.design import (
    INTERCEPT,
    Design,
    all_levels,
    complete_rows,
    far_means,
    released_levels,
    scaled,
    sums_of,
)
from fedjob.protocols.analytics.table import AuditedTable, check_names, opened_table
from fedjob.protocols.analytics.tables import COVERAGE, coverage_table
from fedjob.protocols.answer_form import AnswerForm, Count, Numbers, Record, TableOf
from fedjob.protocols.base import (
    ANY,
    NUMBERS,
    Ask,
    Done,
    FederatedProtocol,
    Gathered,
    Instruction,
    Local,
    State,
    View,
)
from fedjob.protocols.step_inputs import PLAIN

LEVELS, SUMS = "levels", "sums"

OVERALL = "all"
"""The name of all nodes together, where only sums over them are known."""

T = TypeVar("T")

COVERAGE_FORM = Record({"read": Count(), "kept": Count(), "used": Count()}, optional=("kept",))
"""The form of `AuditedTable.coverage`."""


class ModelProtocol(FederatedProtocol):
    """A model of columns; a derived class defines the columns, the asks, and the result."""

    family: ClassVar[str] = "analytics"
    needs_plan: ClassVar[bool] = False
    wants_every_node: ClassVar[bool] = True

    # --- a derived class overrides these -----------------------------------------------------

    sends: ClassVar[tuple[str, ...]] = ()
    """Names of the values that `ask` returns."""

    @property
    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """The explaining columns."""

    @property
    def categories(self) -> tuple[str, ...]:
        """The explaining columns that are categories."""
        return ()

    @property
    def outcomes(self) -> tuple[str, ...]:
        """The further columns of numbers that it needs, such as the target."""
        return ()

    @property
    def with_intercept(self) -> bool:
        """True if a column of ones comes first."""
        return False

    @property
    def centred(self) -> bool:
        """True if the terms may be centred, because that changes nothing but an intercept."""
        return self.with_intercept

    @property
    def releases_products(self) -> bool:
        """True if nodes release products of its columns, or numbers from which these follow."""
        return True

    @property
    def needed_columns(self) -> Mapping[str, str]:
        kinds = {name: ANY if name in self.categories else NUMBERS for name in self.columns}
        return kinds | dict.fromkeys(self.outcomes, NUMBERS)

    @abstractmethod
    def begin(self, design: Design, sums: Mapping[str, Any]) -> State:
        """Return the model's first state, once the terms, means and scales are known."""

    @abstractmethod
    def ask(self, model: State) -> tuple[str, dict[str, Any], bool] | None:
        """Return the next step, its values, and whether it is the last; None when the model is done."""

    @abstractmethod
    def answer_form(self, model: State, design: Design) -> AnswerForm:
        """Return the form of what `answer` returns for the model's next ask."""

    @abstractmethod
    def advance(self, model: State, design: Design, total: Mapping[str, Any]) -> State:
        """Return the model's next state, from the sums of all nodes."""

    @abstractmethod
    def result(self, model: State, design: Design) -> dict[str, Any]:
        """Return the job's result."""

    @abstractmethod
    def answer(
        self, instruction: Instruction, design: Design, values: Floats, others: Floats, table: AuditedTable
    ) -> dict[str, Any]:
        """Compute a node's sums.

        Args:
            values: of the complete rows, one column for each term, neither centred nor scaled.
            others: their outcomes.
        """

    # --- researcher --------------------------------------------------------------------------

    @property
    def needs_single(self) -> str:
        return ""

    def start(self, params: Mapping[str, Any]) -> State:
        return {
            "levels": None if self.categories else {},
            "about": None,
            "sums": None,
            "model": {},
            "nodes": {},
            "coverage": {},
        }

    def inputs_of(self, step: str) -> Mapping[str, str]:
        of_step = {LEVELS: (), SUMS: ("levels", "about")}
        return dict.fromkeys(of_step.get(step, ("levels", "means", "scales", *self.sends)), PLAIN)

    def instruct(self, state: State, view: View) -> Ask | Done:
        to = tuple(state["nodes"]) or None
        if state["levels"] is None:
            levels = Record({name: TableOf(Count()) for name in self.categories})
            return Ask(step=LEVELS, to=to, aggregator=Sum(), commit=False, schema={}, answer=levels)
        shared = {"levels": state["levels"]}
        if state["sums"] is None:
            if state["about"] is not None:
                shared["about"] = state["about"]
            return Ask(
                step=SUMS,
                shared=shared,
                to=to,
                aggregator=Sum(),
                commit=False,
                schema={},
                answer=self._sums_form(state["levels"]),
            )
        design = self._design(state)
        wanted = self.ask(state["model"])
        if wanted is None:
            found = self.result(state["model"], design)
            return Done({**found, "nodes": dict(state["nodes"]), COVERAGE: coverage_table(state["coverage"])})
        step, values, last = wanted
        shared |= {"means": list(design.means), "scales": list(design.scales), **values}
        return Ask(
            step=step,
            shared=shared,
            to=to,
            aggregator=Sum(),
            commit=last,
            schema={},
            answer=self.answer_form(state["model"], design),
        )

    def finish(self, state: State, gathered: Gathered) -> State:
        if lost_of(state["nodes"], gathered):
            return {**self.start({}), "nodes": dict.fromkeys(gathered.replies, 0)}
        total = gathered.total.value
        if state["levels"] is None:
            nodes: dict[str, Any] = dict.fromkeys(gathered.replies, 0)
            return {**state, "nodes": nodes, "levels": all_levels(total, self.categories)}
        if state["sums"] is None:
            nodes = {
                node: None if reply.value is None else int(reply.value["count"])
                for node, reply in gathered.replies.items()
            }
            coverage = coverage_of(gathered)
            state = {**state, "nodes": nodes, "coverage": coverage}
            if state["about"] is None and self.centred and (means := far_means(total)):
                return {**state, "about": means}
            state = {**state, "sums": {**total, "about": state["about"]}}
            return {**state, "model": self.begin(self._design(state), total)}
        design = self._design(state)
        return {**state, "model": self.advance(state["model"], design, total)}

    def _sums_form(self, levels: Mapping[str, Any]) -> AnswerForm:
        width = (len(Design(self.columns, levels, intercept=self.with_intercept).terms),)
        return Record(
            {"count": Count(), "linear": Numbers(width), "squares": Numbers(width), "coverage": COVERAGE_FORM}
        )

    def _design(self, state: State) -> Design:
        design = Design(self.columns, state["levels"], intercept=self.with_intercept)
        return scaled(design, state["sums"], centred=self.centred)

    # --- node --------------------------------------------------------------------------------

    def contribute(self, instruction: Instruction, local: Local) -> Contribution:
        with opened_table(local) as table:
            if instruction.step == LEVELS:
                levels = released_levels(table, self.categories)
                return Contribution(levels, float(max(sum(counts.values()) for counts in levels.values())))
            values = instruction.values
            design = Design(
                self.columns,
                values["levels"],
                values.get("means", ()),
                values.get("scales", ()),
                self.with_intercept,
            )
            used, terms, others = complete_rows(table, design, self.outcomes, products=self.releases_products)
            if instruction.step == SUMS:
                self.check_outcomes(table, others)
                sums = {**sums_of(terms, values.get("about")), "coverage": table.coverage(len(used))}
            else:
                sums = self.answer(instruction, design, terms, others, replace(table, used=used))
            return Contribution(sums, float(len(used)))

    def check_outcomes(self, table: AuditedTable, others: Floats) -> None:
        """Check that the model can be fitted to these outcomes.

        Raises:
            NodeFailure: with reason `columns`: it can't.
        """
        return


@dataclass(frozen=True, slots=True, kw_only=True)
class Regression(ModelProtocol):
    """A model that explains outcomes by features.

    Args:
        features: the explaining columns.
        categorical: the features that are categories; the first category, in order, is the reference.

    Raises:
        SpecError: there are no features, the outcome is one of them, or `categorical` names another column.
    """

    features: tuple[str, ...]
    categorical: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_kinds(self)
        object.__setattr__(self, "features", check_names("features", self.features, least=1))
        object.__setattr__(self, "categorical", check_names("categorical", self.categorical))
        outcomes = check_names("the outcome", list(self.outcomes), least=1)
        if both := sorted(set(outcomes) & set(self.features)):
            raise SpecError(f"{shown(both[0])} can't be explained by itself: leave it out of features")
        if odd := sorted(set(self.categorical) - set(self.features)):
            raise SpecError(f"categorical names {shown(odd[0])}, which is not one of the features")

    @property
    def columns(self) -> tuple[str, ...]:
        return self.features

    @property
    def categories(self) -> tuple[str, ...]:
        return self.categorical


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetRegression(Regression):
    """A regression of one column.

    Args:
        target: the explained column, of numbers.
        intercept: whether the model has an intercept.
    """

    target: str
    intercept: bool = True

    @property
    def outcomes(self) -> tuple[str, ...]:
        return (self.target,)

    @property
    def with_intercept(self) -> bool:
        return self.intercept


def names_of(design: Design) -> list[str]:
    """Return the names of all coefficients."""
    return [INTERCEPT, *design.terms] if design.intercept else design.terms


def of_each(gathered: Gathered, read: Callable[[Any], T]) -> dict[str, T]:
    """Return node -> what is read of its answer; under secure aggregation `all` -> what is read of the sum alone."""
    if all(reply.value is None for reply in gathered.replies.values()):
        return {OVERALL: read(gathered.total.value)}
    return {node: read(reply.value) for node, reply in gathered.replies.items()}


def coverage_of(gathered: Gathered) -> dict[str, dict[str, int]]:
    """Return which rows the answers are about, see `of_each`."""
    found = of_each(gathered, lambda value: dict(value["coverage"]))
    if OVERALL in found:  # some nodes may not have said it, and a sum does not tell which
        found[OVERALL].pop("kept", None)
    return found


def lost_of(nodes: Collection[str], gathered: Gathered) -> list[str]:
    """Return the nodes of the first ask that did not answer this one in a way that counts.

    Sums over different nodes do not fit together: without them everything is asked anew of those that are left, where the
    job's quorum lets it go on at all.
    """
    return sorted(set(nodes) - set(gathered.replies))
