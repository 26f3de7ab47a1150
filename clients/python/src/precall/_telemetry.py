"""Trace context in and out of frames; without an OpenTelemetry SDK all of it does nothing."""

from __future__ import annotations

import contextvars

from opentelemetry import context as otel_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from precall.v1 import common_pb2

_PROPAGATOR = TraceContextTextMapPropagator()


def current() -> common_pb2.TraceContext | None:
    """Returns the trace context of the current span; None without one."""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier)
    if "traceparent" not in carrier:
        return None
    return common_pb2.TraceContext(
        traceparent=carrier["traceparent"], tracestate=carrier.get("tracestate", "")
    )


def handler_context(parent: common_pb2.TraceContext) -> contextvars.Context:
    """Returns a context to run a handler in, in which `parent` is the current span.

    The context belongs to that one run, so nothing has to be detached afterwards.
    """
    carrier = {"traceparent": parent.traceparent, "tracestate": parent.tracestate}
    context = contextvars.copy_context()
    # From an empty context: the one that was current when the stream opened has nothing to say.
    context.run(otel_context.attach, _PROPAGATOR.extract(carrier, otel_context.Context()))
    return context
