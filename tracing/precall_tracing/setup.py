"""Sets the OpenTelemetry SDK up, once, in the process that serves. Nobody else imports the SDK."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

FLUSH_S = 5.0


@contextmanager
def exported_traces(endpoint: str | None, version: str) -> Generator[None]:
    """Sends spans to an OTLP/gRPC collector (`http://host:4317`) until the block ends.

    None: spans are not recorded at all. A collector that is down costs spans, never a turn: they
    are batched in a bounded queue and dropped when it is full.
    """
    if endpoint is None:
        yield
        return
    provider = TracerProvider(
        resource=Resource.create({SERVICE_NAME: "precall", SERVICE_VERSION: version})
    )
    exporter = OTLPSpanExporter(endpoint=endpoint, insecure=endpoint.startswith("http://"))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    try:
        yield
    finally:
        provider.force_flush(round(FLUSH_S * 1000))
        provider.shutdown()
