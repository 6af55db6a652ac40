"""The registry of aggregators, by name."""

from __future__ import annotations

from fedjob.common.folds.base import Fold
from fedjob.common.registry import Registry

FOLDS: Registry[Fold] = Registry(
    "fold",
    {
        "buffered_mean": "fedjob.common.folds.buffered_mean:BufferedMean",
        "bulyan": "fedjob.common.folds.bulyan:Bulyan",
        "centred_clipping": "fedjob.common.folds.centred_clipping:CentredClipping",
        "collect": "fedjob.common.folds.collect:Collect",
        "geometric_median": "fedjob.common.folds.geometric_median:GeometricMedian",
        "krum": "fedjob.common.folds.krum:Krum",
        "median": "fedjob.common.folds.median:Median",
        "norm_bounded": "fedjob.common.folds.norm_bounded:NormBounded",
        "plain_mean": "fedjob.common.folds.plain_mean:PlainMean",
        "sum": "fedjob.common.folds.sum:Sum",
        "trimmed_mean": "fedjob.common.folds.trimmed_mean:TrimmedMean",
        "weighted_mean": "fedjob.common.folds.mean:WeightedMean",
    },
)
