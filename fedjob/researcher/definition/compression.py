"""The checks of what a job can have compressed, before anything of it is on disk."""

from __future__ import annotations

from fedjob.common.errors import SpecError
from fedjob.parameters.compression.top_k import TopK
from fedjob.parameters.files import FileParams
from fedjob.protocols.base import FederatedProtocol
from fedjob.protocols.own import inner_of
from fedjob.protocols.training.base import TrainingProtocol
from fedjob.researcher.storage.spec import JobSpec

_FLOATS = ("F64", "F32", "F16", "BF16")


def check_compressed(spec: JobSpec, protocol: FederatedProtocol) -> None:
    """Refuse a compression that a job can't have.

    Raises:
        SpecError: it names what stands against it, and what to do instead.
    """
    if spec.compress is None:
        return
    inner = inner_of(protocol)
    if not isinstance(inner, TrainingProtocol):
        raise SpecError(
            f"compress is for the parameters of a training, and {protocol.name} trains none: leave compress out"
        )
    if inner.answers_late:
        raise SpecError(
            f"{protocol.name} takes answers of earlier rounds, and a compressed answer counts from the parameters of its "
            "own round: leave compress out, or use another protocol"
        )
    if spec.compress.name == TopK.name and inner.answers_factors:
        raise SpecError(
            f"{protocol.name} is answered by the factors of adapters, which are no changes, so that most of them can't be "
            "left out: use Int8(), 'bf16' or 'fp16'"
        )
    if "secagg" in spec.protect:
        _check_masked(spec.compress.name)


def _check_masked(name: str) -> None:
    why = (
        "the places of one node's largest changes would tell what it learnt, and those of other nodes are elsewhere, so that "
        "their sum has no such places"
        if name == TopK.name
        else "what leaves a node is whole numbers with a mask on them, which look drawn at random and can't be made smaller"
    )
    raise SpecError(
        f"compress={name!r} can't go with protect=Protect(secagg=True): {why}: leave compress out, and give "
        "SecAgg(bits=16), which halves what nodes send"
    )


def check_something(spec: JobSpec, params: FileParams) -> None:
    """Refuse to compress parameters of which none is a floating-point number.

    Raises:
        SpecError: all are whole numbers.
    """
    if (
        spec.compress is not None
        and params
        and not any(kind in _FLOATS for kind, _ in params.schema.values())
    ):
        kinds = ", ".join(sorted({kind for kind, _ in params.schema.values()}))
        raise SpecError(
            f"compress is for floating-point parameters; all of this plan's are whole numbers ({kinds}), which travel as "
            "they are: leave compress out"
        )
