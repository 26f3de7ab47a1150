"""Hypothesis strategies for any frame that can be read from the wire."""

from __future__ import annotations

import functools

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st

from precall.v1 import agent_pb2
from tests.support.wire import INTERNALS

# Values that often break code, and arbitrary ones. Errors quote them, so none may look like a leak:
# Hypothesis also draws texts from our own code.
TEXTS = st.one_of(
    st.sampled_from(
        ["", " ", "weather", "script", "{}", "[]", "null", '{"type":"object"}', '{"a":1e999}']
    ),
    st.text(max_size=40).filter(lambda text: not any(word in text for word in INTERNALS)),
)
INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32: st.integers(-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: st.integers(-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: st.integers(0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: st.integers(0, 2**64 - 1),
    FieldDescriptor.CPPTYPE_ENUM: st.one_of(st.integers(0, 6), st.integers(-(2**31), 2**31 - 1)),
}
"""An enum on the wire can be any number, since later contracts have more members."""


def values(field: FieldDescriptor) -> st.SearchStrategy[object]:
    """Any value of one field."""
    if field.message_type is not None:
        return messages(field.message_type)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return st.binary(max_size=40)
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING:
            return TEXTS
        case FieldDescriptor.CPPTYPE_BOOL:
            return st.booleans()
        case FieldDescriptor.CPPTYPE_DOUBLE:
            return st.floats()
        case kind:
            small = st.integers(0, 3)
            return st.one_of(small, INTEGERS[kind])


@functools.cache
def messages(descriptor: Descriptor) -> st.SearchStrategy[Message]:
    """Any message that can be read from the wire."""
    fields = {
        field.name: st.lists(values(field), max_size=3) if field.is_repeated else values(field)
        for field in descriptor.fields
    }
    kind = GetMessageClass(descriptor)

    def through_the_wire(chosen: dict[str, object]) -> Message:
        return kind.FromString(kind(**chosen).SerializeToString())

    return st.fixed_dictionaries({}, optional=fields).map(through_the_wire)


def frames(kind: str) -> st.SearchStrategy[agent_pb2.ConverseRequest]:
    """Frames of this kind with any content."""
    field = agent_pb2.ConverseRequest.DESCRIPTOR.fields_by_name[kind]
    assert field.message_type is not None
    return messages(field.message_type).map(
        lambda message: agent_pb2.ConverseRequest(**{kind: message})  # pyright: ignore[reportArgumentType]
    )
