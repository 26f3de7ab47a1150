"""What probes and watchers are sent; most of it is tested in tests/protocol."""

from __future__ import annotations

from typing import Any

from grpc_health.v1 import health_pb2

from precall_service.transport.health import HealthServicer

REQUEST = health_pb2.HealthCheckRequest(service="s")
CONTEXT: Any = None


async def test_watchers_get_every_change_even_if_one_of_them_does_not_read() -> None:
    health = HealthServicer()
    stuck, reader = (health.Watch(REQUEST, CONTEXT) for _ in range(2))
    await anext(stuck)
    statuses = [(await anext(reader)).status]
    for serving in (False, True, False):
        health.set("s", serving=serving)
        statuses.append((await anext(reader)).status)
    response = health_pb2.HealthCheckResponse
    assert statuses == [
        response.SERVICE_UNKNOWN,
        response.NOT_SERVING,
        response.SERVING,
        response.NOT_SERVING,
    ]
    assert (await anext(stuck)).status == response.NOT_SERVING
    await stuck.aclose()
    await reader.aclose()
