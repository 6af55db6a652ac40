"""The noise and the cost of a task under differential privacy: the one place that decides them.

A node's daemon asks before it charges its ledger and before a worker starts, and a local run asks too: neither
the worker nor the researcher decides what noise is enough.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fedjob.common.codec import from_plain
from fedjob.common.errors import MessageError, SpecError
from fedjob.common.items import Items
from fedjob.data.preprocessing.row_wise import row_wise_problem
from fedjob.messaging.messages import Offer, Task
from fedjob.privacy.dp.calibration import noise_for
from fedjob.privacy.dp.mechanisms import Gaussian, Mechanism
from fedjob.privacy.dp.tree_terms import TreeTerms
from fedjob.privacy.protect import TREE, NodeDP, RecordDP
from fedjob.training_plans.private_terms import check_one_table, terms_of
from fedjob.training_plans.training_args import merged_args

TRAIN = "train"
"""The step that a training protocol's work is done in; cyclic transfer numbers its own."""

TRAININGS = ("cyclic", "fedavg", "fedbuff", "fednova", "fedopt", "fedper", "fedprox", "scaffold")
"""Protocols of which nothing but trained parameters, and what follows from them, leaves a node."""

STATISTICS = "statistics"

_LINEAR = "its sums have no noise: train a linear model with a plan and FedAvg, or ask Statistics for covariances with bounds"
_CLASSES = "its sums have no noise: train a logistic model with a plan and FedAvg"
_ROWS = "it answers about single records, which is what differential privacy hides"

WHOLE_NODES = ("fedavg", "fedprox", "fedopt", "fedper", "fedbn", "ditto")
"""Protocols of which a node contributes one update of parameters, and nothing else that depends on its data."""

_ADAPTERS = "the product of two factors with noise is not bounded: train the adapters with FedAvg"

_MORE_THAN_UPDATES: Mapping[str, str] = {
    "fednova": "a node also says how many steps it took: use FedAvg or FedProx",
    "scaffold": "a node also sends its control variates: use FedAvg or FedProx",
    **dict.fromkeys(("flexlora", "flora"), _ADAPTERS),
    "qfedavg": "each node also reports its loss: use FedAvg",
}

_NOT_PRIVATE: Mapping[str, str] = {
    "linear_regression": _LINEAR,
    "ridge": _LINEAR,
    "pca": "its sums have no noise: ask Statistics for covariances with bounds, and find the components of these",
    "logistic_regression": _CLASSES,
    "poisson_regression": "its sums have no noise: train the model with a plan and FedAvg",
    "cox_regression": "its sums over who is at risk have no bound for one record: ask Statistics for histograms of times by groups",
    "kaplan_meier": "its counts have no noise: ask Statistics for histograms of times by the groups and the event",
    "kmeans": "its sums have no noise: ask Statistics for histograms, or train a model with a plan and FedAvg",
    "outliers": f"{_ROWS}: ask Statistics for quantiles with bounds",
    "psi": _ROWS,
    "inference": f"{_ROWS}: train under differential privacy, and predict on data of your own",
    "evaluation": "metrics of a node's records have no noise: evaluate the model on data of your own",
    "function": "nothing bounds what one record changes in the answer of a function: ask Statistics, or train with FedAvg",
    "steps": "nothing bounds what one record changes in the answers of a plan's steps: ask Statistics, or train with FedAvg",
    "own": "nothing bounds what one record changes in an answer of an own protocol: ask Statistics, or train with FedAvg",
    "ditto": "it trains twice on the same records: use FedAvg or FedPer",
    "fedbn": "batch normalisation mixes the records of a batch: use GroupNorm in the model, and FedAvg",
    "finetuned": "it trains once more on the same records at the end: use FedAvg",
    **dict.fromkeys(("flexlora", "flora"), _ADAPTERS),
    "qfedavg": "each node reports its loss without noise: use FedAvg",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateWork:
    """The noise of one task, and its cost.

    Args:
        noise: the terms that the worker computes by, see `orders.WorkOrder`.
        mechanisms: that the task runs on the records, for the ledger of its node; of tree noise the ledger finds them, by
            the passes that earlier tasks have paid.
        whole: those of all tasks of the job at the node together.
        tree: the terms of tree noise, of which each task is given a stretch; None for noise that is drawn anew.
    """

    noise: Mapping[str, Any]
    mechanisms: tuple[Mechanism, ...]
    whole: tuple[Mechanism, ...] = field(default=())
    tree: TreeTerms | None = None


def private_work(
    wanted: Task | Offer,
    dp: RecordDP | NodeDP,
    *,
    num_rows: int,
    step: str = TRAIN,
    assets: Sequence[str] = (),
) -> PrivateWork:
    """Return the noise and the cost of a task, or of the tasks that an offer is about.

    Args:
        wanted: as the researcher sent it.
        dp: the epsilon and delta that hold at this node, for all rounds of the job.
        num_rows: of the dataset, as its owner registered it.
        step: of the task.
        assets: names of the tables and files of a dataset that has several.

    Raises:
        SpecError: it can't be done with differential privacy, or no noise is enough.
    """
    if isinstance(dp, NodeDP):
        return _of_whole_node(wanted, dp, step)
    check_private(wanted.protocol, wanted.preprocess, wanted.items)
    check_mechanism(wanted.protocol, dp)
    if dp.delta * num_rows >= 1:
        raise SpecError(
            f"a delta of {dp.delta:g} would let one of {num_rows} records be told: ask for less than 1 divided by their "
            "number, such as delta=1e-5"
        )
    if wanted.protocol == STATISTICS:
        return _statistics(wanted, dp, num_rows, step)
    check_one_table(assets)
    return _training(wanted, dp, num_rows, step)


def check_private(protocol: str, preprocess: Sequence[Mapping[str, Any]], items: Items) -> None:
    """Check that a protocol can keep differential privacy of records, and that rows are chosen and prepared one by one.

    Raises:
        SpecError: it says what does not, and what to use instead.
    """
    if protocol not in TRAININGS and protocol != STATISTICS:
        reason = _NOT_PRIVATE.get(protocol, f"those that do are {', '.join((STATISTICS, *TRAININGS))}")
        raise SpecError(f"{protocol} does not run under differential privacy: {reason}")
    try:
        problem = row_wise_problem(preprocess)
    except MessageError as error:
        raise SpecError(f"the steps of preprocess can't be read: {error}") from error
    if problem:
        raise SpecError(f"under differential privacy rows are prepared one by one: {problem}")
    if items != Items():
        raise SpecError(
            "under differential privacy a job works on all items of a dataset: which ones are new, or the first, depends on "
            "other records. Leave items out"
        )


def check_mechanism(protocol: str, dp: RecordDP) -> None:
    """Check that a protocol has steps for the mechanism that a job asks for.

    Raises:
        SpecError: it has none.
    """
    if dp.mechanism == TREE and protocol not in TRAININGS:
        raise SpecError(
            f'mechanism="{TREE}" is noise over the steps of a training, and {protocol} has none: leave mechanism out of '
            "RecordDP"
        )


def _statistics(wanted: Task | Offer, dp: RecordDP, num_rows: int, step: str) -> PrivateWork:
    from fedjob.protocols.analytics.private_statistics.answer import (
        NOISED,
    )  # with numpy, which a daemon starts without
    from fedjob.protocols.analytics.private_statistics.questions import terms_of as terms_of_statistics
    from fedjob.protocols.analytics.statistics import Statistics

    if isinstance(wanted, Task) and step != NOISED:
        raise SpecError(
            f"step {step[:40]!r} of statistics answers without noise, and the job has differential privacy: ask for "
            f"step {NOISED!r}"
        )
    try:
        measures = from_plain(Statistics, dict(wanted.config))
    except MessageError as error:
        raise SpecError(f"these statistics can't be read: {error}") from error
    terms = terms_of_statistics(measures, dp, num_rows=num_rows)
    return PrivateWork(noise=terms.to_plain(), mechanisms=(terms.mechanism,), whole=(terms.mechanism,))


def check_whole_nodes(protocol: str) -> None:
    """Refuse a protocol whose contribution is more than one update of parameters.

    Raises:
        SpecError: it says what to use instead.
    """
    if protocol not in WHOLE_NODES:
        reason = _MORE_THAN_UPDATES.get(protocol, f"those that do are {', '.join(WHOLE_NODES)}")
        raise SpecError(f"{protocol} does not run under NodeDP: {reason}")


def _of_whole_node(wanted: Task | Offer, dp: NodeDP, step: str) -> PrivateWork:
    """Return the cost of a round; its noise is added where the update is masked, see `privacy.secagg.node_noise`."""
    check_whole_nodes(wanted.protocol)
    if step != TRAIN:
        raise SpecError(
            f"step {step[:40]!r} measures a model on a node's records, and under NodeDP nothing leaves but updates with "
            "noise: run the job without validation at the nodes"
        )
    if wanted.rounds < 1:
        raise SpecError(f"a job has one round or more, found {wanted.rounds}")
    one = Gaussian(noise=noise_for(dp.epsilon, dp.delta, number=wanted.rounds))
    return PrivateWork(noise={}, mechanisms=(one,), whole=(replace(one, number=wanted.rounds),))


def _training(wanted: Task | Offer, dp: RecordDP, num_rows: int, step: str) -> PrivateWork:
    if not (step == TRAIN or step.startswith(f"{TRAIN}_")):
        raise SpecError(
            f"step {step[:40]!r} measures a model on a node's records, and under differential privacy nothing leaves but "
            "trained parameters: run the job without validation at the nodes"
        )
    check_training(wanted.protocol, wanted.config)
    if wanted.rounds < 1:
        raise SpecError(f"a job has one round or more, found {wanted.rounds}")
    args = wanted.training_args
    if isinstance(wanted, Task):
        args = merged_args(args, wanted.round_args)
    terms = terms_of(dp, training_args=args, num_rows=num_rows, rounds=wanted.rounds)
    if isinstance(terms, TreeTerms):
        return PrivateWork(
            noise=terms.to_plain(), mechanisms=(), whole=(terms.cost(terms.passes),), tree=terms
        )
    one = terms.mechanism
    return PrivateWork(
        noise=terms.to_plain(),
        mechanisms=(one,),
        whole=(replace(one, number=one.number * wanted.rounds),),
    )


def check_training(protocol: str, config: Mapping[str, Any]) -> None:
    """Refuse settings of a training protocol that make a node report what has no noise.

    Raises:
        SpecError: it names the setting, and what to use instead.
    """
    if protocol == "scaffold" and config.get("option") == "I":
        raise SpecError(
            "Scaffold(option='I') reports the gradient over all records of a node without noise: use option='II', which "
            "reports the noisy ones of its steps"
        )
