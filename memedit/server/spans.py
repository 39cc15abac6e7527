"""One OpenTelemetry span a request: what memedit decided on it, and how long that took.

Spans go to an OTLP endpoint in the background. A request that brings a ``traceparent`` is part of
that trace. Needs the extra ``otel``; nothing of it is imported unless an endpoint is set.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from memedit.errors import MissingDependency
from memedit.server.asgi import Scope, header

NAME = "memedit.request"


class Spans:
    """Sends spans to an endpoint.

    Args:
        endpoint: of OTLP over HTTP, such as ``http://127.0.0.1:4318/v1/traces``.

    Raises:
        MissingDependency: OpenTelemetry's SDK and exporter are not installed.
    """

    def __init__(self, endpoint: str) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.trace import SpanKind
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ImportError as error:
            raise MissingDependency(
                "server.spans needs OpenTelemetry: pip install 'memedit[otel]', or leave it empty"
            ) from error
        self._provider = TracerProvider(resource=Resource({"service.name": "memedit"}))
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
        self._tracer = self._provider.get_tracer("memedit")
        self._kind = SpanKind.SERVER
        self._propagator = TraceContextTextMapPropagator()

    def record(self, scope: Scope, seconds: float, attributes: Mapping[str, Any]) -> None:
        """A span that ends now.

        Args:
            scope: of the request.
            seconds: how long it took.
            attributes: under ``memedit.`` each.
        """
        ended = time.time_ns()
        carried = {
            name: value.decode("latin-1")
            for name in ("traceparent", "tracestate")
            if (value := header(scope["headers"], name.encode())) is not None
        }
        span = self._tracer.start_span(
            NAME,
            context=self._propagator.extract(carried),
            kind=self._kind,
            attributes={f"memedit.{name}": value for name, value in attributes.items()},
            start_time=ended - int(seconds * 1e9),
        )
        span.end(ended)

    def close(self) -> None:
        """Sends what is waiting."""
        self._provider.shutdown()
