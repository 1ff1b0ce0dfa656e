"""What `/metrics` shows, in the form of Prometheus; each application has a registry of its own."""

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from .rows import RowAnswer
from .scheduler import Scheduler


class Metrics:
    """Counts requests and answers, and reads the counts of a scheduler.

    Args:
        scheduler ([`Scheduler`]):
            The scheduler.
    """

    def __init__(self, scheduler: Scheduler):
        self._registry = CollectorRegistry()
        self._registry.register(_SchedulerCounts(scheduler))  # type: ignore[arg-type]
        own = self._registry
        self._requests = Counter("demask_requests", "Answered requests.", ["endpoint", "status"], registry=own)
        self._seconds = Histogram("demask_request_seconds", "Time to the last word.", ["endpoint"], registry=own)
        self._tokens = Counter("demask_tokens", "Tokens that were written.", registry=own)
        self._passes = Counter("demask_answer_passes", "Forward passes of finished answers.", registry=own)

    def add_request(self, endpoint: str, status: int, seconds: float) -> None:
        """Count a request that was answered."""
        self._requests.labels(endpoint, str(status)).inc()
        self._seconds.labels(endpoint).observe(seconds)

    def add_answer(self, answer: RowAnswer) -> None:
        """Count an answer."""
        self._tokens.inc(answer.num_tokens)
        self._passes.inc(answer.num_forward_passes)

    def text(self) -> bytes:
        """Return all of them in the text format of Prometheus."""
        return generate_latest(self._registry)


class _SchedulerCounts:
    """Reads the counts of a scheduler when they are asked for."""

    def __init__(self, scheduler: Scheduler):
        self._scheduler = scheduler

    def collect(self) -> Iterator[Metric]:
        """Yield the counts."""
        scheduler, counts = self._scheduler, self._scheduler.counts
        kinds: list[tuple[Callable[..., Metric], str, str, float]] = [
            (GaugeMetricFamily, "demask_running_rows", "Rows that are decoded.", scheduler.num_running),
            (GaugeMetricFamily, "demask_waiting_rows", "Rows that wait to join.", scheduler.num_waiting),
            (CounterMetricFamily, "demask_forward_passes", "Shared forward passes.", counts.num_forward_passes),
            (CounterMetricFamily, "demask_row_passes", "Rows in these.", counts.num_row_passes),
            (CounterMetricFamily, "demask_positions", "Positions in these.", counts.num_positions),
            (CounterMetricFamily, "demask_padding", "Positions of padding between rows.", counts.num_padding),
            (CounterMetricFamily, "demask_failed_passes", "Passes run again row by row.", counts.num_failed_passes),
        ]
        for kind, name, text, value in kinds:
            yield kind(name, text, value=value)
