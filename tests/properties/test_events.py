"""An event that the service tells is the event that the Python client tells, field by field."""

from __future__ import annotations

import dataclasses
import enum
import math
import typing
from typing import Any, cast

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from hypothesis import given
from hypothesis import strategies as st

import precall
from precall import _events_in
from precall.v1 import agent_pb2
from precall_service.agent.outbox import NumberedEvent
from precall_service.domain import events
from precall_service.domain.errors import Reason, ServiceError
from precall_service.transport.events_out import converse_response

SECONDS = st.floats(min_value=0.0, max_value=1e6)
ERRORS = st.builds(
    ServiceError,
    st.sampled_from(Reason),
    st.text(),
    retry_after_s=st.none() | st.integers(0, 10**6).map(lambda ms: ms / 1000),
    metadata=st.dictionaries(st.text(), st.text(), max_size=3),
)
SCALARS: dict[int, st.SearchStrategy[Any]] = {
    FieldDescriptor.TYPE_BOOL: st.booleans(),
    FieldDescriptor.TYPE_DOUBLE: st.floats(allow_nan=False),
    FieldDescriptor.TYPE_STRING: st.text(),
    FieldDescriptor.TYPE_UINT32: st.integers(0, 2**32 - 1),
    FieldDescriptor.TYPE_UINT64: st.integers(0, 2**64 - 1),
}


def values_of(message: Descriptor) -> st.SearchStrategy[Any]:
    """Any value of the service for a message of the contract."""
    kind = getattr(events, message.name)
    fields = {
        field.name + "_s" * seconds_of(field): field_values(field) for field in message.fields
    }
    return st.builds(kind, **fields)


def seconds_of(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.name == "Duration"


def field_values(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    """Any value of one field; None and several where it can have them."""
    if seconds_of(field):
        one = SECONDS
    elif field.enum_type is not None:
        one = st.sampled_from(getattr(events, field.enum_type.name))
    elif field.message_type is None:
        one = SCALARS[field.type]
    elif field.message_type.name == "Status":
        return st.none() | ERRORS
    else:
        one = values_of(field.message_type)
    if field.is_repeated:
        return st.lists(one, max_size=3).map(tuple)
    return st.none() | one if field.containing_oneof is not None else one


TURN_EVENTS = {kind.__name__ for kind in typing.get_args(events.TurnEvent)}
MESSAGES = [
    field.message_type
    for field in agent_pb2.ConverseResponse.DESCRIPTOR.oneofs_by_name["event"].fields
    if field.message_type is not None and field.message_type.name in TURN_EVENTS
]


def check_same(ours: object, theirs: object) -> None:
    """The client's value says what the service's does."""
    if dataclasses.is_dataclass(ours) and dataclasses.is_dataclass(theirs):
        assert type(ours).__name__ == type(theirs).__name__
        names = [field.name for field in dataclasses.fields(ours)]
        assert names == [field.name for field in dataclasses.fields(theirs)]
        for name in names:
            check_same(getattr(ours, name), getattr(theirs, name))
    elif isinstance(ours, tuple):
        several = cast("tuple[object, ...]", ours), cast("tuple[object, ...]", theirs)
        for one, other in zip(*several, strict=True):
            check_same(one, other)
    elif isinstance(ours, ServiceError):
        assert isinstance(theirs, precall.PrecallError)
        assert theirs.reason == ours.reason.name
        assert theirs.message == ours.message
        assert theirs.metadata == ours.metadata
        assert theirs.retry_after_s == ours.retry_after_s
    elif isinstance(ours, enum.Enum) and isinstance(theirs, enum.Enum):
        assert theirs.name == ("UNKNOWN" if ours.value == 0 else ours.name)
    elif isinstance(ours, float) and isinstance(theirs, float):
        assert math.isclose(ours, theirs, rel_tol=1e-12, abs_tol=1e-9)
    else:
        assert ours == theirs


@pytest.mark.parametrize("message", MESSAGES, ids=[message.name for message in MESSAGES])
@given(data=st.data())
def test_an_event_keeps_every_field_on_its_way(message: Descriptor, data: st.DataObject) -> None:
    event = data.draw(values_of(message))
    frame = converse_response(NumberedEvent(1, "t", event), acknowledged=0)
    received = agent_pb2.ConverseResponse.FromString(frame.SerializeToString())
    check_same(event, _events_in.event(received))
