"""The Python client yields the events that the service sends, with every field unchanged."""

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
    FieldDescriptor.TYPE_BYTES: st.binary(),
    FieldDescriptor.TYPE_DOUBLE: st.floats(allow_nan=False),
    FieldDescriptor.TYPE_INT32: st.integers(-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_INT64: st.integers(-(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_STRING: st.text(),
    FieldDescriptor.TYPE_UINT32: st.integers(0, 2**32 - 1),
    FieldDescriptor.TYPE_UINT64: st.integers(0, 2**64 - 1),
}


def values_of(message: Descriptor) -> st.SearchStrategy[Any]:
    """Any value of the service for a message of the contract; a oneof has one member at most."""
    kind = getattr(events, message.name)
    served = {field.name for field in dataclasses.fields(kind)}
    fields = [field for field in message.fields if name(field) in served]
    members = [field for field in fields if is_member(field)]
    others = {name(each): field_values(each) for each in fields if each not in members}
    chosen = [st.fixed_dictionaries({name(each): item_values(each)}) for each in members]
    arguments = st.tuples(
        st.fixed_dictionaries(others), st.one_of(st.just(dict[str, Any]()), *chosen)
    )
    return arguments.map(lambda both: kind(**both[0], **both[1]))


def field_values(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    """Any value of one field, including None and several items if the field allows them."""
    if field.is_repeated:
        return st.lists(item_values(field), max_size=3).map(tuple)
    is_status = field.message_type is not None and field.message_type.name == "Status"
    can_be_none = is_status or field.containing_oneof is not None
    return st.none() | item_values(field) if can_be_none else item_values(field)


def item_values(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    """Any one item of a field."""
    if field.enum_type is not None:
        return st.sampled_from(getattr(events, field.enum_type.name))
    if field.message_type is None:
        return SCALARS[field.type]
    known = {"Duration": SECONDS, "Status": ERRORS}
    if field.message_type.name in known:
        return known[field.message_type.name]
    return values_of(field.message_type)


def is_member(field: FieldDescriptor) -> bool:
    """Whether the field is a member of a real oneof. An optional field has a synthetic one."""
    oneof = field.containing_oneof
    return oneof is not None and not oneof.name.startswith("_")


def name(field: FieldDescriptor) -> str:
    is_duration = field.message_type is not None and field.message_type.name == "Duration"
    return field.name + "_s" * is_duration


TURN_EVENTS = {kind.__name__ for kind in typing.get_args(events.TurnEvent)}
MESSAGES = [
    field.message_type
    for field in agent_pb2.ConverseResponse.DESCRIPTOR.oneofs_by_name["event"].fields
    if field.message_type is not None and field.message_type.name in TURN_EVENTS
]


def check_same(ours: object, theirs: object) -> None:
    """Checks that the client's value equals the service's."""
    if dataclasses.is_dataclass(ours) and dataclasses.is_dataclass(theirs):
        assert type(ours).__name__ == type(theirs).__name__
        names = [field.name for field in dataclasses.fields(ours)]
        assert names == [field.name for field in dataclasses.fields(theirs)]
        for each in names:
            check_same(getattr(ours, each), getattr(theirs, each))
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
