"""What a conversation gets from the client that opens it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from precall._connection import Connected
from precall._options import ClientOptions
from precall._registrations import LoosenedKeywords
from precall._served import UnservedOptions
from precall._stream import Call
from precall._tool import Tool, ToolLike
from precall.v1 import agent_pb2

if TYPE_CHECKING:  # a conversation imports this module
    from precall._conversation import Conversation


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """What a client gives to a conversation."""

    connect: Callable[[Conversation], tuple[Call, Connected]]
    """Starts the call, and returns it with the connection that it belongs to."""
    frame: agent_pb2.OpenConversation
    """The handshake, without tools."""
    tools: tuple[Tool, ...]
    """The tools that it begins with."""
    known: Callable[[ToolLike], Tool]
    """Returns the client's tool for a function, or makes one."""
    address: str
    """The server's address, for messages."""
    options: ClientOptions
    """Timeouts and limits."""
    unserved: UnservedOptions
    """Warns where an option of a tool has no effect."""
    loosened: LoosenedKeywords
    """Logs what servers do not hold the model to."""
