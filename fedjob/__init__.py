"""fedjob: federated learning jobs.

Train and evaluate models on data that never leaves its owners. The names below
are loaded when they are first used, so that importing fedjob imports no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fedjob._version import __version__

_NAMES = {
    "AllNodes": "fedjob.researcher.selectors.all_nodes",
    "AmbiguousJob": "fedjob.common.errors",
    "Bin": "fedjob.common.preprocess.categories",
    "Bulyan": "fedjob.common.folds.bulyan",
    "ByWeight": "fedjob.researcher.selectors.by_weight",
    "Cast": "fedjob.common.preprocess.columns",
    "CentredClipping": "fedjob.common.folds.centred_clipping",
    "CosineDecay": "fedjob.common.schedules",
    "CoxRegression": "fedjob.common.protocols.cox",
    "Cyclic": "fedjob.common.protocols.cyclic",
    "Ditto": "fedjob.common.protocols.ditto",
    "EarlyStopping": "fedjob.researcher.hooks.early_stopping",
    "Encode": "fedjob.common.preprocess.categories",
    "Evaluation": "fedjob.common.protocols.evaluation",
    "Explicit": "fedjob.researcher.selectors.explicit",
    "ExponentialDecay": "fedjob.common.schedules",
    "FedAdagrad": "fedjob.common.optimizers.adagrad",
    "FedAdam": "fedjob.common.optimizers.adam",
    "FedAvg": "fedjob.common.protocols.fedavg",
    "FedAvgM": "fedjob.common.optimizers.momentum",
    "FedBN": "fedjob.common.protocols.fedbn",
    "FedBuff": "fedjob.common.protocols.fedbuff",
    "FedNova": "fedjob.common.protocols.fednova",
    "FedOpt": "fedjob.common.protocols.fedopt",
    "FedPer": "fedjob.common.protocols.fedper",
    "FedProx": "fedjob.common.protocols.fedprox",
    "FedYogi": "fedjob.common.optimizers.yogi",
    "FedjobError": "fedjob.common.errors",
    "Filter": "fedjob.common.preprocess.rows",
    "FineTuned": "fedjob.common.protocols.finetuned",
    "Fraction": "fedjob.researcher.selectors.fraction",
    "GeometricMedian": "fedjob.common.folds.geometric_median",
    "Guard": "fedjob.common.guard",
    "Hook": "fedjob.researcher.hooks.base",
    "Impute": "fedjob.common.preprocess.missing",
    "Inference": "fedjob.common.protocols.inference",
    "Items": "fedjob.common.items",
    "Job": "fedjob.researcher.job",
    "JobFailed": "fedjob.common.errors",
    "KMeans": "fedjob.common.protocols.kmeans",
    "KeepBest": "fedjob.researcher.hooks.best_round",
    "Krum": "fedjob.common.folds.krum",
    "LinearDecay": "fedjob.common.schedules",
    "LinearRegression": "fedjob.common.protocols.linear",
    "LogisticRegression": "fedjob.common.protocols.glm",
    "Median": "fedjob.common.folds.median",
    "NoSuchJob": "fedjob.common.errors",
    "NodeRefused": "fedjob.common.errors",
    "NormBounded": "fedjob.common.folds.norm_bounded",
    "NotReady": "fedjob.common.errors",
    "OverSelection": "fedjob.researcher.selectors.over_selection",
    "PCA": "fedjob.common.protocols.pca",
    "Piecewise": "fedjob.common.schedules",
    "PlainMean": "fedjob.common.folds.plain_mean",
    "Plan": "fedjob.common.plans.step",
    "PoissonRegression": "fedjob.common.protocols.glm",
    "PowerOfChoice": "fedjob.researcher.selectors.power_of_choice",
    "PrivateSetIntersection": "fedjob.common.protocols.psi",
    "QFedAvg": "fedjob.common.protocols.qfedavg",
    "Quorum": "fedjob.common.quorum",
    "Resize": "fedjob.common.preprocess.images",
    "Ridge": "fedjob.common.protocols.linear",
    "Scaffold": "fedjob.common.protocols.scaffold",
    "Scale": "fedjob.common.preprocess.scale",
    "Select": "fedjob.common.preprocess.columns",
    "Session": "fedjob.researcher.session",
    "SklearnPlan": "fedjob.common.plans.sklearn",
    "SpecError": "fedjob.common.errors",
    "State": "fedjob.common.lifecycle",
    "Statistics": "fedjob.common.protocols.statistics",
    "StepDecay": "fedjob.common.schedules",
    "SubmitError": "fedjob.common.errors",
    "Target": "fedjob.common.preprocess.columns",
    "TensorBoard": "fedjob.researcher.hooks.tensorboard",
    "TorchPlan": "fedjob.common.plans.torch",
    "TrimmedMean": "fedjob.common.folds.trimmed_mean",
    "WaitTimeout": "fedjob.common.errors",
    "WeightedMean": "fedjob.common.folds.mean",
    "connect": "fedjob.researcher.session",
    "cross_validate": "fedjob.researcher.cross_validation",
    "format_event": "fedjob.researcher.event",
    "function": "fedjob.common.plans.function",
    "off": "fedjob.researcher.handlers",
    "on": "fedjob.researcher.handlers",
    "plans": "fedjob.common.protocols",
}

__all__ = [
    "PCA",
    "AllNodes",
    "AmbiguousJob",
    "Bin",
    "Bulyan",
    "ByWeight",
    "Cast",
    "CentredClipping",
    "CosineDecay",
    "CoxRegression",
    "Cyclic",
    "Ditto",
    "EarlyStopping",
    "Encode",
    "Evaluation",
    "Explicit",
    "ExponentialDecay",
    "FedAdagrad",
    "FedAdam",
    "FedAvg",
    "FedAvgM",
    "FedBN",
    "FedBuff",
    "FedNova",
    "FedOpt",
    "FedPer",
    "FedProx",
    "FedYogi",
    "FedjobError",
    "Filter",
    "FineTuned",
    "Fraction",
    "GeometricMedian",
    "Guard",
    "Hook",
    "Impute",
    "Inference",
    "Items",
    "Job",
    "JobFailed",
    "KMeans",
    "KeepBest",
    "Krum",
    "LinearDecay",
    "LinearRegression",
    "LogisticRegression",
    "Median",
    "NoSuchJob",
    "NodeRefused",
    "NormBounded",
    "NotReady",
    "OverSelection",
    "Piecewise",
    "PlainMean",
    "Plan",
    "PoissonRegression",
    "PowerOfChoice",
    "PrivateSetIntersection",
    "QFedAvg",
    "Quorum",
    "Resize",
    "Ridge",
    "Scaffold",
    "Scale",
    "Select",
    "Session",
    "SklearnPlan",
    "SpecError",
    "State",
    "Statistics",
    "StepDecay",
    "SubmitError",
    "Target",
    "TensorBoard",
    "TorchPlan",
    "TrimmedMean",
    "WaitTimeout",
    "WeightedMean",
    "__version__",
    "connect",
    "cross_validate",
    "format_event",
    "function",
    "off",
    "on",
    "plans",
]

if TYPE_CHECKING:
    from fedjob.common.errors import (
        AmbiguousJob,
        FedjobError,
        JobFailed,
        NodeRefused,
        NoSuchJob,
        NotReady,
        SpecError,
        SubmitError,
        WaitTimeout,
    )
    from fedjob.common.folds.bulyan import Bulyan
    from fedjob.common.folds.centred_clipping import CentredClipping
    from fedjob.common.folds.geometric_median import GeometricMedian
    from fedjob.common.folds.krum import Krum
    from fedjob.common.folds.mean import WeightedMean
    from fedjob.common.folds.median import Median
    from fedjob.common.folds.norm_bounded import NormBounded
    from fedjob.common.folds.plain_mean import PlainMean
    from fedjob.common.folds.trimmed_mean import TrimmedMean
    from fedjob.common.guard import Guard
    from fedjob.common.items import Items
    from fedjob.common.lifecycle import State
    from fedjob.common.optimizers.adagrad import FedAdagrad
    from fedjob.common.optimizers.adam import FedAdam
    from fedjob.common.optimizers.momentum import FedAvgM
    from fedjob.common.optimizers.yogi import FedYogi
    from fedjob.common.plans.function import function
    from fedjob.common.plans.sklearn import SklearnPlan
    from fedjob.common.plans.step import Plan
    from fedjob.common.plans.torch import TorchPlan
    from fedjob.common.preprocess.categories import Bin, Encode
    from fedjob.common.preprocess.columns import Cast, Select, Target
    from fedjob.common.preprocess.images import Resize
    from fedjob.common.preprocess.missing import Impute
    from fedjob.common.preprocess.rows import Filter
    from fedjob.common.preprocess.scale import Scale
    from fedjob.common.protocols import plans
    from fedjob.common.protocols.cox import CoxRegression
    from fedjob.common.protocols.cyclic import Cyclic
    from fedjob.common.protocols.ditto import Ditto
    from fedjob.common.protocols.evaluation import Evaluation
    from fedjob.common.protocols.fedavg import FedAvg
    from fedjob.common.protocols.fedbn import FedBN
    from fedjob.common.protocols.fedbuff import FedBuff
    from fedjob.common.protocols.fednova import FedNova
    from fedjob.common.protocols.fedopt import FedOpt
    from fedjob.common.protocols.fedper import FedPer
    from fedjob.common.protocols.fedprox import FedProx
    from fedjob.common.protocols.finetuned import FineTuned
    from fedjob.common.protocols.glm import LogisticRegression, PoissonRegression
    from fedjob.common.protocols.inference import Inference
    from fedjob.common.protocols.kmeans import KMeans
    from fedjob.common.protocols.linear import LinearRegression, Ridge
    from fedjob.common.protocols.pca import PCA
    from fedjob.common.protocols.psi import PrivateSetIntersection
    from fedjob.common.protocols.qfedavg import QFedAvg
    from fedjob.common.protocols.scaffold import Scaffold
    from fedjob.common.protocols.statistics import Statistics
    from fedjob.common.quorum import Quorum
    from fedjob.common.schedules import CosineDecay, ExponentialDecay, LinearDecay, Piecewise, StepDecay
    from fedjob.researcher.cross_validation import cross_validate
    from fedjob.researcher.event import format_event
    from fedjob.researcher.handlers import off, on
    from fedjob.researcher.hooks.base import Hook
    from fedjob.researcher.hooks.best_round import KeepBest
    from fedjob.researcher.hooks.early_stopping import EarlyStopping
    from fedjob.researcher.hooks.tensorboard import TensorBoard
    from fedjob.researcher.job import Job
    from fedjob.researcher.selectors.all_nodes import AllNodes
    from fedjob.researcher.selectors.by_weight import ByWeight
    from fedjob.researcher.selectors.explicit import Explicit
    from fedjob.researcher.selectors.fraction import Fraction
    from fedjob.researcher.selectors.over_selection import OverSelection
    from fedjob.researcher.selectors.power_of_choice import PowerOfChoice
    from fedjob.researcher.session import Session, connect


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module 'fedjob' has no attribute {name!r}")
    return getattr(import_module(_NAMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_NAMES})
