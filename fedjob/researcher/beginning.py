"""Where a job begins: the parameters of its first round, or a breakpoint to go on from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedjob.common.codec import to_plain
from fedjob.common.durable import link_or_copy
from fedjob.common.errors import BreakpointMissing, SpecError
from fedjob.common.params import FileParams, save_params, schema_of
from fedjob.common.protocols import PROTOCOLS
from fedjob.researcher.breakpoints import Breakpoint, load_breakpoint, newest_valid
from fedjob.researcher.folder import JobFolder
from fedjob.researcher.position import Position, first_position
from fedjob.researcher.results import JobResult
from fedjob.researcher.spec import JobSpec, load_spec

if TYPE_CHECKING:
    from fedjob.common.plans.base import TrainingPlan


def first_params(init: Any, plan: TrainingPlan) -> Mapping[str, Any]:
    """Return the parameters that a job starts from.

    Raises:
        SpecError: `init` is of no known form, or does not fit the plan's model.
    """
    own = {} if plan is None else plan.get_params()
    if init is None:
        return own
    if isinstance(init, JobResult):
        init = init.params
    if isinstance(init, (str, Path)):
        path = Path(init).expanduser()
        if not path.is_file():
            raise SpecError(f"init={str(init)!r}: there is no such file; expected a safetensors file")
        init = FileParams(path)
    if not isinstance(init, Mapping):
        raise SpecError(
            f"init is named tensors, a safetensors file or a job's result, not a {type(init).__name__}"
        )
    import torch

    given = {str(name): torch.as_tensor(value) for name, value in init.items()}
    if schema_of(given) != schema_of(own):
        wanted, got = dict(schema_of(own)), dict(schema_of(given))
        odd = next((n for n in [*wanted, *got] if wanted.get(n) != got.get(n)), "")
        raise SpecError(
            f"init does not fit the plan's model: {odd or 'it'} is {got.get(odd, 'missing')}, "
            f"expected {wanted.get(odd, 'nothing of that name')}"
        )
    return given


def write_first(params: Mapping[str, Any], plan: object, path: Path) -> None:
    """Write a job's first parameters, and what kinds they are of, to a new file."""
    from fedjob.common.plans.base import TrainingPlan

    save_params(params, path, plan.kinds().metadata() if isinstance(plan, TrainingPlan) else None)


def check_first(spec: JobSpec, path: Path) -> None:
    """See to it that a job's protocol can begin with its first parameters.

    Raises:
        SpecError: it can't.
    """
    PROTOCOLS.build(spec.protocol.name, spec.protocol.config).check(FileParams(path))


def find_breakpoint(path: Path) -> Breakpoint:
    """Return the breakpoint at `path`; for a job's folder the newest one, or the job's beginning."""
    folder = JobFolder(path)
    if not folder.breakpoints.is_dir():
        return load_breakpoint(path)
    newest = newest_valid(folder.breakpoints)
    if newest is not None:
        return load_breakpoint(newest)
    spec = load_spec(folder.spec)
    if not spec.datasets or not folder.initial_params.exists():
        raise BreakpointMissing(f"job {spec.id} was cut before it knew its nodes: make the job anew")
    protocol = PROTOCOLS.build(spec.protocol.name, spec.protocol.config)
    first = FileParams(folder.initial_params)
    return Breakpoint(
        path=folder.breakpoint(0),
        position=first_position(spec, protocol.start(first)),
        spec=to_plain(spec),
        plan_text=folder.plan.read_bytes().decode(),
        extras={},
    )


def adopt(
    loaded: Position, position: Position, folder: JobFolder, extras: Mapping[str, Path]
) -> tuple[Position, dict[str, Path]]:
    """Link a breakpoint's tensors into the job's spool, so that dropping the breakpoint leaves them."""
    spool = folder.make_spool(loaded.round)

    def link(name: str, source: Path) -> Path:
        target = spool / f"resumed_{name}"
        target.unlink(missing_ok=True)
        link_or_copy(source, target)
        return target

    state = {
        key: FileParams(link(f"{key}.safetensors", value.path)) if isinstance(value, FileParams) else value
        for key, value in position.state.items()
    }
    return replace(position, state=state), {name: link(name, path) for name, path in extras.items()}
