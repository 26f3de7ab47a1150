"""Sets up the OpenTelemetry SDK, once per service process. No other module imports the SDK."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

EXPORT_TIMEOUT_S: Final = 5.0
"""The limit for exporting one batch, and at the end for all spans that are left."""


@asynccontextmanager
async def exported_traces(endpoint: str | None, version: str) -> AsyncGenerator[None]:
    """Sends spans to an OTLP/gRPC collector (`http://host:4317`) until the block ends.

    Without an endpoint, spans are not recorded. If the collector is down, spans are lost, but turns
    are not affected: spans are queued for export in batches and dropped when the queue is full.
    After the end of the block, spans that are not exported within `EXPORT_TIMEOUT_S` are dropped.

    On cancel at the end: the spans that are left are dropped.
    """
    if endpoint is None:
        yield
        return
    exporter = OTLPSpanExporter(
        endpoint=endpoint, insecure=endpoint.startswith("http://"), timeout=EXPORT_TIMEOUT_S
    )
    provider = TracerProvider(
        resource=Resource.create({SERVICE_NAME: "precall", SERVICE_VERSION: version}),
        shutdown_on_exit=False,  # `_shut_down` does it, with a shorter limit
    )
    provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    try:
        yield
    finally:
        await _shut_down(provider)


async def _shut_down(provider: TracerProvider) -> None:
    """Exports the spans that are left, waiting for at most `EXPORT_TIMEOUT_S`.

    A daemon thread does it, so that its end need not be awaited: the SDK's own limits add up to
    more. `force_flush` is no alternative, since it ignores its timeout.
    """
    loop, over = asyncio.get_running_loop(), asyncio.Event()

    def shut_down() -> None:
        provider.shutdown()
        with contextlib.suppress(RuntimeError):  # the loop may be closed by now
            loop.call_soon_threadsafe(over.set)

    threading.Thread(target=shut_down, name="precall-traces", daemon=True).start()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(EXPORT_TIMEOUT_S):
            await over.wait()
