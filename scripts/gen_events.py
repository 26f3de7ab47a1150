"""Generates the Python of events from their only description, proto/precall/v1.

    service/precall_service/domain/events.py         the service's values
    service/precall_service/transport/events_out.py  turns the service's values into messages
    clients/python/src/precall/_events.py            the client's values
    clients/python/src/precall/_events_in.py         turns messages into the client's values

The events are the messages of the oneof `event` in ConverseResponse. The messages and enums of
their fields are generated as well. Comments become docstrings, durations become seconds, and
statuses become errors. `make gen` writes the modules; `make lint` compares them (scripts/gen.py).
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorSet

from contract import Events, Field, Kind, Message, Reader, function_of
from event_values import client_values, service_values

FRAME = "ConverseResponse"

LEFT_OUT = {
    "opened": "the transport answers the handshake itself",
    "acknowledge": "the transport acknowledges by itself",
    "approval_": "not served yet",
    "turn_deferred": "not served yet",
    "shared_tools_changed": "not served yet",
    "ContentPart.image": "not served yet",
    "ContentPart.audio": "not served yet",
    "ContentPart.document": "not served yet",
    "StepCompleted.log_probabilities": "not served yet",
}
"""Events and fields that are not generated, and why. An event is named by its field in the oneof,
or by a prefix that ends in `_`."""

NOT_OF_A_TURN = {
    "frame_rejected",
    "tools_registered",
    "tools_withdrawn",
    "invoke",
    "cancel_invocation",
    "invocation_committed",
    "go_away",
}
"""Events that the client's conversation handles itself. Its user sees the others in a turn."""

ERROR_CLASSES = {"ToolCallCompleted.error": "ToolCallError"}
"""Fields whose errors get their class on the client from the field instead of from the reason."""

HOT = "text_delta"
"""The event that comes with every token. It is converted without a function call of its own."""

SERVICE_MESSAGES = '''"""Turns the service's events into frames: a function for each message.

Generated from proto/precall/v1 by `make gen`. Do not edit.
"""

from __future__ import annotations

import functools

from precall.v1 import {stubs}
from precall_service.agent.outbox import NumberedEvent
from precall_service.domain import events
from precall_service.transport.fields import duration
from precall_service.transport.statuses import to_status

Frame = {frame}


def converse_response(numbered: NumberedEvent, acknowledged: int) -> Frame:
    """The frame of a numbered event."""
    event = numbered.event
    if type(event) is events.{hot.name}:  # first and inline, since it comes with every token
        return Frame(
            sequence=numbered.sequence,
            acknowledged=acknowledged,
            turn_id=numbered.turn_id,
            {hot_field}={hot_value},
        )
    frame = Frame(sequence=numbered.sequence, acknowledged=acknowledged, turn_id=numbered.turn_id)
    _fill(event, frame)
    return frame

{functions}

@functools.singledispatch
def _fill(event: object, frame: Frame) -> None:
    raise AssertionError(f"no frame is known for {{type(event).__name__}} {{frame.sequence}}")

{fills}
'''

FILL = """
@_fill.register
def _fill_{field}(event: events.{event.name}, frame: Frame) -> None:
    frame.{field}.CopyFrom({event.function}(event))
"""

CLIENT_READERS = '''"""Turns frames into the client's events: a function for each message.

Generated from proto/precall/v1 by `make gen`. Do not edit.
"""

from __future__ import annotations

from collections.abc import Callable

from precall import _errors, _events
from precall._events import Event
from precall._frames import member, seconds
from precall.v1 import {stubs}

Frame = {frame}


def event(frame: Frame) -> Event | None:
    """Returns the frame's event; None if it is not an event of a turn or this client is older."""
    kind = frame.WhichOneof("event")
    if kind == "{hot_field}":  # first and inline, since it comes with every token
        return _events.{hot.name}({hot_arguments})
    read = _READERS.get(kind or "")
    return None if read is None else read(frame)

{functions}

_READERS: dict[str, Callable[[Frame], Event]] = {{{readers}}}
'''

FUNCTION = '''
def {name}({parameter}: {source}) -> {target}:
    """{doc}"""
    return {target}({arguments})
'''

FUNCTION_WITH_ONEOF = '''
def {name}({parameter}: {source}) -> {target}:
    """{doc}"""
    message = {target}({arguments})
{assignments}    return message
'''

ASSIGNMENT = """\
    if value.{field.name} is not None:
        message.{field.wire_name} = {item}
"""


def modules(descriptors: FileDescriptorSet) -> dict[str, str]:
    """The texts of the modules by their paths in the repository."""
    events = Reader(descriptors, is_left_out).events(FRAME)
    of_a_turn = events.only(field for field in events.by_field if field not in NOT_OF_A_TURN)
    texts = {
        "service/precall_service/domain/events.py": service_values(events, of_a_turn),
        "service/precall_service/transport/events_out.py": service_messages(events),
        "clients/python/src/precall/_events.py": client_values(of_a_turn),
        "clients/python/src/precall/_events_in.py": client_readers(of_a_turn),
    }
    return {path: formatted(path, text) for path, text in texts.items()}


def is_left_out(field: str) -> bool:
    return any(field == key or (key[-1] == "_" and field.startswith(key)) for key in LEFT_OUT)


def formatted(path: str, text: str) -> str:
    """The text of a module, formatted by `ruff format`."""
    ruff = Path(sys.executable).parent / "ruff"
    command = [str(ruff), "format", "--quiet", f"--stdin-filename={path}", "-"]
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(
        command, cwd=root, input=text, check=False, stdout=subprocess.PIPE, text=True
    )
    if done.returncode:
        sys.exit(f"gen: ruff cannot format {path}; the lines above say why")
    return done.stdout


def service_messages(events: Events) -> str:
    """transport/events_out.py."""
    hot = events.by_field[HOT]
    others = [each for each in events.by_field if each != HOT]
    return SERVICE_MESSAGES.format(
        stubs=stubs(events),
        frame=events.frame,
        hot=hot,
        hot_field=HOT,
        hot_value=f"{hot.wire_type}({write(hot, 'event')})",
        functions="".join(message_writer(each) for each in events.messages if each is not hot),
        fills="".join(FILL.format(field=each, event=events.by_field[each]) for each in others),
    )


def message_writer(message: Message) -> str:
    """The text of a function that turns a value of the service into a message."""
    # The stubs do not accept None for members of a oneof, so these are set after the others.
    assigned = [field for field in message.fields if is_assigned(field)]
    return (FUNCTION_WITH_ONEOF if assigned else FUNCTION).format(
        name=message.function,
        parameter="value" if message.fields else "_",
        source=f"events.{message.name}",
        target=message.wire_type,
        doc=f"{message.name} as a message.",
        arguments=write(message, "value"),
        assignments="".join(
            ASSIGNMENT.format(field=each, item=converted(each, f"value.{each.name}"))
            for each in assigned
        ),
    )


def client_readers(events: Events) -> str:
    """The text of the client's _events_in.py."""
    hot = events.by_field[HOT]
    return CLIENT_READERS.format(
        stubs=stubs(events),
        frame=events.frame,
        hot=hot,
        hot_field=HOT,
        hot_arguments=", ".join(read_one(hot, each, f"frame.{HOT}") for each in hot.fields),
        functions="".join(
            FUNCTION.format(
                name=each.function,
                parameter="message" if each.fields else "_",
                source=each.wire_type,
                target=f"_events.{each.name}",
                doc=f"Returns a {each.name}.",
                arguments=read(each, "message"),
            )
            for each in events.messages
            if each is not hot
        ),
        readers=",".join(
            f'"{field}": lambda frame: {event.function}(frame.{field})'
            for field, event in events.by_field.items()
            if event is not hot
        ),
    )


def write(message: Message, value: str) -> str:
    """The arguments of a message's constructor, from a value of the service."""
    return ", ".join(
        f"{field.wire_name}={write_one(field, value)}"
        for field in message.fields
        if not is_assigned(field)
    )


def write_one(field: Field, value: str) -> str:
    """The expression that turns a field of a value into its field of the message."""
    item = f"{value}.{field.name}"
    if field.kind is Kind.SCALAR:
        return item  # the stubs accept None, and any sequence
    if field.repeated:
        return f"[{converted(field, 'each')} for each in {item}]"
    missing = f"None if {item} is None else " if field.nullable else ""
    return missing + converted(field, item)


def converted(field: Field, item: str) -> str:
    """The expression that turns one item of a field from the service's form to the wire's."""
    match field.kind:
        case Kind.SCALAR:
            return item
        case Kind.ENUM:
            return f"{field.wire_type}.ValueType({item}.value)"
        case Kind.MESSAGE:
            return f"{function_of(field.type_name)}({item})"
        case Kind.DURATION:
            return f"duration({item})"
        case Kind.STATUS:
            return f"to_status({item})"


def is_assigned(field: Field) -> bool:
    return field.one_of_several and field.kind in {Kind.SCALAR, Kind.ENUM}


def read(message: Message, source: str) -> str:
    """The arguments of a value's constructor, from its message."""
    return ", ".join(f"{field.name}={read_one(message, field, source)}" for field in message.fields)


def read_one(message: Message, field: Field, source: str) -> str:
    """The expression that turns a field of a message into its field of the value."""
    item = f"{source}.{field.wire_name}"
    error_class = ERROR_CLASSES.get(f"{message.name}.{field.wire_name}")
    family = f", family=_errors.{error_class}" if error_class else ""
    template = {
        Kind.SCALAR: "{}",
        Kind.ENUM: f"member(_events.{field.type_name}, {field.wire_type}.DESCRIPTOR, {{}})",
        Kind.MESSAGE: f"{function_of(field.type_name)}({{}})",
        Kind.DURATION: "seconds({})",
        Kind.STATUS: f"_errors.from_status({{}}{family})",
    }[field.kind]
    if field.repeated:
        each = "" if field.kind is Kind.SCALAR else f"{template.format('each')} for each in "
        return f"tuple({each}{item})"
    present = f' if {source}.HasField("{field.wire_name}") else None' if field.nullable else ""
    return template.format(item) + present


def stubs(events: Events) -> str:
    """The stub modules that the conversions use, as an import list."""
    types = [events.frame, *(each.wire_type for each in events.messages)]
    types += [field.wire_type for each in events.messages for field in each.fields]
    return ", ".join(sorted({each.partition(".")[0] for each in types} - {""}))
