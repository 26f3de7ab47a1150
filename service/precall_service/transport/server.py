"""The gRPC server: address, options, services, health and reflection.

Owns: the listening socket and the health of each service.
Never: implements the services.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Final

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from precall.v1 import agent_pb2_grpc, tool_cache_pb2_grpc
from precall_service.agent.conversations import Conversations
from precall_service.cache.cache import ToolCache
from precall_service.engine.supervisor import EngineState, EngineSupervisor
from precall_service.transport.abandoned import AbandonedCalls
from precall_service.transport.calls import CallLimits, Calls
from precall_service.transport.first_messages import ArrivalLimits
from precall_service.transport.health import HealthServicer
from precall_service.transport.reception import Reception
from precall_service.transport.server_info import ServerInfo
from precall_service.transport.servicers import (
    AGENT_SERVICE,
    TOOL_CACHE_SERVICE,
    TOOL_HOST_SERVICE,
    AgentServicer,
    NotServed,
)
from precall_service.transport.tool_cache import ToolCacheServicer
from precall_service.transport.wake_ups import pace_events

_LOOKAHEAD_BYTES: Final = 16 << 10
_PENDING_CALLS_MAX: Final = 16_384
"""Calls that have come and that the event loop has not taken yet: it takes some thousand a second,
so these wait for seconds at most. gRPC cancels the calls above that."""

_HEALTH_SERVICE = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """Where to listen, and the limits on clients. Port 0 means a free port.

    Larger frames than `frame_bytes_max` are refused. At `wire_bytes_max`, which is larger, gRPC
    itself ends the stream. `handshake_s` is how long a client may take to send its first frame, and
    how long it may have to wait before that; `unread_s` how long it may leave events unread.
    `arrivals_max` first messages are read at once, and `arrivals_waiting_max` calls may wait for
    that. At `connections_max`, gRPC closes new connections; calls above
    `streams_per_connection_max` wait in the client.
    """

    host: str = "127.0.0.1"
    port: int = 50151
    frame_bytes_max: int = 4 << 20
    wire_bytes_max: int = 8 << 20
    connections_max: int = 4096
    streams_per_connection_max: int = 1024
    calls_max: int = 20_000
    arrivals_max: int = 4
    arrivals_waiting_max: int = 4096
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
        self.reception = Reception.of(
            info.clock,
            ArrivalLimits(
                reading_max=options.arrivals_max,
                waiting_max=options.arrivals_waiting_max,
                timeout_s=options.handshake_s,
            ),
        )
        self.abandoned = AbandonedCalls()
        limits = CallLimits(calls_max=options.calls_max, unread_s=options.unread_s)
        self.calls = Calls(info.clock, limits, self.reception, self.abandoned)
        pace_events()
        self._server = grpc.aio.server(
            interceptors=(self.calls,), options=_channel_options(options)
        )
        agent_pb2_grpc.add_AgentServiceServicer_to_server(
            AgentServicer(conversations, info, self.reception, unread_s=options.unread_s),
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
        await self.abandoned.close()


def _channel_options(options: ServerOptions) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", options.wire_bytes_max),
        ("grpc.max_send_message_length", options.wire_bytes_max),
        ("grpc.keepalive_time_ms", round(options.keepalive_s * 1000)),
        ("grpc.keepalive_timeout_ms", round(options.keepalive_timeout_s * 1000)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 5000),
        ("grpc.so_reuseport", 0),
        ("grpc.max_allowed_incoming_connections", options.connections_max),
        ("grpc.max_concurrent_streams", options.streams_per_connection_max),
        # What a client may send of a message before it is asked for. Unless its estimates of the
        # bandwidth are switched off, gRPC raises that to many MiB.
        ("grpc.http2.lookahead_bytes", _LOOKAHEAD_BYTES),
        ("grpc.http2.bdp_probe", 0),
        # From 1,000 calls on that the event loop has not taken yet, gRPC would cancel some, and
        # from 3,000 on all, without a status that says why.
        ("grpc.server.max_pending_requests", _PENDING_CALLS_MAX),
        ("grpc.server.max_pending_requests_hard_limit", _PENDING_CALLS_MAX),
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
