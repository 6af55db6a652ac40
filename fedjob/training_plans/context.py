"""The context of a training plan: what it knows of the work that it is part of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from fedjob.common.checks import shown
from fedjob.common.errors import PlanError
from fedjob.parameters.model_files import ModelFile, open_model

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from fedjob.data.row_limit import RowLimit
    from fedjob.training_plans.private.training import PrivateTraining
    from fedjob.training_plans.together.stacked import NodeTraining


def _ignore(type_: str, body: dict[str, Any]) -> None:
    """Take an event that nobody listens to."""


class StartedChild(Protocol):
    """A child task that was started."""

    def wait(self) -> Any:
        """Wait for its end, and return what its function returned."""


class ChildStarter(Protocol):
    """The starter of a plan's child tasks, which `ctx.launch` calls."""

    def launch(self, function: Any, /, **args: Any) -> StartedChild:
        """Start a function of the plan as a child task."""


@dataclass
class Context:
    """The context that a plan computes in, `self.ctx`: node, round, seeds and state.

    Args:
        node: the name of the node that computes.
        round: counted from 1; 0 outside of a round.
        job_seed: the job's own; it decides the first parameters and the test split.
        seed: of (job, round, node); it decides shuffling, dropout and augmentation.
        device: where the plan computes, `cpu` or `cuda`; set by the plan.
        gpu_share: of the memory of a GPU that the plan may have where it asks for one with `use_gpu`; 0 for no GPU.
        state: kept at this node from round to round: a dictionary of numbers,
            strings, bytes, None, tensors, and lists and dictionaries of them.
        send: `send(type, body)` takes what `emit` is given on its way to the researcher.
        props: the job's free properties.
        launcher: what `launch` goes through; None where no task is computed.
        rows: the owner's minimum of rows, and the record of what was released; None where there is no minimum.
        private: the terms of differential privacy that a training keeps; None for none.
        models: name -> file of parameters that this side has; see `model`.
        together: trains the nodes of a simulation at once, see `together/stacked.py`: given a node's training, it returns
            the examples and the loss of each update; None for each node by itself.
        frozen: the file of the model's frozen parameters, see `parameters/frozen.py`; None where all parameters travel.
    """

    node: str = "local"
    round: int = 0
    job_seed: int = 0
    seed: int = 0
    device: str = "cpu"
    gpu_share: float = 1.0
    state: dict[str, Any] = field(default_factory=dict)
    send: Callable[[str, dict[str, Any]], None] = _ignore
    props: Mapping[str, Any] = field(default_factory=dict)
    launcher: ChildStarter | None = None
    rows: RowLimit | None = field(default=None, repr=False)
    private: PrivateTraining | None = field(default=None, repr=False)
    models: Mapping[str, ModelFile] = field(default_factory=dict, repr=False)
    frozen: Path | None = field(default=None, repr=False)
    together: Callable[[NodeTraining], Iterable[tuple[int, float]]] | None = field(default=None, repr=False)
    opened: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict, repr=False)

    def model(self, name: str, /, *, sha256: str | None = None) -> dict[str, torch.Tensor]:
        """Return the parameters of a model that this side has as a file, by name.

        They are mapped into memory, so that `load_state_dict(..., assign=True)` reads what is used of them and no
        more. At a node it is the file that its owner registered, `fedjob node model add NAME PATH`; at the researcher
        that of `Job(models={NAME: path})`. The hashes of both are the same, or the job does not begin.

        Args:
            sha256: of the file, 64 hex digits, to require this very one; None for that of `Job(models=...)`.

        Raises:
            PlanError: there is no such model at this side, or it has another hash.
        """
        file = self.models.get(name)
        if file is None or not file.path:
            there = ", ".join(sorted(one for one in self.models if self.models[one].path)) or "none"
            raise PlanError(
                f"the plan asks for the model {shown(name)}, and the job's models here are {there}: name its file with "
                f"Job(models={{{name!r}: path}})"
            )
        if sha256 is not None and sha256.lower() != file.sha256:
            raise PlanError(
                f"model {shown(name)}: the plan asks for the file with sha256 {sha256[:16]}..., and the job's has "
                f"{file.sha256[:16]}...: it is another model"
            )
        if name not in self.opened:
            self.opened[name] = open_model(file)
        return dict(self.opened[name])

    def emit(self, type_: str, body: Mapping[str, Any] | None = None, /, **fields: Any) -> None:
        """Send an event to whoever follows the job: `ctx.emit("found", site=3, rows=[1, 2])`.

        Args:
            type_: `metrics` (its numbers are drawn as curves), `result`, `checkpoint`, or a word of your own.
            body: fields as a map, beside those given by name; plain data, 16 KiB in all.
        """
        self.send(type_, {**(body or {}), **fields})

    def progress(self, done: float, total: float) -> None:
        """Say how far this work is."""
        self.emit("progress", {"done": done, "total": total})

    def launch(self, function: Any, /, **args: Any) -> StartedChild:
        """Start a function of the plan's `launches` as a child task at this node; see `training_plans/child_tasks.py`.

        Returns:
            A child: `child.wait()` returns what the function returned; given to another launch as an
            argument, it stands for that value.

        Raises:
            PlanError: the function was not declared, or no task is being computed.
        """
        if self.launcher is None:
            raise PlanError("ctx.launch works while a node computes a task, not here")
        return self.launcher.launch(function, **args)
