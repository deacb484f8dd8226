"""What the server counts, in Prometheus' form."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from serving.controllers import Controller
from serving.requests import Served
from serving.scheduler import Scheduler

TYPE = CONTENT_TYPE_PLAIN_0_0_4
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
NATS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
_NAME = "paretoprune_"


class Metrics:
    """Counts by point, in a registry of its own."""

    def __init__(self) -> None:
        """Has counted nothing."""
        own = self._registry = CollectorRegistry()
        by = ("point",)
        self._requests = Counter(f"{_NAME}requests", "Requests that have ended.", (*by, "outcome"), registry=own)
        self._prompt = Counter(f"{_NAME}prompt_tokens", "Tokens of their prompts.", by, registry=own)
        self._new = Counter(f"{_NAME}new_tokens", "Tokens that were written.", by, registry=own)
        words = "Times that a point went on with an answer that another one had begun, or gone on with."
        self._moves = Counter(f"{_NAME}switches", words, ("origin", "target"), registry=own)
        words = "Requests with a limit of time, by whether it was kept."
        self._slo = Counter(f"{_NAME}slo_requests", words, (*by, "kept"), registry=own)
        self._refused = Counter(
            f"{_NAME}refused", "Requests that were answered by an error.", ("status",), registry=own
        )
        words = "From arrival to the first work on a request."
        self._waited = Histogram(f"{_NAME}queue_seconds", words, by, buckets=SECONDS, registry=own)
        words = "From arrival to the first token."
        self._first = Histogram(f"{_NAME}first_token_seconds", words, by, buckets=SECONDS, registry=own)
        words = "From token to token, the mean of a request."
        self._token = Histogram(f"{_NAME}token_seconds", words, by, buckets=TOKEN_SECONDS, registry=own)
        words = "What a request was expected to lose against the dense model, in nats a token, where that is predicted."
        self._loss = Histogram(f"{_NAME}predicted_loss_nats", words, by, buckets=NATS, registry=own)
        words = "What the controller knows of its own work."
        self._controller = Gauge(f"{_NAME}controller", words, ("figure",), registry=own)
        self._queue = Gauge(f"{_NAME}queue", "Requests that wait or are being read.", registry=own)
        self._active = Gauge(f"{_NAME}active", "Requests that are being written.", by, registry=own)
        self._watched: tuple[Scheduler, Controller, Sequence[str]] | None = None

    def watch(self, scheduler: Scheduler, controller: Controller, points: Sequence[str]) -> None:
        """Shows a scheduler's load, and a controller's figures, whenever somebody looks.

        Args:
            scheduler: Whose.
            controller: Whose.
            points: The ids of all that it serves.
        """
        self._watched = scheduler, controller, points

    def served(self, served: Served) -> None:
        """Counts a request that has ended."""
        point = served.point
        self._requests.labels(point, served.outcome).inc()
        self._prompt.labels(point).inc(served.prompt_tokens)
        own = served.new_tokens - sum(served.others.values())
        for writer, count in {point: own, **served.others}.items():
            self._new.labels(writer).inc(count)
        for origin, target in served.moves:
            self._moves.labels(origin, target).inc()
        self._waited.labels(point).observe(served.waited_s)
        if served.slo_kept is not None:
            self._slo.labels(point, str(served.slo_kept).lower()).inc()
        if served.first_token_s is not None:
            self._first.labels(point).observe(served.first_token_s)
        if served.predicted_loss is not None:
            self._loss.labels(point).observe(served.predicted_loss)
        if served.token_s is not None:
            self._token.labels(point).observe(served.token_s)

    def refused(self, status: int) -> None:
        """Counts an error of HTTP."""
        self._refused.labels(str(status)).inc()

    def text(self) -> bytes:
        """All of it, as it is now."""
        if self._watched is not None:
            scheduler, controller, points = self._watched
            for figure, value in controller.figures().items():
                self._controller.labels(figure).set(value)
            load = scheduler.load()
            self._queue.set(len(load.waiting))
            for point in points:
                self._active.labels(point).set(sum(each.point == point for each in load.writing))
        return generate_latest(self._registry)
