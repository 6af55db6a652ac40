"""Metrics in the text format of Prometheus; `prometheus-client`, which writes it, is an optional package.

Names follow the conventions of Prometheus (https://prometheus.io/docs/practices/naming):
base units, `_total` for what only grows. Labels have few values, all of fedjob's own
choice: no name of a job, party, dataset or file is ever one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from fedjob.common.errors import MissingPackage

Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class MetricFamily:
    """All samples of one metric.

    Args:
        name: with its unit; of a counter with `_total`.
        samples: labels -> value.
    """

    name: str
    kind: Literal["gauge", "counter"]
    help: str
    samples: Mapping[Labels, float]


def gauge(name: str, help_: str, value: float) -> MetricFamily:
    """Return a gauge without labels."""
    return MetricFamily(name, "gauge", help_, {(): float(value)})


def counter(name: str, help_: str, value: float) -> MetricFamily:
    """Return a counter without labels."""
    return MetricFamily(name, "counter", help_, {(): float(value)})


def by_label(
    kind: Literal["gauge", "counter"], name: str, help_: str, label: str, values: Mapping[str, float]
) -> MetricFamily:
    """Return a metric with one label."""
    return MetricFamily(name, kind, help_, {((label, key),): float(value) for key, value in values.items()})


def exposition(families: Iterable[MetricFamily]) -> tuple[bytes, str]:
    """Return metrics, with those of this process, as Prometheus reads them, and the content's type.

    Raises:
        MissingPackage: `prometheus-client` is not installed.
    """
    try:
        from prometheus_client import (
            CONTENT_TYPE_LATEST,
            CollectorRegistry,
            ProcessCollector,
            generate_latest,
        )
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
        from prometheus_client.registry import Collector
    except ImportError as error:
        raise MissingPackage("metrics need prometheus-client: pip install 'fedjob[metrics]'") from error

    class Collected(Collector):
        def collect(self) -> Iterable[Metric]:
            for family in families:
                names = [label for label, _ in next(iter(family.samples), ())]
                kind = GaugeMetricFamily if family.kind == "gauge" else CounterMetricFamily
                metric = kind(family.name, family.help, labels=names)
                for labels, value in sorted(family.samples.items()):
                    metric.add_metric([text for _, text in labels], value)
                yield metric

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collected())
    ProcessCollector(registry=registry)
    return generate_latest(registry), CONTENT_TYPE_LATEST
