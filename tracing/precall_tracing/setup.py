"""Sets the OpenTelemetry SDK up, once, in the process that serves. Nobody else imports the SDK."""

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
"""How long a batch may take to reach the collector, and at the end all that are left."""


@asynccontextmanager
async def exported_traces(endpoint: str | None, version: str) -> AsyncGenerator[None]:
    """Sends spans to an OTLP/gRPC collector (`http://host:4317`) until the block ends.

    None: spans are not recorded at all. A collector that is down costs spans, never a turn: they
    are batched in a bounded queue and dropped when it is full, and so is what it has not taken
    within `EXPORT_TIMEOUT_S` of the block's end.

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
        shutdown_on_exit=False,  # the end of this block does it, and waits less
    )
    provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    try:
        yield
    finally:
        await _shut_down(provider)


async def _shut_down(provider: TracerProvider) -> None:
    """Exports what is left, in a thread that nobody has to wait for: the SDK's own limits add up.

    `force_flush` is not for this: it takes no notice of its timeout.
    """
    loop, over = asyncio.get_running_loop(), asyncio.Event()

    def shut_down() -> None:
        provider.shutdown()
        with contextlib.suppress(RuntimeError):  # the loop has been closed meanwhile
            loop.call_soon_threadsafe(over.set)

    threading.Thread(target=shut_down, name="precall-traces", daemon=True).start()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(EXPORT_TIMEOUT_S):
            await over.wait()
