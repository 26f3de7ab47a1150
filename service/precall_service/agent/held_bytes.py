"""How much memory conversations hold, counted as they grow and shrink: in all, and by tenant.

What is counted are texts as Python keeps them, tokens, declarations of tools, the events that wait
for their client, and a fixed part for each conversation. It is an estimate from above, so that
adding it up costs nothing: a few numbers per step of a turn.

A limit refuses what would go over it: a conversation, a turn, or tools. It ends nothing that runs.
So the bytes can go over the limit by what running turns add, which the context window of the model
bounds, and by the events of their clients, which `events_bytes_max` bounds.

Owns: the counts. A watch reads `total`, `bytes_by_tenant` and `conversations_by_tenant`.
Concurrency: one event loop; nothing here waits.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from types import MappingProxyType
from typing import Any, Final

from precall_service.agent import refusals
from precall_service.agent.limits import AgentLimits
from precall_service.domain.errors import ServiceError
from precall_service.domain.events import ConversationEvent, TextDelta, TurnCompleted
from precall_service.domain.messages import AssistantMessage, Message, ToolMessage, Transcript
from precall_service.tools.declarations import ToolProposal

CONVERSATION_BYTES: Final = 64 << 10
"""A conversation without messages, with its stream: more than bench/idle.py measures."""
MESSAGE_BYTES: Final = 512
"""A message without its texts."""
TOKEN_BYTES: Final = 40
"""One token of a prompt: a Python integer, and its place in a tuple."""
TOOL_BYTES: Final = 8 << 10
"""A tool without its schemas."""
SCHEMA_FACTOR: Final = 8
"""How much larger a compiled schema is than its JSON. Measured: 8 for 2 KB, less for more."""
EVENT_BYTES: Final = 256
"""An event without its texts."""


class Part(enum.Enum):
    """What a conversation holds bytes for."""

    ITSELF = "itself"
    TRANSCRIPT = "transcript"
    TOKENS = "tokens"
    """The exact tokens of the transcript, to which the next turn's are appended."""
    TURN = "turn"
    """What the running turn has added to the transcript."""
    ENDINGS = "endings"
    """The endings of past turns, for a client that asks for one again."""
    TOOLS = "tools"
    EVENTS = "events"
    """What waits for the client to read it."""


class Holding:
    """What one conversation holds."""

    __slots__ = ("_closed", "_owner", "_parts", "_tenant")

    def __init__(self, owner: HeldBytes, tenant: str) -> None:
        self._owner = owner
        self._tenant = tenant
        self._parts: dict[Part, int] = {}
        self._closed = False

    @property
    def total(self) -> int:
        """The bytes of all its parts."""
        return sum(self._parts.values())

    def set(self, part: Part, size: int) -> None:
        """Sets the bytes that a part has now. Does nothing once the conversation is closed."""
        if self._closed:
            return
        change = size - self._parts.get(part, 0)
        if change:
            self._parts[part] = size
            self._owner.change(self._tenant, change)

    def add(self, part: Part, size: int) -> None:
        """Adds to the bytes of a part."""
        self.set(part, self._parts.get(part, 0) + size)

    def close(self) -> None:
        """Counts nothing any more."""
        for part in list(self._parts):
            self.set(part, 0)
        self._closed = True

    def check(self, wanted: int, field: str) -> None:
        """Checks that the conversation may hold so many bytes more.

        Raises:
            ServiceError: OVERLOADED or LIMIT_REACHED, which names the field that wants them.
        """
        refused = self._owner.refusal(self._tenant, wanted, field)
        if refused is not None:
            raise refused


class HeldBytes:
    """What all conversations hold."""

    def __init__(self, limits: AgentLimits) -> None:
        self._limits = limits
        self._bytes: Counter[str] = Counter()
        self._conversations: Counter[str] = Counter()
        self._open = 0
        self.total = 0
        """The bytes that all conversations hold."""

    @property
    def bytes_by_tenant(self) -> Mapping[str, int]:
        """The bytes that the conversations of each tenant hold."""
        return MappingProxyType(self._bytes)

    @property
    def conversations_by_tenant(self) -> Mapping[str, int]:
        """The open conversations of each tenant."""
        return MappingProxyType(self._conversations)

    def open(self, tenant: str, transcript: Transcript) -> Holding:
        """Returns what a new conversation holds; `close` must follow.

        Raises:
            ServiceError: OVERLOADED if the server has too many conversations or bytes,
                LIMIT_REACHED if the tenant has.
        """
        limits, size = self._limits, transcript_size(transcript)
        if self._open >= limits.conversations_max:
            raise refusals.too_many_conversations()
        if self._conversations[tenant] >= limits.conversations_per_tenant_max:
            raise refusals.too_many_of_tenant(limits.conversations_per_tenant_max)
        refused = self.refusal(tenant, CONVERSATION_BYTES + size, "open.history")
        if refused is not None:
            raise refused
        self._conversations[tenant] += 1
        self._open += 1
        holding = Holding(self, tenant)
        holding.set(Part.ITSELF, CONVERSATION_BYTES)
        holding.set(Part.TRANSCRIPT, size)
        return holding

    def close(self, tenant: str, holding: Holding) -> None:
        """Counts a conversation no more."""
        holding.close()
        self._conversations[tenant] -= 1
        self._open -= 1
        if not self._conversations[tenant]:
            del self._conversations[tenant]
            del self._bytes[tenant]

    def refusal(self, tenant: str, wanted: int, field: str) -> ServiceError | None:
        """Returns why a tenant may not hold so many bytes more; None if it may."""
        limits = self._limits
        if self.total + wanted > limits.bytes_max:
            return refusals.memory_full(field)
        held = self._bytes[tenant]
        if held + wanted > limits.bytes_per_tenant_max:
            return refusals.memory_of_tenant_full(held, wanted, limits.bytes_per_tenant_max, field)
        return None

    def change(self, tenant: str, change: int) -> None:
        """Counts that what a tenant holds has become more, or less."""
        self._bytes[tenant] += change
        self.total += change


def text_size(*texts: str) -> int:
    """Returns the bytes of texts as Python keeps them: up to 4 per character."""
    return sum(map(sys.getsizeof, texts))


def transcript_size(transcript: Transcript) -> int:
    """Returns the bytes of a transcript, without its tools."""
    variables = text_size(repr(dict(transcript.template_variables)))
    return text_size(transcript.system_prompt) + variables + messages_size(transcript.messages)


def messages_size(messages: Iterable[Message]) -> int:
    """Returns the bytes of messages."""
    return sum(map(message_size, messages))


def message_size(message: Message) -> int:
    """Returns the bytes of a message: its text, its reasoning, its calls."""
    size = MESSAGE_BYTES + text_size(message.text)
    if isinstance(message, ToolMessage):
        return size + text_size(message.call_id)
    if isinstance(message, AssistantMessage):
        size += text_size(message.reasoning)
        for call in message.tool_calls:
            size += MESSAGE_BYTES + text_size(call.call_id, call.tool_name, call.arguments_json)
    return size


def tool_size(proposal: ToolProposal) -> int:
    """Returns the bytes that a tool has once it is registered."""
    schemas = len(proposal.input_schema_json) + len(proposal.output_schema_json)
    return TOOL_BYTES + text_size(proposal.description) + SCHEMA_FACTOR * schemas


def tools_size(proposals: Sequence[ToolProposal]) -> int:
    """Returns the bytes that tools have once they are registered."""
    return sum(map(tool_size, proposals))


def event_size(event: ConversationEvent) -> int:
    """Returns the bytes of an event that waits."""
    if isinstance(event, TextDelta):  # nearly all are
        return EVENT_BYTES + len(event.text)
    size = EVENT_BYTES
    for text in _texts_of(type(event))(event):
        if text:
            size += len(text)
    return size


def ending_size(completed: TurnCompleted) -> int:
    """Returns the bytes of the ending of a turn, with its error."""
    error = completed.error
    return EVENT_BYTES + text_size(completed.text, "" if error is None else error.message)


@functools.cache
def _texts_of(kind: type[Any]) -> Callable[[Any], Sequence[str | None]]:
    """Returns what reads all texts of events of this class."""
    names = [each.name for each in dataclasses.fields(kind) if str(each.type).startswith("str")]
    match names:
        case []:
            return lambda _event: ()
        case [name]:
            return lambda event: (getattr(event, name),)
        case _:
            return attrgetter(*names)
