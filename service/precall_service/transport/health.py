"""The health of each service, for probes and load balancers.

https://github.com/grpc/grpc-proto/blob/master/grpc/health/v1/health.proto

The servicer of grpcio-health-checking is not used, because it writes to its watchers while it holds
the lock that status changes need. A watcher that does not read would block every change forever,
and with it the shutdown, which begins with a change.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

_Response = health_pb2.HealthCheckResponse
_Context = grpc.aio.ServicerContext[health_pb2.HealthCheckRequest, _Response]


class HealthServicer(health_pb2_grpc.HealthServicer):
    """Serves grpc.health.v1.Health. A service is unknown until its status is set."""

    def __init__(self) -> None:
        self._serving: dict[str, bool] = {}
        self._changed = asyncio.Event()

    def set(self, service: str, *, serving: bool) -> None:
        """Sets the status of a service; the empty name stands for the whole server."""
        self._serving[service] = serving
        self._changed.set()
        self._changed = asyncio.Event()

    async def Check(  # noqa: N802 - the name is the contract's
        self, request: health_pb2.HealthCheckRequest, context: _Context
    ) -> _Response:
        """Returns the current status of a service; NOT_FOUND if it is unknown."""
        if request.service not in self._serving:
            await context.abort(
                grpc.StatusCode.NOT_FOUND, f"there is no service {request.service[:80]!r}"
            )
        return _Response(status=self._status(request.service))

    async def Watch(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: _Context
    ) -> AsyncGenerator[_Response]:
        """Yields the current status of a service, then every change; a slow reader misses some."""
        sent: _Response.ServingStatus.ValueType | None = None
        while True:
            changed = self._changed
            status = self._status(request.service)
            if status != sent:
                sent = status
                yield _Response(status=status)
            else:
                await changed.wait()

    def _status(self, service: str) -> _Response.ServingStatus.ValueType:
        serving = self._serving.get(service)
        if serving is None:
            return _Response.SERVICE_UNKNOWN
        return _Response.SERVING if serving else _Response.NOT_SERVING
