"""Training arguments: one checked, frozen value out of the dictionary that a user writes."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from fedjob.common.checks import python_numbers
from fedjob.common.errors import SpecError
from fedjob.metrics.states import check_metric
from fedjob.training_plans.schedules import MAX_LOOKED_AT, at_round, is_schedule

HYPERPARAMETERS = (
    "alpha",
    "betas",
    "clip_norm",
    "dampening",
    "dropout",
    "eps",
    "gamma",
    "learning_rate",
    "lr",
    "momentum",
    "nesterov",
    "optimizer",
    "step_size",
    "weight_decay",
)
"""Names that every plan may read from its training arguments without declaring them."""

_ELSEWHERE = {
    "dp": "differential privacy is asked for as Job(..., protect=RecordDP(epsilon=..., delta=..., max_grad_norm=...))",
    "dp_args": "differential privacy is asked for as Job(..., protect=RecordDP(epsilon=..., delta=..., max_grad_norm=...))",
    "fedprox_mu": "the proximal term belongs to the protocol: Job(FedProx(mu=...), ...)",
    "rounds": "the number of rounds is Job(rounds=...)",
    "optimizer_args": "give each of them by its own name: lr, momentum, weight_decay, ...",
    "loader_args": "give batch_size and drop_last by their own names",
    **dict.fromkeys(("device", "gpu", "cuda", "num_gpus"), "a GPU is asked for with use_gpu=True"),
    **dict.fromkeys(
        ("amp", "precision", "mixed_precision", "fp16", "bf16"),
        "mixed precision is the plan's own: torch.autocast in training_step or train",
    ),
    **dict.fromkeys(
        ("num_workers", "pin_memory", "shuffle", "sampler", "collate_fn", "prefetch_factor"),
        "it belongs to the DataLoader that training_data may return",
    ),
    **dict.fromkeys(
        ("scheduler", "lr_scheduler"),
        "a schedule is the value of an argument, lr=CosineDecay(...); one for each step goes into a loop of the plan's "
        "own, `train`",
    ),
    **dict.fromkeys(
        ("accumulate_grad_batches", "gradient_accumulation_steps", "grad_accum"),
        "gradients are accumulated in a loop of the plan's own, `train`",
    ),
    **dict.fromkeys(
        ("max_grad_norm", "grad_clip", "clip_grad_norm", "gradient_clip_val"),
        "gradients are clipped with clip_norm",
    ),
    **dict.fromkeys(("max_steps", "steps", "local_steps"), "the steps of a round are num_updates"),
    **dict.fromkeys(
        ("early_stopping", "patience"), "early stopping is a hook: Job(hooks=[EarlyStopping(...)])"
    ),
    "seed": "a seed is random_seed here, or Job(seed=...) for all of a job",
    **dict.fromkeys(
        ("test_size", "val_ratio", "val_split", "validation_split"),
        "the share that is kept to validate on is test_ratio",
    ),
}
"""What other frameworks call something that fedjob has under another name, or in another place."""

_RATES = ("lr", "learning_rate")
_POSITIVE = ("clip_norm", "eps")
_NOT_NEGATIVE = (*_RATES, "weight_decay", "momentum", "dampening", "dropout")


class Arguments(Mapping[str, Any]):
    """The arguments that a plan's methods receive: every one by name, read-only."""

    def __init__(self, values: Mapping[str, Any], *, what: str = "training_args") -> None:
        self._values = dict(values)
        self._what = what

    def __getitem__(self, key: str) -> Any:
        try:
            return self._values[key]
        except KeyError:
            raise KeyError(f"{self._what} has no {key!r}; it has {', '.join(sorted(self._values))}") from None

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return repr(self._values)


@dataclass(frozen=True)
class TrainingArgs:
    """The training arguments of a node, checked.

    `parse` makes one out of a user's dictionary. Without `epochs` and without
    `num_updates` a round trains one epoch.

    Args:
        epochs: passes over the training data in one round, 1 or more.
        num_updates: optimizer steps in one round, 1 or more, cycling over the
            data as often as needed; not together with `epochs`.
        batch_size: examples in one step, 1 or more.
        batch_maxnum: at most so many batches of each epoch; None is all.
        drop_last: leave out the last batch of an epoch where it is short
            (batch normalisation can't train on a single example).
        test_ratio: fraction of the data, 0 to 1, that is kept for validation
            where the plan has no `testing_data`; the same examples every round.
        test_fold: `(i, k)`: in place of a ratio, the i-th of k equal parts of the data
            is kept for validation, i from 1; together the k parts are all the data.
        test_on_local_updates: validate after local training.
        test_on_global_updates: validate the parameters that arrive, before training.
        test_metric: names of metrics, see `fedjob.metrics.states`.
        test_metric_args: options of those metrics, `{"f1": {"average": "macro"}}`.
        log_interval: a `metrics` event every so many steps, 1 or more.
        random_seed: of this job's nodes instead of the job's seed, 0 or more.
        use_gpu: train on a GPU where the node has one and lets it be used.
        share_persistent_buffers: buffers (such as the running means of batch
            normalisation) are parameters; else they stay at the node.
        dry_run: train on one batch only, to test that everything works.
        raw: the dictionary as the user wrote it.
    """

    epochs: int | None = None
    num_updates: int | None = None
    batch_size: int = 32
    batch_maxnum: int | None = None
    drop_last: bool = False
    test_ratio: float = 0.0
    test_fold: tuple[int, int] | None = None
    test_on_local_updates: bool = False
    test_on_global_updates: bool = False
    test_metric: tuple[str, ...] = ()
    test_metric_args: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    log_interval: int = 10
    random_seed: int | None = None
    use_gpu: bool = False
    share_persistent_buffers: bool = True
    dry_run: bool = False
    raw: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(
        cls, raw: Mapping[str, Any] | TrainingArgs | None = None, *, extra_args: Iterable[str] = ()
    ) -> TrainingArgs:
        """Check a user's dictionary.

        Args:
            raw: None is the empty dictionary.
            extra_args: further names that the plan declares.

        Raises:
            SpecError: an unknown name, a wrong type or a value out of range.
        """
        if isinstance(raw, TrainingArgs):
            raw = raw.raw
        if raw is None:
            raw = {}
        if not isinstance(raw, Mapping):
            raise SpecError(f"training_args is a dictionary, not {type(raw).__name__}")
        given: Mapping[str, Any] = python_numbers(dict(raw))
        raw = given
        own = [name for name in (f.name for f in fields(cls)) if name != "raw"]
        _check_names(raw, [*own, *HYPERPARAMETERS, *extra_args])
        for name, value in raw.items():
            _check_plain(value, name)
        values: dict[str, Any] = {name: _CHECKS[name](name, raw[name]) for name in own if name in raw}
        if values.get("epochs") is not None and values.get("num_updates") is not None:
            raise SpecError(
                f"training_args has epochs={raw['epochs']!r} and num_updates={raw['num_updates']!r}; "
                "give one of the two"
            )
        if values.get("test_fold") is not None and values.get("test_ratio"):
            raise SpecError("training_args has test_fold and test_ratio; give one of the two")
        if values.get("epochs") is None and values.get("num_updates") is None:
            values["epochs"] = 1
        for name in set(raw) - set(own) - set(extra_args):
            _check_hyperparameter(name, raw[name])
        extra_metrics = set(values.get("test_metric_args", {})) - set(values.get("test_metric", ()))
        if extra_metrics:
            raise SpecError(
                f"test_metric_args names {', '.join(sorted(extra_metrics))}, which test_metric does not name"
            )
        return cls(**values, raw=dict(raw))

    def to_dict(self) -> dict[str, Any]:
        """Return the user's dictionary; parsing it again gives an equal value."""
        return dict(self.raw)

    def for_user(self) -> Arguments:
        """Return what the plan's methods receive: the raw values, and defaults beside them."""
        known = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "raw"}
        return Arguments({**known, **self.raw})

    def __getitem__(self, key: str) -> Any:
        """Return one argument, so that `self.training_args["lr"]` works in every method of a plan."""
        return self.for_user()[key]


_LENGTHS = ("epochs", "num_updates")


def merged_args(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return training arguments with some of them replaced; `epochs` replaces `num_updates`, and the reverse."""
    kept = dict(base)
    if any(over.get(name) is not None for name in _LENGTHS):
        kept = {name: value for name, value in kept.items() if name not in _LENGTHS}
    return {**kept, **over}


def check_rounds(
    raw: Mapping[str, Any], rounds: int, *, extra_args: Iterable[str] = (), first: int = 1
) -> None:
    """Check a user's dictionary as it is in each round of a job, schedules included.

    A schedule may bring a learning rate down to 0; a rate that is 0 in every round is a mistake.

    Args:
        rounds: the last round; of an endless job, and beyond `MAX_LOOKED_AT`, so many are looked at.
        first: the round that it counts from.

    Raises:
        SpecError: as `TrainingArgs.parse`, with the round in which a schedule has a wrong value.
    """
    extra, seen = tuple(extra_args), set()
    scheduled = any(is_schedule(value) for value in raw.values())
    rates: dict[str, bool] = {}
    for round_ in range(first, max(first, min(rounds, first + MAX_LOOKED_AT - 1)) + 1):
        try:
            args = at_round(raw, round_)
            for name in _RATES:
                if name in args and name not in extra:
                    rates[name] = rates.get(name, False) or args[name] != 0
            if (key := repr(args)) in seen:
                continue
            seen.add(key)
            TrainingArgs.parse(args, extra_args=extra)
        except (SpecError, ArithmeticError, LookupError, TypeError, ValueError) as error:
            if not scheduled and isinstance(error, SpecError):
                raise
            raise SpecError(f"in round {round_}: {error}") from error
        if not scheduled:
            break
    for name, trains in rates.items():
        if not trains:
            raise SpecError(
                f"training_args {name!r} is greater than 0 in some round, not 0 in all: nothing would be trained"
            )


def _check_names(raw: Mapping[str, Any], known: list[str]) -> None:
    for name in raw:
        if not isinstance(name, str):
            raise SpecError(f"training_args has the key {name!r}; keys are strings")
        if name in known:
            continue
        if name in _ELSEWHERE:
            raise SpecError(f"training_args does not take {name!r}: {_ELSEWHERE[name]}")
        near = difflib.get_close_matches(name.lower(), known, n=1)
        what = (
            f"the nearest known one is {near[0]!r}"
            if near
            else f"the known ones are {', '.join(sorted(known))}"
        )
        raise SpecError(
            f"training_args has the unknown key {name!r}; {what}. "
            "A plan declares keys of its own with extra_args = (...)"
        )


def _check_plain(value: Any, where: str) -> None:
    if value is None or isinstance(value, (bool, int, str)):
        return
    if isinstance(value, float):
        if not math.isfinite(value):
            raise SpecError(f"training_args {where!r} is {value}; a finite number is needed")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            _check_plain(item, f"{where}[{index}]")
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise SpecError(f"training_args {where!r} has the key {key!r}; keys are strings")
            _check_plain(item, f"{where}.{key}")
    else:
        raise SpecError(
            f"training_args {where!r} is a {type(value).__name__}; "
            "numbers, strings, booleans, None, lists and dictionaries travel to the nodes"
        )


def _check_hyperparameter(name: str, value: Any) -> None:
    if name not in (*_POSITIVE, *_NOT_NEGATIVE) or value is None:
        return
    low = "greater than 0" if name in _POSITIVE else "0 or more"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise SpecError(f"training_args {name!r} is a number {low}, not {value!r}")
    if value < 0 or (name in _POSITIVE and value == 0):
        raise SpecError(f"training_args {name!r} is {low}, not {value!r}")


def _count(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise SpecError(f"training_args {name!r} is a whole number of 1 or more, not {value!r}")
    return value


def _optional_count(name: str, value: Any) -> int | None:
    return None if value is None else _count(name, value)


def _seed(name: str, value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise SpecError(f"training_args {name!r} is a whole number from 0 below 2**63, not {value!r}")
    return value


def _fraction(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise SpecError(f"training_args {name!r} is a fraction from 0 to 1, not {value!r}")
    return float(value)


def _part(name: str, value: Any) -> tuple[int, int] | None:
    if value is None:
        return None
    fits = isinstance(value, (list, tuple)) and len(value) == 2 and all(type(item) is int for item in value)
    if not fits or not 1 <= value[0] <= value[1] or value[1] < 2:
        raise SpecError(
            f"training_args {name!r} is (i, k), the i-th of k parts with k of 2 or more, not {value!r}"
        )
    return value[0], value[1]


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise SpecError(f"training_args {name!r} is True or False, not {value!r}")
    return value


def _metrics(name: str, value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, (list, tuple)) or not all(isinstance(item, str) for item in names):
        raise SpecError(f"training_args {name!r} is the name of a metric or a list of names, not {value!r}")
    try:
        return tuple(dict.fromkeys(check_metric(item) for item in names))
    except SpecError as error:
        raise SpecError(f"training_args {name!r}: {error}") from error


def _metric_args(name: str, value: Any) -> dict[str, dict[str, Any]]:
    if not isinstance(value, Mapping) or not all(isinstance(options, Mapping) for options in value.values()):
        raise SpecError(f"training_args {name!r} maps a metric to its options, not {value!r}")
    return {check_metric(metric, **options): dict(options) for metric, options in value.items()}


_CHECKS = {
    "epochs": _optional_count,
    "num_updates": _optional_count,
    "batch_size": _count,
    "batch_maxnum": _optional_count,
    "drop_last": _flag,
    "test_ratio": _fraction,
    "test_fold": _part,
    "test_on_local_updates": _flag,
    "test_on_global_updates": _flag,
    "test_metric": _metrics,
    "test_metric_args": _metric_args,
    "log_interval": _count,
    "random_seed": _seed,
    "use_gpu": _flag,
    "share_persistent_buffers": _flag,
    "dry_run": _flag,
}
