"""Ray's metrics by the catalog of `serve.metric_names`; what a replica reads is handed to them.

The only place of the day that knows `ray.util.metrics` (by its Serve wrapper, which adds the labels
deployment, replica and application).
"""

from collections.abc import Callable
from typing import Any

from ray.serve.metrics import Counter, Gauge, Histogram

from serve.metric_names import METRICS, Metric
from serve.metrics import Reading, Tell

_Take = Callable[[float, dict[str, str]], None]


def ray_metrics() -> Tell:
    """Registers every metric; returns what hands a reading to its own. Call it in a replica."""
    takes = {name: _take(metric) for name, metric in METRICS.items()}

    def tell(reading: Reading) -> None:
        takes[reading.name](reading.value, dict(reading.labels))

    return tell


def _take(metric: Metric) -> _Take:
    """Counters are told what came since the last reading, histograms one observation."""
    tags: Any = metric.labels  # of any length, whatever Ray's annotation says
    if metric.kind == "counter":
        counter = Counter(metric.name, description=metric.help, tag_keys=tags)
        return lambda value, labels: counter.inc(value, labels)
    if metric.kind == "gauge":
        gauge = Gauge(metric.name, description=metric.help, tag_keys=tags)
        return lambda value, labels: gauge.set(value, labels)
    buckets = list(metric.buckets)
    histogram = Histogram(metric.name, description=metric.help, boundaries=buckets, tag_keys=tags)
    return lambda value, labels: histogram.observe(value, labels)
