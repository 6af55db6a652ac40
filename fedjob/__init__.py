"""fedjob: federated learning jobs.

Train and evaluate models on data that never leaves its owners. The names below
are loaded when they are first used, so that importing fedjob imports no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fedjob._version import __version__

if TYPE_CHECKING:
    from fedjob.aggregation.guard import Guard
    from fedjob.aggregation.mean import PlainMean, WeightedMean
    from fedjob.aggregation.robust.centred_clipping import CentredClipping
    from fedjob.aggregation.robust.geometric_median import GeometricMedian
    from fedjob.aggregation.robust.krum import Bulyan, Krum
    from fedjob.aggregation.robust.median import Median
    from fedjob.aggregation.robust.norm_bounded import NormBounded
    from fedjob.aggregation.robust.trimmed_mean import TrimmedMean
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
    from fedjob.common.items import Items
    from fedjob.common.lifecycle import State
    from fedjob.common.quorum import Quorum
    from fedjob.data.preprocessing.categories import Bin, Encode
    from fedjob.data.preprocessing.columns import Cast, Select, Target
    from fedjob.data.preprocessing.images import Resize
    from fedjob.data.preprocessing.missing import Impute
    from fedjob.data.preprocessing.rows import Filter
    from fedjob.data.preprocessing.scale import Scale
    from fedjob.optimizers.adaptive import FedAdagrad, FedAdam, FedYogi
    from fedjob.optimizers.momentum import FedAvgM
    from fedjob.protocols import plans
    from fedjob.protocols.analytics.cox import CoxRegression
    from fedjob.protocols.analytics.glm import LogisticRegression, PoissonRegression
    from fedjob.protocols.analytics.kmeans import KMeans
    from fedjob.protocols.analytics.linear import LinearRegression, Ridge
    from fedjob.protocols.analytics.pca import PCA
    from fedjob.protocols.analytics.statistics import Statistics
    from fedjob.protocols.evaluation import Evaluation
    from fedjob.protocols.inference import Inference
    from fedjob.protocols.psi import PrivateSetIntersection
    from fedjob.protocols.training.cyclic import Cyclic
    from fedjob.protocols.training.ditto import Ditto
    from fedjob.protocols.training.fedavg import FedAvg
    from fedjob.protocols.training.fedbn import FedBN
    from fedjob.protocols.training.fedbuff import FedBuff
    from fedjob.protocols.training.fednova import FedNova
    from fedjob.protocols.training.fedopt import FedOpt
    from fedjob.protocols.training.fedper import FedPer
    from fedjob.protocols.training.fedprox import FedProx
    from fedjob.protocols.training.finetuned import FineTuned
    from fedjob.protocols.training.qfedavg import QFedAvg
    from fedjob.protocols.training.scaffold import Scaffold
    from fedjob.researcher.hooks.base import Hook
    from fedjob.researcher.hooks.best_round import KeepBest
    from fedjob.researcher.hooks.early_stopping import EarlyStopping
    from fedjob.researcher.hooks.tensorboard import TensorBoard
    from fedjob.researcher.jobs.cross_validation import cross_validate
    from fedjob.researcher.jobs.job import Job
    from fedjob.researcher.jobs.session import Session, connect
    from fedjob.researcher.monitoring.event_handlers import off, on
    from fedjob.researcher.selection.all_nodes import AllNodes
    from fedjob.researcher.selection.by_weight import ByWeight
    from fedjob.researcher.selection.explicit import Explicit
    from fedjob.researcher.selection.fraction import Fraction
    from fedjob.researcher.selection.over_selection import OverSelection
    from fedjob.researcher.selection.power_of_choice import PowerOfChoice
    from fedjob.researcher.storage.event import format_event
    from fedjob.training_plans.function import function
    from fedjob.training_plans.schedules import (
        CosineDecay,
        ExponentialDecay,
        LinearDecay,
        Piecewise,
        StepDecay,
    )
    from fedjob.training_plans.sklearn import SklearnPlan
    from fedjob.training_plans.step_plan import Plan
    from fedjob.training_plans.torch import TorchPlan
_NAMES = {
    "AllNodes": "fedjob.researcher.selection.all_nodes",
    "AmbiguousJob": "fedjob.common.errors",
    "Bin": "fedjob.data.preprocessing.categories",
    "Bulyan": "fedjob.aggregation.robust.krum",
    "ByWeight": "fedjob.researcher.selection.by_weight",
    "Cast": "fedjob.data.preprocessing.columns",
    "CentredClipping": "fedjob.aggregation.robust.centred_clipping",
    "CosineDecay": "fedjob.training_plans.schedules",
    "CoxRegression": "fedjob.protocols.analytics.cox",
    "Cyclic": "fedjob.protocols.training.cyclic",
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
    "FedBuff": "fedjob.protocols.training.fedbuff",
    "FedNova": "fedjob.protocols.training.fednova",
    "FedOpt": "fedjob.protocols.training.fedopt",
    "FedPer": "fedjob.protocols.training.fedper",
    "FedProx": "fedjob.protocols.training.fedprox",
    "FedYogi": "fedjob.optimizers.adaptive",
    "FedjobError": "fedjob.common.errors",
    "Filter": "fedjob.data.preprocessing.rows",
    "FineTuned": "fedjob.protocols.training.finetuned",
    "Fraction": "fedjob.researcher.selection.fraction",
    "GeometricMedian": "fedjob.aggregation.robust.geometric_median",
    "Guard": "fedjob.aggregation.guard",
    "Hook": "fedjob.researcher.hooks.base",
    "Impute": "fedjob.data.preprocessing.missing",
    "Inference": "fedjob.protocols.inference",
    "Items": "fedjob.common.items",
    "Job": "fedjob.researcher.jobs.job",
    "JobFailed": "fedjob.common.errors",
    "KMeans": "fedjob.protocols.analytics.kmeans",
    "KeepBest": "fedjob.researcher.hooks.best_round",
    "Krum": "fedjob.aggregation.robust.krum",
    "LinearDecay": "fedjob.training_plans.schedules",
    "LinearRegression": "fedjob.protocols.analytics.linear",
    "LogisticRegression": "fedjob.protocols.analytics.glm",
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
    "SklearnPlan": "fedjob.training_plans.sklearn",
    "SpecError": "fedjob.common.errors",
    "State": "fedjob.common.lifecycle",
    "Statistics": "fedjob.protocols.analytics.statistics",
    "StepDecay": "fedjob.training_plans.schedules",
    "SubmitError": "fedjob.common.errors",
    "Target": "fedjob.data.preprocessing.columns",
    "TensorBoard": "fedjob.researcher.hooks.tensorboard",
    "TorchPlan": "fedjob.training_plans.torch",
    "TrimmedMean": "fedjob.aggregation.robust.trimmed_mean",
    "WaitTimeout": "fedjob.common.errors",
    "WeightedMean": "fedjob.aggregation.mean",
    "connect": "fedjob.researcher.jobs.session",
    "cross_validate": "fedjob.researcher.jobs.cross_validation",
    "format_event": "fedjob.researcher.storage.event",
    "function": "fedjob.training_plans.function",
    "off": "fedjob.researcher.monitoring.event_handlers",
    "on": "fedjob.researcher.monitoring.event_handlers",
    "plans": "fedjob.protocols",
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


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module 'fedjob' has no attribute {name!r}")
    return getattr(import_module(_NAMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_NAMES})
