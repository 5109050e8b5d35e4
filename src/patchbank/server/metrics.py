"""What Prometheus reads at /metrics. One registry for each application, so that two in a process do not mix."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client import exposition as text
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from patchbank.version import __version__

disable_created_metrics()  # type: ignore[no-untyped-call]  # the time of each series' start doubles their number, and says nothing here
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """The service's numbers."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        Info("patchbank_build", "The software", registry=self.registry).info({"version": __version__})
        self.requests = Counter(
            "patchbank_http_requests", "Requests that were answered", ["method", "route", "status"],
            registry=self.registry,
        )  # fmt: skip
        self.request_seconds = Histogram(
            "patchbank_http_request_seconds", "Time from a request's head to its answer's end", ["method", "route"],
            buckets=_SECONDS, registry=self.registry,
        )  # fmt: skip
        self.inspections = Counter(
            "patchbank_inspections", "Images that were inspected", ["model", "verdict"], registry=self.registry
        )
        self.inspection_seconds = Histogram(
            "patchbank_inspection_seconds", "Time from an image's hand-over to its result, waiting included", ["model"],
            buckets=_SECONDS, registry=self.registry,
        )  # fmt: skip
        self.delivered = Counter(
            "patchbank_delivered", "Finished results that lines delivered", ["outcome"], registry=self.registry
        )
        self.shadows = Counter(
            "patchbank_shadow", "Parts for versions that only watch", ["model", "outcome"], registry=self.registry
        )
        self.refused = Counter(
            "patchbank_refused", "Images that got no result", ["model", "reason"], registry=self.registry
        )

    def gauge(self, name: str, about: str, labels: tuple[str, ...], read: Callable[[], Iterable[_Sample]]) -> None:
        """Adds a number that is asked for when it is read. read: returns pairs of the labels' values and the number."""
        self.registry.register(_Gauge(name, about, labels, read))

    def exposition(self) -> tuple[bytes, str]:
        """Returns all of it in Prometheus' text format, and its media type."""
        return text.generate_latest(self.registry), text.CONTENT_TYPE_LATEST


_Sample = tuple[tuple[str, ...], float]


class _Gauge(Collector):
    def __init__(self, name: str, about: str, labels: tuple[str, ...], read: Callable[[], Iterable[_Sample]]) -> None:
        self._about, self._read = (name, about, labels), read

    def describe(self) -> list[GaugeMetricFamily]:
        name, about, labels = self._about
        return [GaugeMetricFamily(name, about, labels=labels)]

    def collect(self) -> list[GaugeMetricFamily]:
        (family,) = self.describe()
        for labels, value in self._read():
            family.add_metric(labels, value)
        return [family]
