"""The terms of a private training by the arguments of a job, as a node's daemon and a local run both find them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any

from fedjob.common.errors import NotPrivate, SpecError
from fedjob.privacy.dp.terms import TrainingTerms, training_terms
from fedjob.privacy.dp.tree_terms import TreeTerms, tree_terms
from fedjob.privacy.protect import TREE, RecordDP
from fedjob.training_plans.example_order import num_updates
from fedjob.training_plans.schedules import is_schedule
from fedjob.training_plans.training_args import TrainingArgs

FIXED = ("batch_size", "epochs", "num_updates", "batch_maxnum", "drop_last", "dry_run")
"""Arguments that decide how much noise is needed, so that they are the same in all rounds."""


_NO_PLACE: Mapping[str, str] = {
    "clip_norm": "RecordDP(max_grad_norm=...) bounds the gradient of each record, and what follows has noise already",
    "test_fold": "nothing is measured on a node's records, and a random part would be another one without one record",
    "test_ratio": "nothing is measured on a node's records, and a random part would be another one without one record",
    "test_on_global_updates": "what is measured on a node's records has no noise, and would not leave it",
    "test_on_local_updates": "what is measured on a node's records has no noise, and would not leave it",
}


def check_training_args(training_args: Mapping[str, Any]) -> None:
    """Refuse arguments that have no place in a training with differential privacy.

    Raises:
        SpecError: it names one, and says what to do.
    """
    for name, why in _NO_PLACE.items():
        if training_args.get(name):
            raise SpecError(
                f"under differential privacy {name} has no place in training_args: {why}. Leave it out"
            )
    if moving := [name for name in FIXED if is_schedule(training_args.get(name))]:
        raise SpecError(
            f"under differential privacy {moving[0]} is the same in all rounds: the noise depends on it"
        )


def check_one_table(assets: Collection[str]) -> None:
    """Refuse a dataset of named tables or files, of which a plan sees more than the rows that the noise is for.

    Args:
        assets: their names; empty for a dataset that is one table, folder or file.

    Raises:
        NotPrivate: there are some; they are named.
    """
    if assets:
        raise NotPrivate(
            f"under differential privacy dataset.assets has no place, and this dataset has {', '.join(assets)[:200]}: epsilon "
            f"is for the rows of its first asset, and rows of others would have none. Have its owner register one table by "
            "itself, with a row for each record"
        )


def terms_of(
    wanted: RecordDP, *, training_args: Mapping[str, Any], num_rows: int, rounds: int
) -> TrainingTerms | TreeTerms:
    """Return the terms of every round of a job at a node.

    Args:
        wanted: with the epsilon and delta that hold at this node: its owner may have lowered what was asked.
        training_args: of the job at this node, before any schedule.
        num_rows: of the dataset, as its owner registered it.

    Raises:
        SpecError: an argument has no place or changes from round to round, there are too few rows, or no noise is enough.
    """
    check_training_args(training_args)
    own = {found.name for found in fields(TrainingArgs)} - {"raw"}
    args = TrainingArgs.parse({name: value for name, value in training_args.items() if name in own})
    make = tree_terms if wanted.mechanism == TREE else training_terms
    return make(
        epsilon=wanted.epsilon,
        delta=wanted.delta,
        max_grad_norm=wanted.max_grad_norm,
        rounds=rounds,
        num_rows=num_rows,
        batch_size=args.batch_size,
        steps=num_updates(num_rows, args),
    )
