"""The gRPC server: address, options, services, health and reflection.

Owns: the listening socket and the health of each service.
Never: implements the services.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from precall.v1 import agent_pb2_grpc, tool_cache_pb2_grpc
from precall_service.agent.conversations import Conversations
from precall_service.cache.cache import ToolCache
from precall_service.engine.supervisor import EngineState, EngineSupervisor
from precall_service.transport.health import HealthServicer
from precall_service.transport.server_info import ServerInfo
from precall_service.transport.servicers import (
    AGENT_SERVICE,
    TOOL_CACHE_SERVICE,
    TOOL_HOST_SERVICE,
    AgentServicer,
    NotServed,
)
from precall_service.transport.tool_cache import ToolCacheServicer
from precall_service.transport.unreadable import UnreadableRequests

_HEALTH_SERVICE = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """Where to listen, and the limits on clients. Port 0 means a free port.

    Larger frames than `frame_bytes_max` are refused. At `wire_bytes_max`, which is larger, gRPC
    itself ends the stream. `handshake_s` is how long a client may take to send its first frame,
    `unread_s` how long it may leave events unread.
    """

    host: str = "127.0.0.1"
    port: int = 50151
    frame_bytes_max: int = 4 << 20
    wire_bytes_max: int = 16 << 20
    keepalive_s: float = 30.0
    keepalive_timeout_s: float = 10.0
    handshake_s: float = 30.0
    unread_s: float = 60.0


class AddressInUseError(Exception):
    """The server cannot listen at the address; the message says why and what to do."""


class GrpcServer:
    """Serves the contract on one address."""

    def __init__(
        self,
        options: ServerOptions,
        conversations: Conversations,
        cache: ToolCache,
        info: ServerInfo,
    ) -> None:
        self._options = options
        self._conversations = conversations
        self._stopping = False
        self._health = HealthServicer()
        self._server = grpc.aio.server(
            interceptors=(UnreadableRequests(),), options=_channel_options(options)
        )
        agent_pb2_grpc.add_AgentServiceServicer_to_server(
            AgentServicer(
                conversations, info, handshake_s=options.handshake_s, unread_s=options.unread_s
            ),
            self._server,
        )
        self._tool_cache = ToolCacheServicer(
            cache,
            info.clock,
            arguments_bytes_max=info.tool_limits.arguments_bytes_max,
            unread_s=options.unread_s,
        )
        tool_cache_pb2_grpc.add_ToolCacheServiceServicer_to_server(self._tool_cache, self._server)
        self._server.add_generic_rpc_handlers(
            (NotServed(TOOL_HOST_SERVICE, "CAPABILITY_TOOL_HOSTS"),)
        )
        health_pb2_grpc.add_HealthServicer_to_server(  # pyright: ignore[reportUnknownMemberType]
            self._health, self._server
        )
        reflection.enable_server_reflection(
            (
                AGENT_SERVICE.full_name,
                TOOL_HOST_SERVICE.full_name,
                TOOL_CACHE_SERVICE.full_name,
                _HEALTH_SERVICE,
                reflection.SERVICE_NAME,
            ),
            self._server,
        )

    async def start(self) -> str:
        """Listens and serves; returns the address as `host:port`.

        Liveness (the empty service name) and the tool cache, which needs no engine, are SERVING
        from now on. AgentService is NOT_SERVING until it is set to ready.

        Raises:
            AddressInUseError: the server cannot listen at the address.
        """
        host, port = self._options.host, self._options.port
        _check_free(host, port)
        address = f"[{host}]" if ":" in host else host
        try:
            bound = self._server.add_insecure_port(f"{address}:{port}")
        except RuntimeError as error:
            raise AddressInUseError(f"cannot listen at {address}:{port}: {error}") from None
        self._health.set("", serving=True)
        for service in (AGENT_SERVICE, TOOL_HOST_SERVICE):
            self._health.set(service.full_name, serving=False)
        self._health.set(TOOL_CACHE_SERVICE.full_name, serving=True)
        await self._server.start()
        return f"{address}:{bound}"

    def set_ready(self, *, ready: bool) -> None:
        """Sets whether AgentService accepts turns, which is what a readiness probe asks.

        Once the server stops, it stays not ready, whatever the engine does.
        """
        self._health.set(AGENT_SERVICE.full_name, serving=ready and not self._stopping)

    async def follow(self, engines: EngineSupervisor) -> None:
        """Keeps readiness in step with the engine. On cancel: readiness stays as it is."""
        async for state in engines.states():
            self.set_ready(ready=state is EngineState.READY)

    async def stop(self, grace_s: float) -> None:
        """Sends GoAway on every stream, lets turns finish for `grace_s`, then ends the others.

        Watches of the cache end at once. Everything else in the cache is served until the end,
        since the clients of those turns may need it.
        """
        self._stopping = True
        self.set_ready(ready=False)
        self._health.set(TOOL_CACHE_SERVICE.full_name, serving=False)
        self._tool_cache.drain()
        await self._conversations.drain(grace_s)
        await self._server.stop(grace=1.0)


def _channel_options(options: ServerOptions) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", options.wire_bytes_max),
        ("grpc.max_send_message_length", options.wire_bytes_max),
        ("grpc.keepalive_time_ms", round(options.keepalive_s * 1000)),
        ("grpc.keepalive_timeout_ms", round(options.keepalive_timeout_s * 1000)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 5000),
        ("grpc.so_reuseport", 0),
    ]


def _check_free(host: str, port: int) -> None:
    """Tries to listen at the address, because the system says why it fails and gRPC does not."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.create_server((host, port), family=family):
            pass
    except OSError as error:
        raise AddressInUseError(
            f"cannot listen at {host}:{port}: {error.strerror or error}. Choose another address "
            "with --port (0 for any free port) or --host, or stop the process that listens there"
        ) from None
