"""What Prometheus is told. Every name begins with ``memedit_``; docs/serving.md lists them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from memedit.protocols import Decision

_SCORES = (0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
OTHER = "other"


class Metrics:
    """The counters of one server, in a registry of their own.

    Args:
        edits: how many edits have a counter of their own; the rest share ``edit="other"``, so
            that a memory of a million edits does not become a million series.
    """

    def __init__(self, *, edits: int = 1_000) -> None:
        self.registry = CollectorRegistry()
        self._most = edits
        self._fired: dict[str, Counter] = {}
        self._decisions = Counter(
            "memedit_decisions_total",
            "Prompts decided on, by the route that followed.",
            ["route"],
            registry=self.registry,
        )
        self._scope = Histogram(
            "memedit_scope_score",
            "Probability that a prompt is about its best candidate.",
            buckets=_SCORES,
            registry=self.registry,
        )
        self._stages = Histogram(
            "memedit_stage_seconds",
            "Seconds that a stage of a request took in memedit.",
            ["stage"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._fires = Counter(
            "memedit_edit_fires_total",
            "Prompts that an edit took part in.",
            ["edit"],
            registry=self.registry,
        )
        self._cache = Counter(
            "memedit_decision_cache_total",
            "Requests whose decisions were known (hit) or had to be made (miss).",
            ["result"],
            registry=self.registry,
        )
        self._speculations = Counter(
            "memedit_speculations_total",
            "Calls sent upstream before their decision, and what came of them.",
            ["outcome"],
            registry=self.registry,
        )
        self._failures = Counter(
            "memedit_decision_failures_total",
            "Requests on which no decision could be made: passed on (fail_open) or refused.",
            ["policy", "reason"],
            registry=self.registry,
        )
        self._upstream = Counter(
            "memedit_upstream_failures_total",
            "Requests that the upstream did not answer, or not to the end.",
            ["kind"],
            registry=self.registry,
        )
        self._refused = Counter(
            "memedit_refused_total",
            "Requests that memedit refused itself.",
            ["reason"],
            registry=self.registry,
        )
        self._evidence = Counter(
            "memedit_evidence_tokens_total",
            "Prompt tokens that evidence added, where the server could count them.",
            registry=self.registry,
        )
        self.in_flight = Gauge(
            "memedit_requests_in_flight",
            "Requests on paths that edits apply to.",
            registry=self.registry,
        )
        self._hit, self._miss = (self._cache.labels(name) for name in ("hit", "miss"))
        self._routes: dict[str, Counter] = {}
        self._stage: dict[str, Histogram] = {}
        for outcome in ("kept", "cancelled"):
            self._speculations.labels(outcome)

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """A gauge that is read when somebody asks for it."""
        Gauge(name, text, registry=self.registry).set_function(read)

    def decided(self, decisions: Iterable[Decision], *, known: bool) -> None:
        """Decisions, one a prompt, and whether they were known already."""
        (self._hit if known else self._miss).inc()
        for decision in decisions:
            self._scope.observe(decision.scope)
            for edit in decision.edits:
                self._fire(edit.id).inc()

    def routed(self, route: str, prompts: int = 1) -> None:
        """What became of prompts in the end."""
        counter = self._routes.get(route)
        if counter is None:
            counter = self._routes[route] = self._decisions.labels(route)
        counter.inc(prompts)

    def took(self, stage: str, seconds: float) -> None:
        """The time of a stage."""
        histogram = self._stage.get(stage)
        if histogram is None:
            histogram = self._stage[stage] = self._stages.labels(stage)
        histogram.observe(seconds)

    def speculated(self, outcome: str) -> None:
        """A speculative call was ``kept`` or ``cancelled``."""
        self._speculations.labels(outcome).inc()

    def undecided(self, policy: str, reason: str) -> None:
        """No decision could be made."""
        self._failures.labels(policy, reason).inc()

    def unanswered(self, kind: str) -> None:
        """The upstream failed."""
        self._upstream.labels(kind).inc()

    def refused(self, reason: str) -> None:
        """Memedit refused a request."""
        self._refused.labels(reason).inc()

    def evidence(self, tokens: int) -> None:
        """Prompt tokens that evidence added."""
        self._evidence.inc(tokens)

    def text(self) -> bytes:
        """Everything, in Prometheus' text form."""
        return bytes(generate_latest(self.registry))

    def names(self) -> Sequence[str]:
        """The names of all metrics."""
        return [family.name for family in self.registry.collect()]

    def _fire(self, edit_id: str) -> Counter:
        counter = self._fired.get(edit_id)
        if counter is None:
            if len(self._fired) >= self._most:
                return self._fires.labels(OTHER)
            counter = self._fired[edit_id] = self._fires.labels(edit_id)
        return counter
