"""The tensors of a torch model by the names of its `state_dict`: how they are read, and set by `load_state_dict`.

A model may rename, cast, copy or gather what its `state_dict` gives, by hooks or by methods of its own. So nothing
is written into the tensors that it returns: the model loads them itself, and is asked again what it holds. Where
nothing but torch's own code would take part, they are written in place, in a fifth of the time.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch

from fedjob.common.errors import PlanError

_EXTRA_STATE = "_extra_state"


def model_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return what a model's `state_dict` gives, detached; some may share memory with the model.

    Raises:
        PlanError: something in it is no tensor, so that it can't be shared; named.
    """
    found = {}
    for name, value in model.state_dict().items():
        if isinstance(value, torch.Tensor):
            found[name] = value.detach()
        elif value is not None:
            raise PlanError(_no_tensor(name, value))
    return found


def buffer_names(model: torch.nn.Module, names: Mapping[str, object]) -> set[str]:
    """Return which of the names of a model's `state_dict` are of buffers, or of extra state, not of parameters.

    Raises:
        PlanError: the model gives its buffers under other names, so that they can't be told from parameters.
    """
    buffers = set()
    for prefix, module in model.named_modules(remove_duplicate=False):
        for name, tensor in module._buffers.items():
            if tensor is not None and name not in module._non_persistent_buffers_set:
                buffers.add(f"{prefix}.{name}" if prefix else name)
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    missing, others = sorted(buffers - set(names)), set(names) - parameters - buffers
    strange = {name for name in others if name.rpartition(".")[2] != _EXTRA_STATE}
    if missing and strange:
        raise PlanError(
            f"the model's state_dict() has {', '.join(sorted(strange)[:3])}, which is the name of no parameter and no "
            f"buffer, and lacks the buffer {missing[0]}: fedjob can't tell its buffers from its parameters; give "
            "them their own names in state_dict()"
        )
    return (buffers & set(names)) | (others - strange)


def check_parameter_names(model: torch.nn.Module) -> None:
    """Refuse a model whose `state_dict` gives its parameters other names than `named_parameters` does.

    Raises:
        PlanError: what is computed for a parameter of that name, such as its gradient, can't be told from it.
    """
    given = model.state_dict()
    renamed = [
        name for name, parameter in model.named_parameters() if parameter.requires_grad and name not in given
    ]
    if renamed:
        raise PlanError(
            f"this protocol works on gradients by name, but the model's state_dict() has no {renamed[0]}, which is a "
            "parameter of it: take another protocol, such as FedAvg, or give parameters their own names in state_dict()"
        )


def set_tensors(
    model: torch.nn.Module, values: Mapping[str, torch.Tensor], frozen: Collection[str] = ()
) -> None:
    """Have a model load some of the tensors of its `state_dict`, and check that they are there afterwards.

    Args:
        values: with the shapes and dtypes that `model_tensors` gives.
        frozen: names of tensors that the model is not given, since they may be mapped from a file.

    Raises:
        PlanError: the model refuses them, or holds something else afterwards.
    """
    if not values:
        return
    with torch.no_grad():
        if _copied_in_place(_plain_tensors(model), values):
            return
        own = model.state_dict()
        state = {**{name: value for name, value in own.items() if name not in frozen}, **values}
        try:
            if frozen:
                model.load_state_dict(state, strict=False)
            else:
                model.load_state_dict(state)
        except Exception as error:  # a method or a hook of the user's may raise anything
            raise PlanError(
                f"the model's load_state_dict() does not take what its state_dict() gave: "
                f"{type(error).__name__}: {error}"
            ) from error
        held = model_tensors(model)
        dtypes = {tensor.dtype for tensor in (*model.parameters(), *model.buffers())}
        for name, value in values.items():
            found = held.get(name)
            if found is None or not _is_held(value, found, dtypes):
                raise PlanError(_not_set(model, name, found))


_KINDS = (torch.nn.Parameter, torch.Tensor)
_OWN_METHODS = (
    "state_dict",
    "load_state_dict",
    "_save_to_state_dict",
    "_load_from_state_dict",
    "get_extra_state",
)
_HOOKS = (
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)
_OF_TORCH = {
    name: {getattr(torch.nn.Module, name), getattr(torch.nn.modules.batchnorm._NormBase, name)}
    for name in _OWN_METHODS
}
"""The methods that do nothing but read and copy tensors; batch normalisation's fill in what old files lack."""


def _plain_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor] | None:
    """Return the tensors of a model's `state_dict`, in its order, as the model holds them.

    None where code that is not torch's takes part, such as a hook, or where a tensor is of a kind of its own.
    """
    found: dict[str, torch.Tensor] = {}
    return found if _add_plain(model, "", found) else None


def _add_plain(module: torch.nn.Module, prefix: str, found: dict[str, torch.Tensor]) -> bool:
    """Add the tensors of a module and those below it; tell whether all of it is torch's own."""
    kind, own = type(module), module.__dict__
    for name, known in _OF_TORCH.items():
        if getattr(kind, name) not in known or name in own:
            return False
    if any(own.get(hooks) for hooks in _HOOKS) or type(own["_parameters"]) is not dict:
        return False
    transient = own["_non_persistent_buffers_set"]
    lasting = {name: tensor for name, tensor in own["_buffers"].items() if name not in transient}
    for name, tensor in {**own["_parameters"], **lasting}.items():
        if tensor is None:
            continue
        if type(tensor) not in _KINDS or tensor.layout != torch.strided:
            return False
        found[prefix + name] = tensor
    return all(
        _add_plain(child, f"{prefix}{name}.", found)
        for name, child in own["_modules"].items()
        if child is not None
    )


def _copied_in_place(own: Mapping[str, torch.Tensor] | None, values: Mapping[str, torch.Tensor]) -> bool:
    """Copy values into a model's tensors, where each is held for certain afterwards; tell whether they were.

    Args:
        own: of `_plain_tensors`.
    """
    if own is None or not values.keys() <= own.keys():
        return False
    pairs = [(own[name], value) for name, value in values.items()]
    places = {tensor.untyped_storage().data_ptr() for tensor in own.values() if tensor.numel()}
    if len(places) != sum(tensor.numel() > 0 for tensor in own.values()):
        return False  # two names for one memory, which can hold but one value
    for tensor, value in pairs:
        fits = tensor.shape == value.shape and tensor.dtype == value.dtype and not tensor.is_meta
        if not (fits and type(value) in _KINDS and value.layout == torch.strided):
            return False
    try:
        for tensor, value in pairs:
            tensor.copy_(value)
    except RuntimeError:  # such as a tensor whose places share memory: the model itself says what it takes
        return False
    return True


def _is_held(value: torch.Tensor, found: torch.Tensor, dtypes: set[torch.dtype]) -> bool:
    """Return whether a model holds a value, as precisely as one of its dtypes can."""
    value = value.to(found.device)
    if _same(value, found):
        return True
    if not value.is_floating_point():
        return False
    return any(_same(value.to(dtype).to(value.dtype), found) for dtype in dtypes if dtype.is_floating_point)


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if torch.equal(a, b):
        return True
    return a.is_floating_point() and torch.allclose(a, b, rtol=0, atol=0, equal_nan=True)


def _not_set(model: torch.nn.Module, name: str, found: torch.Tensor | None) -> str:
    if found is None:
        return f"after load_state_dict() the model's state_dict() has no {name} any more"
    tied = _tied_to(model, name)
    if tied:
        return f"{name} and {tied} are one tensor in the model, but two different values were given for it"
    return (
        f"{name} was given to the model by load_state_dict(), but its state_dict() gives another value afterwards: one "
        "of the two, or a hook of theirs, changes it; what state_dict() gives must load as it is"
    )


def _tied_to(model: torch.nn.Module, name: str) -> str:
    named = dict(model.named_parameters(remove_duplicate=False))
    own = named.get(name)
    return next((other for other, tensor in named.items() if tensor is own and other != name), "")


def _no_tensor(name: str, value: object) -> str:
    kind = type(value).__name__
    if name.rpartition(".")[2] == _EXTRA_STATE:
        layer = name.rpartition(".")[0] or "the model itself"
        return (
            f"get_extra_state() of {layer} gives a {kind}, which can't be shared: give a tensor of numbers, which is "
            "averaged as buffers are, or keep it in self.ctx.state"
        )
    return (
        f"the model's state_dict() has {name}, a {kind}: only tensors can be shared; leave it out, or keep it in "
        "self.ctx.state"
    )
