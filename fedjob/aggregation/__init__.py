"""The registry of aggregators, by name."""

from __future__ import annotations

from fedjob.aggregation.base import Aggregator
from fedjob.common.registry import Registry

AGGREGATORS: Registry[Aggregator] = Registry(
    "aggregator",
    {
        "buffered_mean": "fedjob.aggregation.mean:BufferedMean",
        "bulyan": "fedjob.aggregation.robust.krum:Bulyan",
        "centred_clipping": "fedjob.aggregation.robust.centred_clipping:CentredClipping",
        "collect": "fedjob.aggregation.collect:Collect",
        "geometric_median": "fedjob.aggregation.robust.geometric_median:GeometricMedian",
        "krum": "fedjob.aggregation.robust.krum:Krum",
        "median": "fedjob.aggregation.robust.median:Median",
        "norm_bounded": "fedjob.aggregation.robust.norm_bounded:NormBounded",
        "plain_mean": "fedjob.aggregation.mean:PlainMean",
        "stacked_adapters": "fedjob.aggregation.stacked:StackedAdapters",
        "sum": "fedjob.aggregation.sum:Sum",
        "trimmed_mean": "fedjob.aggregation.robust.trimmed_mean:TrimmedMean",
        "weighted_mean": "fedjob.aggregation.mean:WeightedMean",
    },
)
