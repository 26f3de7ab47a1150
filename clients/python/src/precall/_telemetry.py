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


def handler_context(
    turn: contextvars.Context, parent: common_pb2.TraceContext
) -> contextvars.Context:
    """Returns a copy of a turn's context for one run of a handler; `parent` is its current span.

    The context is used for that run only, so nothing has to be detached afterwards.
    """
    carrier = {"traceparent": parent.traceparent, "tracestate": parent.tracestate}
    context = turn.copy()
    # Baggage of the turn is kept; its span is replaced if the server sent another one.
    current = context.run(otel_context.get_current)
    context.run(otel_context.attach, _PROPAGATOR.extract(carrier, current))
    return context
