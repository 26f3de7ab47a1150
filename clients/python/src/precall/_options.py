"""How a client talks to its server: timeouts, limits and keepalive."""

from __future__ import annotations

from dataclasses import dataclass

_LOCAL = ("localhost", "127.", "[::1]", "unix:")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientOptions:
    """Timeouts, limits and keepalive of a client. The defaults suit most uses."""

    open_timeout_s: float = 20.0
    """Time for connecting and for the handshake of a conversation, together."""
    open_tries_max: int = 5
    """How often a conversation is tried to be opened if the server says that it is full or stops.
    Between two tries the client waits as long as the server asks for, and a random time more. All
    tries together take no longer than `open_timeout_s`. 1: never try again."""
    answer_timeout_s: float = 20.0
    """Time for the server's answer when a tool is added or removed, or its info is asked for."""
    write_timeout_s: float = 30.0
    """Time for one frame to leave. If it takes longer, the server counts as lost."""
    close_timeout_s: float = 5.0
    """Time for each part of an orderly close: the end of the stream, and of its handlers."""
    cancel_grace_s: float = 1.0
    """Time for a cancelled handler to clean up, before the server is told."""
    keepalive_interval_s: float = 30.0
    """A ping is sent after a silence of this length."""
    keepalive_timeout_s: float = 10.0
    """If a ping is not answered in this time, the server counts as lost."""
    frame_bytes_max: int = 16 * 1024 * 1024
    """The largest frame to take from a server; a larger one ends the stream."""
    outgoing_frames_max: int = 64
    """Frames queued for writing; senders wait while the queue is full."""
    waiting_events_max: int = 1024
    """Events of a turn that may wait for their reader. While so many wait, pieces of text, of
    reasoning and of arguments merge, only the latest progress of each call is kept, and new
    predictions are left out, each with all its events; all other events still wait in order. So a
    slow reader gets the whole text in longer pieces, and never delays a tool."""
    acknowledge_every: int = 64
    """Events after which the client acknowledges them, if no other frame has."""
    invocations_max: int = 256
    """Invocations in flight per conversation; those above are refused with an error."""
    tool_concurrency: int = 16
    """Runs of one tool at once, for tools without `max_concurrency`."""
    threads_max: int = 32
    """Threads for all synchronous tools together."""


def channel_options(options: ClientOptions, address: str) -> list[tuple[str, int]]:
    """Returns the gRPC channel arguments for a server at `address`."""
    arguments = [
        ("grpc.keepalive_time_ms", int(options.keepalive_interval_s * 1000)),
        ("grpc.keepalive_timeout_ms", int(options.keepalive_timeout_s * 1000)),
        ("grpc.http2.max_pings_without_data", 0),  # conversations may be silent for long
        # Finds a server that is back within seconds; gRPC's own pauses grow to minutes.
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 2_000),
        # Despite its name, the time for one attempt: TLS over a slow link needs seconds.
        ("grpc.min_reconnect_backoff_ms", 5_000),
        ("grpc.max_receive_message_length", options.frame_bytes_max),
        ("grpc.max_send_message_length", -1),  # the granted limit is checked before each frame
    ]
    if address.startswith(_LOCAL):
        # The local machine is never reached through a proxy that the environment sets.
        arguments.append(("grpc.enable_http_proxy", 0))
    return arguments
