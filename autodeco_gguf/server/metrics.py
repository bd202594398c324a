"""What /metrics says."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from autodeco_gguf.server.driver import Driver

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)


class Metrics:
    """Counts of one server, in Prometheus' text format."""

    def __init__(self, driver: Driver) -> None:
        """Begin at zero."""
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "autodeco_requests", "HTTP requests answered.", ["method", "path", "status"], registry=registry
        )
        self.prompt_tokens = Counter("autodeco_prompt_tokens", "Tokens of prompts.", registry=registry)
        self.completion_tokens = Counter("autodeco_completion_tokens", "Tokens drawn.", registry=registry)
        self.cancelled = Counter("autodeco_cancelled", "Requests whose client went away.", registry=registry)
        self.first_token = Histogram(
            "autodeco_first_token_seconds",
            "From a request to its first token, of answers that come token by token.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.duration = Histogram(
            "autodeco_request_seconds", "From a request to its end.", buckets=_SECONDS, registry=registry
        )
        running = Gauge("autodeco_running", "Answers that have a sequence.", registry=registry)
        waiting = Gauge("autodeco_waiting", "Answers that wait for one.", registry=registry)
        running.set_function(lambda: driver.counts[0])
        waiting.set_function(lambda: driver.counts[1])

    def text(self) -> bytes:
        """The page."""
        return generate_latest(self._registry)
