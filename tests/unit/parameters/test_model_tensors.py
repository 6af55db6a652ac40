"""Parameters are given to a model by `load_state_dict`, and are there afterwards, whatever its state_dict does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from fedjob.common.errors import PlanError
from fedjob.parameters.model_tensors import buffer_names, check_parameter_names, model_tensors, set_tensors


def shifted(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return other values of the right shapes and dtypes."""
    return {
        name: tensor + 1 if tensor.is_floating_point() else tensor.clone()
        for name, tensor in model_tensors(model).items()
    }


def holds(model: nn.Module, values: dict[str, torch.Tensor]) -> bool:
    held = model_tensors(model)
    return held.keys() == values.keys() and all(torch.equal(held[name], values[name]) for name in values)


class Copies(nn.Linear):
    def __init__(self) -> None:
        super().__init__(2, 2)
        self._register_state_dict_hook(
            lambda module, state, *rest: {name: tensor.detach().clone() for name, tensor in state.items()}
        )


class Own(nn.Module):
    """Methods of its own, without the arguments that torch's have."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def state_dict(self) -> Any:  # type: ignore[override]
        return {"w": self.layer.weight.detach().clone(), "b": self.layer.bias.detach().clone()}

    def load_state_dict(self, state: Any) -> None:  # type: ignore[override]
        with torch.no_grad():
            self.layer.weight.copy_(state["w"])
            self.layer.bias.copy_(state["b"])


class Wrapped(nn.Module):
    """A hook strips the prefix of a wrapper, and another puts it back, as compiled models do."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
        self._register_state_dict_hook(
            lambda module, state, *rest: {k.removeprefix("inner."): v for k, v in state.items()}
        )
        self._register_load_state_dict_pre_hook(self._add_prefix)

    def _add_prefix(self, state: Any, *rest: Any) -> None:
        for name in list(state):
            state[f"inner.{name}"] = state.pop(name)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
        self.two.weight = self.one.weight


class Extra(nn.Linear):
    extra: Any = torch.zeros(3)

    def get_extra_state(self) -> Any:
        return self.extra

    def set_extra_state(self, state: Any) -> None:
        self.extra = state.clone() if isinstance(state, torch.Tensor) else state


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1)),
        Copies,
        Own,
        lambda: nn.Sequential(weight_norm(nn.Linear(2, 2))),
        lambda: Extra(2, 2),
    ],
    ids=["plain", "copies", "own methods", "parametrized", "extra state"],
)
def test_what_is_set_is_there(make: Any) -> None:
    model = make()
    values = shifted(model)
    before = {name: tensor.clone() for name, tensor in model_tensors(model).items()}
    set_tensors(model, values)
    assert holds(model, values)
    set_tensors(model, before)
    assert holds(model, before)
    name = next(iter(values))
    set_tensors(model, {name: values[name]})
    assert holds(model, {**before, name: values[name]})


def test_a_parametrized_layer_computes_with_what_was_set() -> None:
    layer, other = weight_norm(nn.Linear(2, 2)), weight_norm(nn.Linear(2, 2))
    set_tensors(layer, model_tensors(other))
    inputs = torch.randn(3, 2)
    assert torch.equal(layer(inputs), other(inputs))


def test_a_model_that_gives_float32_of_what_it_holds_in_less_is_set_as_precisely_as_it_can_be() -> None:
    model = nn.Linear(2, 2).to(torch.bfloat16)
    model._register_state_dict_hook(lambda module, state, *rest: {k: v.float() for k, v in state.items()})
    values = {name: torch.rand_like(tensor) for name, tensor in model_tensors(model).items()}
    set_tensors(model, values)
    assert torch.equal(model.weight, values["weight"].to(torch.bfloat16))


@pytest.mark.parametrize("value", [1.5, float("nan"), float("inf")])
def test_not_a_number_is_a_value_too(value: float) -> None:
    model = nn.Linear(1, 1)
    set_tensors(model, {"weight": torch.full((1, 1), value)})
    assert torch.allclose(model.weight, torch.full((1, 1), value), equal_nan=True)


def test_tied_weights_are_one_value_under_both_names() -> None:
    model = Tied()
    value = torch.ones(2, 2)
    set_tensors(model, {"one.weight": value, "two.weight": value})
    assert model.two.weight is model.one.weight
    assert torch.equal(model.one.weight, value)
    with pytest.raises(PlanError, match=r"one\.weight and two\.weight are one tensor in the model"):
        set_tensors(model, {"one.weight": value, "two.weight": value * 2})


def test_a_model_that_does_not_load_what_it_is_given_is_refused() -> None:
    class Deaf(nn.Linear):
        def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
            return None

    class Halves(nn.Linear):
        def state_dict(self, *args: Any, **kwargs: Any) -> Any:
            return {name: tensor / 2 for name, tensor in super().state_dict(*args, **kwargs).items()}

    for model in (Deaf(2, 2), Halves(2, 2)):
        with pytest.raises(PlanError, match=r"weight was given to the model by load_state_dict\(\), but"):
            set_tensors(model, shifted(model))

    class OneWay(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(2, 2)
            self._register_state_dict_hook(
                lambda module, state, *rest: {k.removeprefix("inner."): v for k, v in state.items()}
            )

    with pytest.raises(PlanError, match=r"load_state_dict\(\) does not take what its state_dict\(\) gave"):
        set_tensors(OneWay(), shifted(OneWay()))


class TestExtraState:
    def test_a_tensor_counts_as_a_buffer(self) -> None:
        model = nn.Sequential(Extra(2, 2))
        assert buffer_names(model, model_tensors(model)) == {"0._extra_state"}

    def test_none_is_nothing(self) -> None:
        model = Extra(2, 2)
        model.extra = None
        assert set(model_tensors(model)) == {"weight", "bias"}
        set_tensors(model, shifted(model))

    @pytest.mark.parametrize("kept", [{"scale": 1.0}, 3, "text", b"bytes"])
    def test_anything_else_is_refused_by_name(self, kept: object) -> None:
        model = nn.Sequential(nn.Linear(2, 2), Extra(2, 2))
        model[1].extra = kept
        with pytest.raises(PlanError, match=rf"get_extra_state\(\) of 1 gives a {type(kept).__name__}"):
            model_tensors(model)

    def test_so_is_a_number_that_a_state_dict_of_ones_own_adds(self) -> None:
        model = nn.Linear(2, 2)
        model._register_state_dict_hook(lambda module, state, *rest: {**state, "version": 3})
        with pytest.raises(PlanError, match="has version, a int: only tensors can be shared"):
            model_tensors(model)


class TestNames:
    def test_buffers_are_told_from_parameters(self) -> None:
        model = nn.Sequential(nn.BatchNorm1d(2))
        model.register_buffer("passing", torch.ones(1), persistent=False)
        names = {"0.running_mean", "0.running_var", "0.num_batches_tracked"}
        assert buffer_names(model, model_tensors(model)) == names

    def test_buffers_under_other_names_are_refused(self) -> None:
        with pytest.raises(PlanError, match=r"lacks the buffer inner\.1\.num_batches_tracked"):
            buffer_names(Wrapped(), model_tensors(Wrapped()))

    def test_parameters_under_other_names_are_refused_where_gradients_go_by_name(self) -> None:
        check_parameter_names(Copies())
        with pytest.raises(PlanError, match=r"has no layer\.weight"):
            check_parameter_names(Own())

    def test_a_wrapper_that_strips_and_adds_its_prefix_is_set(self) -> None:
        model = Wrapped()
        values = shifted(model)
        set_tensors(model, values)
        assert holds(model, values)


class Rounds(nn.Module):
    """A module below others rounds what it loads, in one of the ways in which a model may do so."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 2)
        if how == "hook before loading":
            self.inner._register_load_state_dict_pre_hook(self._before)
        elif how == "hook after loading":
            self.inner.register_load_state_dict_post_hook(self._after)
        elif how == "method of the object":
            own = self.inner._load_from_state_dict

            def rounding(state: Any, *rest: Any) -> None:
                self._before(state)
                own(state, *rest)

            self.inner._load_from_state_dict = rounding  # type: ignore[method-assign]
        else:
            self.inner = Rounding(2, 2)

    def _before(self, state: Any, *rest: Any) -> None:
        for name in list(state):
            state[name] = state[name].round()

    def _after(self, module: nn.Module, keys: Any) -> None:
        with torch.no_grad():
            for tensor in module.parameters():
                tensor.round_()


class Rounding(nn.Linear):
    def _load_from_state_dict(self, state: Any, *rest: Any) -> None:
        super()._load_from_state_dict({name: value.round() for name, value in state.items()}, *rest)


@pytest.mark.parametrize(
    "how", ["hook before loading", "hook after loading", "method of the object", "method of a class"]
)
def test_code_of_a_module_that_takes_part_in_loading_is_run(how: str) -> None:
    model = Rounds(how)
    whole = {name: torch.ones_like(tensor) for name, tensor in model_tensors(model).items()}
    set_tensors(model, whole)
    assert holds(model, whole)
    with pytest.raises(PlanError, match=r"gives another value afterwards"):
        set_tensors(model, {name: tensor + 0.25 for name, tensor in whole.items()})


def test_what_is_set_lies_where_it_lay_so_that_an_optimizer_still_trains_it() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to(memory_format=torch.channels_last)
    before = [(tensor.data_ptr(), tensor.stride()) for tensor in model.state_dict(keep_vars=True).values()]
    values = shifted(model)
    set_tensors(model, values)
    assert holds(model, values)
    after = [(tensor.data_ptr(), tensor.stride()) for tensor in model.state_dict(keep_vars=True).values()]
    assert after == before
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_part_of_a_model_is_set_and_the_rest_stays() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    rest = model[1].weight.detach().clone()
    set_tensors(model, {"0.weight": torch.full((2, 2), 3.0)})
    assert torch.equal(model[0].weight, torch.full((2, 2), 3.0))
    assert torch.equal(model[1].weight, rest)


def test_two_names_for_parts_of_one_memory_hold_what_both_can() -> None:
    model = nn.Linear(2, 2)
    model.register_buffer("head", model.weight.detach()[0])
    values = {"weight": torch.ones(2, 2), "bias": torch.ones(2), "head": torch.ones(2)}
    set_tensors(model, values)
    assert holds(model, values)
    with pytest.raises(PlanError):
        set_tensors(model, {**values, "head": torch.zeros(2)})
