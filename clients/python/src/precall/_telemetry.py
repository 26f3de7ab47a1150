"""Trace context in and out of frames; without an OpenTelemetry SDK it has no effect."""

from __future__ import annotations

import contextvars

from opentelemetry import context as otel_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from precall.v1 import common_pb2

_PROPAGATOR = TraceContextTextMapPropagator()


def current() -> common_pb2.TraceContext | None:
    """Returns the trace context of the current span; None if there is no span."""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier)
    if "traceparent" not in carrier:
        return None
    return common_pb2.TraceContext(
        traceparent=carrier["traceparent"], tracestate=carrier.get("tracestate", "")
    )


def handler_context(parent: common_pb2.TraceContext) -> contextvars.Context:
    """Returns a context for one run of a handler, in which `parent` is the current span.

    The context is used for that run only, so nothing has to be detached afterwards.
    """
    carrier = {"traceparent": parent.traceparent, "tracestate": parent.tracestate}
    context = contextvars.copy_context()
    # From an empty context: the span that was current when the stream opened is unrelated.
    context.run(otel_context.attach, _PROPAGATOR.extract(carrier, otel_context.Context()))
    return context
