"""How a client talks to its server: waits, bounds and keepalive."""

from __future__ import annotations

from dataclasses import dataclass

_LOCAL = ("localhost", "127.", "[::1]", "unix:")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientOptions:
    """Waits, bounds and keepalive of a client. The defaults suit most uses."""

    open_timeout_s: float = 20.0
    """Connecting and the handshake of a conversation, together."""
    answer_timeout_s: float = 20.0
    """A server's answer to a registration, a withdrawal or a question about itself."""
    write_timeout_s: float = 30.0
    """One frame leaving; a server that takes longer counts as lost."""
    close_timeout_s: float = 5.0
    """Each part of an orderly close: the end of a stream, the end of its handlers."""
    cancel_grace_s: float = 1.0
    """What a handler has to clean up in when it is cancelled, before the server is told."""
    keepalive_interval_s: float = 30.0
    """A ping is sent after so long a silence."""
    keepalive_timeout_s: float = 10.0
    """A ping that takes longer to be answered means that the server is lost."""
    frame_bytes_max: int = 16 * 1024 * 1024
    """The largest frame that is taken from a server; a larger one ends the stream."""
    outgoing_frames_max: int = 64
    """Frames that wait to be written; when full, whoever sends waits."""
    waiting_events_max: int = 1024
    """Events of a turn that wait for their reader; when full, the server is slowed down."""
    acknowledge_every: int = 64
    """Events after which one is acknowledged that no outgoing frame has acknowledged yet."""
    invocations_max: int = 256
    """Invocations of one conversation in flight; those above are answered by an error."""
    tool_concurrency: int = 16
    """Runs of one tool at once, where the tool itself does not say."""
    threads_max: int = 32
    """Threads for synchronous tools, over all of them."""


def channel_options(options: ClientOptions, address: str) -> list[tuple[str, int]]:
    """Returns the gRPC channel arguments for a server at `address`."""
    arguments = [
        ("grpc.keepalive_time_ms", int(options.keepalive_interval_s * 1000)),
        ("grpc.keepalive_timeout_ms", int(options.keepalive_timeout_s * 1000)),
        ("grpc.http2.max_pings_without_data", 0),  # conversations may be silent for long
        # A server that is back is found within seconds; gRPC's own pauses grow to minutes.
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 2_000),
        # In spite of its name, how long one attempt may take: TLS over a slow link needs seconds.
        ("grpc.min_reconnect_backoff_ms", 5_000),
        ("grpc.max_receive_message_length", options.frame_bytes_max),
        ("grpc.max_send_message_length", -1),  # the granted limit is checked before each frame
    ]
    if address.startswith(_LOCAL):
        # A proxy of the environment is never the way to one's own machine.
        arguments.append(("grpc.enable_http_proxy", 0))
    return arguments
