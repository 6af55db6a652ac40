"""`@fedjob.function`: one function as a plan with one step.

The function still works where it was written. A job sends its text, as a plan's, and
its arguments beside it:

    import fedjob
    from fedjob import Job

    @fedjob.function
    def mean_age(dataset, column, ctx):
        return float(dataset.frame()[column].mean())

    Job(mean_age.bind(column="age"), data={"tags": ["heart"]}).run()
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, overload

from fedjob.common.checks import shown
from fedjob.common.errors import PlanError, SpecError
from fedjob.common.values import decode
from fedjob.training_plans.context import Context
from fedjob.training_plans.state.warm_plan import Warm

CONTEXT = "ctx"
"""The parameter by which a function asks for its context."""


@dataclass(frozen=True, eq=False)
class RemoteFunction:
    """A function that jobs can send to nodes, with the arguments that are bound to it.

    Its first parameter is the dataset, None for a job without data; a parameter named
    `ctx` gets the context (`emit`, `progress`, `node`, `round`, `seed`). Called, it
    just runs here.

    Args:
        function: as it was written.
        args: bound by name, plain data.
        launches: functions that it may start as child tasks, `ctx.launch(...)`.
    """

    function: types.FunctionType
    args: Mapping[str, Any] = field(default_factory=dict)
    launches: tuple[RemoteFunction, ...] = ()

    def __post_init__(self) -> None:
        self.__dict__.update({name: getattr(self.function, name) for name in functools.WRAPPER_ASSIGNMENTS})

    def bind(self, **args: Any) -> RemoteFunction:
        """Return this function with arguments for the job; those bound before stay unless named again.

        Raises:
            SpecError: it has no such parameter.
        """
        bound = {**self.args, **args}
        self.check(bound, complete=False)
        return RemoteFunction(self.function, bound, self.launches)

    def check(self, args: Mapping[str, Any], *, complete: bool = True) -> None:
        """Refuse arguments that the function can't be called with.

        Raises:
            SpecError: says what it takes.
        """
        given = dict.fromkeys([*args, *self._context_name])
        signature = inspect.signature(self.function)
        try:
            signature.bind(None, **given) if complete else signature.bind_partial(None, **given)
        except TypeError as error:
            raise SpecError(
                f"{self.function.__name__}{signature} can't be called with a dataset and "
                f"{', '.join(args) or 'no arguments'}: {error}; give arguments by name, "
                f"{self.function.__name__}.bind(name=value)"
            ) from error

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run here; `ctx`, where it is wanted and not given, stands for work outside of any job."""
        given = {**self.args, **kwargs}
        if self._context_name and CONTEXT not in given:
            bound = inspect.signature(self.function).bind_partial(*args)
            if CONTEXT not in bound.arguments:
                given[CONTEXT] = Context()
        return self.function(*args, **given)

    @property
    def _context_name(self) -> tuple[str, ...]:
        return (CONTEXT,) if CONTEXT in inspect.signature(self.function).parameters else ()

    def __repr__(self) -> str:
        bound = ", ".join(f"{name}={shown(value)}" for name, value in self.args.items())
        return f"<fedjob.function {self.function.__name__}{f' with {bound}' if bound else ''}>"


@overload
def function(definition: Callable[..., Any], /) -> RemoteFunction: ...


@overload
def function(*, launches: Sequence[Any] = ()) -> Callable[[Callable[..., Any]], RemoteFunction]: ...


def function(
    definition: Callable[..., Any] | None = None, /, *, launches: Sequence[Any] = ()
) -> RemoteFunction | Callable[[Callable[..., Any]], RemoteFunction]:
    """Make a function one that jobs can send to nodes: `@function`, or `@function(launches=[other])`.

    Args:
        launches: functions that it may start as child tasks; their text travels, and is approved, with its own.

    Raises:
        PlanError: it is no plain function, or takes no dataset as its first parameter.
    """
    if definition is None:
        children = declared(launches)
        return lambda found: replace(_remote(found), launches=children)
    return _remote(definition)


def declared(launches: Any) -> tuple[RemoteFunction, ...]:
    """Return what a plan declares under `launches`.

    Raises:
        PlanError: something in it is no @fedjob.function.
    """
    if isinstance(launches, (str, bytes)) or not isinstance(launches, Sequence):
        raise PlanError(f"launches is a list of @fedjob.function functions, not {shown(launches)}")
    for launched in launches:
        if not isinstance(launched, RemoteFunction):
            raise PlanError(f"launches is a list of @fedjob.function functions; found {shown(launched)}")
    return tuple(launches)


def _remote(definition: Callable[..., Any]) -> RemoteFunction:
    if isinstance(definition, RemoteFunction):
        return definition
    if not isinstance(definition, types.FunctionType) or inspect.iscoroutinefunction(definition):
        raise PlanError(
            "@fedjob.function is written above a plain `def name(dataset, ...)` at the top level of a file or a "
            f"notebook cell, not above {shown(definition)}"
        )
    name, parameters = definition.__name__, list(inspect.signature(definition).parameters.values())
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if not parameters or parameters[0].kind not in positional or parameters[0].name == CONTEXT:
        raise PlanError(
            f"{name}{inspect.signature(definition)} takes no dataset: the first parameter of a function gets it "
            f"(None in a job without data), so write def {name}(dataset, ...)",
            name=name,
        )
    return RemoteFunction(definition)


class FunctionPlan(Warm):
    """A function as nodes drive a plan: built, given data, called once.

    Args:
        remote: compiled from its approved text.
    """

    def __init__(self, remote: RemoteFunction) -> None:
        self.remote = remote
        self.ctx = Context()
        self.dataset: Any = None
        self.training_args: dict[str, Any] = {}
        self.timing: dict[str, float] = {}

    def build(self, model_args: Mapping[str, Any] | None, args: Mapping[str, Any] | None) -> None:
        """Check the arguments; there is no model."""
        self.remote.check(dict(args or {}))

    def load_data(self, dataset: Any) -> None:
        """Take the dataset; nothing is read before the function asks for it. Every call begins as the first."""
        self.dataset = dataset
        self._note_parts(self.remote.function)

    def start_step(self, args: Mapping[str, Any] | None) -> None:
        """Begin anew with these arguments."""
        self.training_args = dict(args or {})
        self.ctx.state = {}
        self.timing = {}

    @property
    def launches(self) -> tuple[RemoteFunction, ...]:
        """The functions that it may start as child tasks."""
        return self.remote.launches

    @property
    def num_rows(self) -> int:
        """Of the dataset; 0 without one."""
        return 0 if self.dataset is None else int(self.dataset.num_rows)

    def call(self) -> Any:
        """Call the function; whatever it raises comes through."""
        given = {name: decode(value) for name, value in self.training_args.items()}
        if self.remote._context_name:
            given[CONTEXT] = self.ctx
        return self.remote.function(self.dataset, **given)

    def set_state(self, tree: Mapping[str, Any] | None) -> None:
        """Go on from what `get_state` returned."""
        self.ctx.state = dict((tree or {}).get("ctx") or {})

    def get_state(self) -> dict[str, Any]:
        """Return what stays at this node; nothing where the function kept nothing."""
        return {"ctx": dict(self.ctx.state)} if self.ctx.state else {}

    def get_params(self) -> dict[str, Any]:
        """Return no parameters: a function has none."""
        return {}
