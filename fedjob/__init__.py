"""fedjob: federated learning jobs.

Train and evaluate models on data that never leaves its owners. The names below
are loaded when they are first used, so that importing fedjob imports no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fedjob._version import __version__

_NAMES = {
    "AllNodes": "fedjob.researcher.selection.all_nodes",
    "AmbiguousJob": "fedjob.common.errors",
    "Bin": "fedjob.data.preprocessing.categories",
    "ByColumn": "fedjob.researcher.simulation.splits",
    "Bulyan": "fedjob.aggregation.robust.krum",
    "ByWeight": "fedjob.researcher.selection.by_weight",
    "Cast": "fedjob.data.preprocessing.columns",
    "CentredClipping": "fedjob.aggregation.robust.centred_clipping",
    "CosineDecay": "fedjob.training_plans.schedules",
    "CoxRegression": "fedjob.protocols.analytics.cox",
    "Cyclic": "fedjob.protocols.training.cyclic",
    "Dirichlet": "fedjob.researcher.simulation.splits",
    "Ditto": "fedjob.protocols.training.ditto",
    "EarlyStopping": "fedjob.researcher.hooks.early_stopping",
    "Encode": "fedjob.data.preprocessing.categories",
    "Evaluation": "fedjob.protocols.evaluation",
    "Explicit": "fedjob.researcher.selection.explicit",
    "ExponentialDecay": "fedjob.training_plans.schedules",
    "FedAdagrad": "fedjob.optimizers.adaptive",
    "FedAdam": "fedjob.optimizers.adaptive",
    "FedAvg": "fedjob.protocols.training.fedavg",
    "FedAvgM": "fedjob.optimizers.momentum",
    "FedBN": "fedjob.protocols.training.fedbn",
    "FLoRA": "fedjob.protocols.training.adapters.flora",
    "FedBuff": "fedjob.protocols.training.fedbuff",
    "FedNova": "fedjob.protocols.training.fednova",
    "FedOpt": "fedjob.protocols.training.fedopt",
    "FedPer": "fedjob.protocols.training.fedper",
    "FedProx": "fedjob.protocols.training.fedprox",
    "FedYogi": "fedjob.optimizers.adaptive",
    "FedjobError": "fedjob.common.errors",
    "Filter": "fedjob.data.preprocessing.rows",
    "FlexLoRA": "fedjob.protocols.training.adapters.flexlora",
    "FineTuned": "fedjob.protocols.training.finetuned",
    "Fraction": "fedjob.researcher.selection.fraction",
    "GeometricMedian": "fedjob.aggregation.robust.geometric_median",
    "Guard": "fedjob.aggregation.guard",
    "NodeDP": "fedjob.privacy.protect",
    "Protect": "fedjob.privacy.protect",
    "RecordDP": "fedjob.privacy.protect",
    "SecAgg": "fedjob.privacy.protect",
    "Hook": "fedjob.researcher.hooks.base",
    "IID": "fedjob.researcher.simulation.splits",
    "Impute": "fedjob.data.preprocessing.missing",
    "Int8": "fedjob.parameters.compression.int8",
    "Inference": "fedjob.protocols.inference",
    "Items": "fedjob.common.items",
    "Job": "fedjob.researcher.jobs.job",
    "JobFailed": "fedjob.common.errors",
    "KMeans": "fedjob.protocols.analytics.kmeans",
    "KaplanMeier": "fedjob.protocols.analytics.survival.kaplan_meier",
    "KeepBest": "fedjob.researcher.hooks.best_round",
    "Krum": "fedjob.aggregation.robust.krum",
    "LinearDecay": "fedjob.training_plans.schedules",
    "LinearRegression": "fedjob.protocols.analytics.linear",
    "LogisticRegression": "fedjob.protocols.analytics.glm",
    "MLflow": "fedjob.researcher.hooks.tracking.mlflow",
    "Median": "fedjob.aggregation.robust.median",
    "NoSuchJob": "fedjob.common.errors",
    "NodeRefused": "fedjob.common.errors",
    "NormBounded": "fedjob.aggregation.robust.norm_bounded",
    "NotReady": "fedjob.common.errors",
    "OverSelection": "fedjob.researcher.selection.over_selection",
    "PCA": "fedjob.protocols.analytics.pca",
    "Piecewise": "fedjob.training_plans.schedules",
    "PlainMean": "fedjob.aggregation.mean",
    "Plan": "fedjob.training_plans.step_plan",
    "PoissonRegression": "fedjob.protocols.analytics.glm",
    "PowerOfChoice": "fedjob.researcher.selection.power_of_choice",
    "PrivateSetIntersection": "fedjob.protocols.psi",
    "QFedAvg": "fedjob.protocols.training.qfedavg",
    "Quorum": "fedjob.common.quorum",
    "Resize": "fedjob.data.preprocessing.images",
    "Ridge": "fedjob.protocols.analytics.linear",
    "Scaffold": "fedjob.protocols.training.scaffold",
    "Scale": "fedjob.data.preprocessing.scale",
    "Select": "fedjob.data.preprocessing.columns",
    "Session": "fedjob.researcher.jobs.session",
    "Shards": "fedjob.researcher.simulation.splits",
    "Sizes": "fedjob.researcher.simulation.splits",
    "SklearnPlan": "fedjob.training_plans.sklearn",
    "SpecError": "fedjob.common.errors",
    "State": "fedjob.common.lifecycle",
    "Outliers": "fedjob.protocols.analytics.outliers",
    "Statistics": "fedjob.protocols.analytics.statistics",
    "StepDecay": "fedjob.training_plans.schedules",
    "SubmitError": "fedjob.common.errors",
    "Target": "fedjob.data.preprocessing.columns",
    "TensorBoard": "fedjob.researcher.hooks.tensorboard",
    "TopK": "fedjob.parameters.compression.top_k",
    "Tracing": "fedjob.researcher.hooks.tracking.tracing",
    "TorchPlan": "fedjob.training_plans.torch",
    "TrimmedMean": "fedjob.aggregation.robust.trimmed_mean",
    "WandB": "fedjob.researcher.hooks.tracking.wandb",
    "WaitTimeout": "fedjob.common.errors",
    "WeightedMean": "fedjob.aggregation.mean",
    "connect": "fedjob.researcher.jobs.session",
    "cross_validate": "fedjob.researcher.jobs.cross_validation",
    "format_event": "fedjob.researcher.storage.event",
    "function": "fedjob.training_plans.function",
    "off": "fedjob.researcher.monitoring.event_handlers",
    "on": "fedjob.researcher.monitoring.event_handlers",
    "plans": "fedjob.protocols",
    "sandbox_federation": "fedjob.one_machine.federation",
    "simulate": "fedjob.researcher.simulation.population",
}

__all__ = ["__version__", *_NAMES]

if TYPE_CHECKING:
    # The same names, for type checkers and editors; a test compares the two lists.
    from fedjob.aggregation.guard import Guard as Guard
    from fedjob.aggregation.mean import PlainMean as PlainMean
    from fedjob.aggregation.mean import WeightedMean as WeightedMean
    from fedjob.aggregation.robust.centred_clipping import CentredClipping as CentredClipping
    from fedjob.aggregation.robust.geometric_median import GeometricMedian as GeometricMedian
    from fedjob.aggregation.robust.krum import Bulyan as Bulyan
    from fedjob.aggregation.robust.krum import Krum as Krum
    from fedjob.aggregation.robust.median import Median as Median
    from fedjob.aggregation.robust.norm_bounded import NormBounded as NormBounded
    from fedjob.aggregation.robust.trimmed_mean import TrimmedMean as TrimmedMean
    from fedjob.common.errors import AmbiguousJob as AmbiguousJob
    from fedjob.common.errors import FedjobError as FedjobError
    from fedjob.common.errors import JobFailed as JobFailed
    from fedjob.common.errors import NodeRefused as NodeRefused
    from fedjob.common.errors import NoSuchJob as NoSuchJob
    from fedjob.common.errors import NotReady as NotReady
    from fedjob.common.errors import SpecError as SpecError
    from fedjob.common.errors import SubmitError as SubmitError
    from fedjob.common.errors import WaitTimeout as WaitTimeout
    from fedjob.common.items import Items as Items
    from fedjob.common.lifecycle import State as State
    from fedjob.common.quorum import Quorum as Quorum
    from fedjob.data.preprocessing.categories import Bin as Bin
    from fedjob.data.preprocessing.categories import Encode as Encode
    from fedjob.data.preprocessing.columns import Cast as Cast
    from fedjob.data.preprocessing.columns import Select as Select
    from fedjob.data.preprocessing.columns import Target as Target
    from fedjob.data.preprocessing.images import Resize as Resize
    from fedjob.data.preprocessing.missing import Impute as Impute
    from fedjob.data.preprocessing.rows import Filter as Filter
    from fedjob.data.preprocessing.scale import Scale as Scale
    from fedjob.one_machine.federation import sandbox_federation as sandbox_federation
    from fedjob.optimizers.adaptive import FedAdagrad as FedAdagrad
    from fedjob.optimizers.adaptive import FedAdam as FedAdam
    from fedjob.optimizers.adaptive import FedYogi as FedYogi
    from fedjob.optimizers.momentum import FedAvgM as FedAvgM
    from fedjob.parameters.compression.int8 import Int8 as Int8
    from fedjob.parameters.compression.top_k import TopK as TopK
    from fedjob.privacy.protect import NodeDP as NodeDP
    from fedjob.privacy.protect import Protect as Protect
    from fedjob.privacy.protect import RecordDP as RecordDP
    from fedjob.privacy.protect import SecAgg as SecAgg
    from fedjob.protocols import plans as plans
    from fedjob.protocols.analytics.cox import CoxRegression as CoxRegression
    from fedjob.protocols.analytics.glm import LogisticRegression as LogisticRegression
    from fedjob.protocols.analytics.glm import PoissonRegression as PoissonRegression
    from fedjob.protocols.analytics.kmeans import KMeans as KMeans
    from fedjob.protocols.analytics.linear import LinearRegression as LinearRegression
    from fedjob.protocols.analytics.linear import Ridge as Ridge
    from fedjob.protocols.analytics.outliers import Outliers as Outliers
    from fedjob.protocols.analytics.pca import PCA as PCA
    from fedjob.protocols.analytics.statistics import Statistics as Statistics
    from fedjob.protocols.analytics.survival.kaplan_meier import KaplanMeier as KaplanMeier
    from fedjob.protocols.evaluation import Evaluation as Evaluation
    from fedjob.protocols.inference import Inference as Inference
    from fedjob.protocols.psi import PrivateSetIntersection as PrivateSetIntersection
    from fedjob.protocols.training.adapters.flexlora import FlexLoRA as FlexLoRA
    from fedjob.protocols.training.adapters.flora import FLoRA as FLoRA
    from fedjob.protocols.training.cyclic import Cyclic as Cyclic
    from fedjob.protocols.training.ditto import Ditto as Ditto
    from fedjob.protocols.training.fedavg import FedAvg as FedAvg
    from fedjob.protocols.training.fedbn import FedBN as FedBN
    from fedjob.protocols.training.fedbuff import FedBuff as FedBuff
    from fedjob.protocols.training.fednova import FedNova as FedNova
    from fedjob.protocols.training.fedopt import FedOpt as FedOpt
    from fedjob.protocols.training.fedper import FedPer as FedPer
    from fedjob.protocols.training.fedprox import FedProx as FedProx
    from fedjob.protocols.training.finetuned import FineTuned as FineTuned
    from fedjob.protocols.training.qfedavg import QFedAvg as QFedAvg
    from fedjob.protocols.training.scaffold import Scaffold as Scaffold
    from fedjob.researcher.hooks.base import Hook as Hook
    from fedjob.researcher.hooks.best_round import KeepBest as KeepBest
    from fedjob.researcher.hooks.early_stopping import EarlyStopping as EarlyStopping
    from fedjob.researcher.hooks.tensorboard import TensorBoard as TensorBoard
    from fedjob.researcher.hooks.tracking.mlflow import MLflow as MLflow
    from fedjob.researcher.hooks.tracking.tracing import Tracing as Tracing
    from fedjob.researcher.hooks.tracking.wandb import WandB as WandB
    from fedjob.researcher.jobs.cross_validation import cross_validate as cross_validate
    from fedjob.researcher.jobs.job import Job as Job
    from fedjob.researcher.jobs.session import Session as Session
    from fedjob.researcher.jobs.session import connect as connect
    from fedjob.researcher.monitoring.event_handlers import off as off
    from fedjob.researcher.monitoring.event_handlers import on as on
    from fedjob.researcher.selection.all_nodes import AllNodes as AllNodes
    from fedjob.researcher.selection.by_weight import ByWeight as ByWeight
    from fedjob.researcher.selection.explicit import Explicit as Explicit
    from fedjob.researcher.selection.fraction import Fraction as Fraction
    from fedjob.researcher.selection.over_selection import OverSelection as OverSelection
    from fedjob.researcher.selection.power_of_choice import PowerOfChoice as PowerOfChoice
    from fedjob.researcher.simulation.population import simulate as simulate
    from fedjob.researcher.simulation.splits import IID as IID
    from fedjob.researcher.simulation.splits import ByColumn as ByColumn
    from fedjob.researcher.simulation.splits import Dirichlet as Dirichlet
    from fedjob.researcher.simulation.splits import Shards as Shards
    from fedjob.researcher.simulation.splits import Sizes as Sizes
    from fedjob.researcher.storage.event import format_event as format_event
    from fedjob.training_plans.function import function as function
    from fedjob.training_plans.schedules import CosineDecay as CosineDecay
    from fedjob.training_plans.schedules import ExponentialDecay as ExponentialDecay
    from fedjob.training_plans.schedules import LinearDecay as LinearDecay
    from fedjob.training_plans.schedules import Piecewise as Piecewise
    from fedjob.training_plans.schedules import StepDecay as StepDecay
    from fedjob.training_plans.sklearn import SklearnPlan as SklearnPlan
    from fedjob.training_plans.step_plan import Plan as Plan
    from fedjob.training_plans.torch import TorchPlan as TorchPlan


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module 'fedjob' has no attribute {name!r}")
    try:
        found = getattr(import_module(_NAMES[name]), name)
    except ModuleNotFoundError as error:
        package = (error.name or "fedjob").split(".")[0]
        if package == "fedjob":
            raise  # a fault of fedjob's own
        from fedjob.common.console import how_to_install
        from fedjob.common.errors import MissingPackage

        raise MissingPackage(
            f"fedjob.{name} needs the package {package!r}, which is not installed here: "
            f"{how_to_install(package, 'researcher')}"
        ) from error
    if not isinstance(found, type) or issubclass(found, Exception):
        return found
    from fedjob.common.checks import named_arguments

    return named_arguments(found)


def __dir__() -> list[str]:
    return sorted({*globals(), *_NAMES})
