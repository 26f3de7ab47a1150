"""Reads events, and the messages and enums in them, from a descriptor set with comments."""

from __future__ import annotations

import dataclasses
import enum
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)

PACKAGE = "precall.v1"


class Kind(enum.Enum):
    """The kinds of fields that are converted differently."""

    SCALAR = enum.auto()
    ENUM = enum.auto()
    MESSAGE = enum.auto()
    DURATION = enum.auto()
    STATUS = enum.auto()


@dataclass(frozen=True)
class Field:
    """A field of a message."""

    wire_name: str
    kind: Kind
    type_name: str
    """The Python type of a scalar; the name of an enum or a message."""
    wire_type: str
    """For ENUM: the enum in the stubs. Empty for other kinds."""
    nullable: bool
    repeated: bool
    one_of_several: bool
    """Whether the field is a member of a oneof."""
    doc: str

    @property
    def name(self) -> str:
        """The name of the field in Python. A duration becomes a number of seconds."""
        return f"{self.wire_name}_s" if self.kind is Kind.DURATION else self.wire_name


@dataclass(frozen=True)
class Message:
    """A message that is an event or a part of an event."""

    name: str
    wire_type: str
    doc: str
    fields: tuple[Field, ...]

    @property
    def function(self) -> str:
        """The name of the function that converts this message."""
        return function_of(self.name)


@dataclass(frozen=True)
class Enum:
    """An enum. A member is its name without the prefix, its number and its comment."""

    name: str
    doc: str
    members: tuple[tuple[str, int, str], ...]


@dataclass(frozen=True)
class Events:
    """The events of a frame, with the enums and messages that they need.

    A message comes after the messages that it contains.
    """

    frame: str
    """The frame's message in the stubs."""
    by_field: Mapping[str, Message]
    """The events by their fields in the frame's oneof, in the contract's order."""
    enums: tuple[Enum, ...]
    messages: tuple[Message, ...]

    def only(self, fields: Iterable[str]) -> Events:
        """The events of these fields, with only the enums and messages that they need."""
        by_field = {field: self.by_field[field] for field in fields}
        needed = set[str]()
        for message in reversed(self.messages):
            if message in by_field.values() or message.name in needed:
                needed |= {message.name, *(field.type_name for field in message.fields)}
        return dataclasses.replace(
            self,
            by_field=by_field,
            enums=tuple(each for each in self.enums if each.name in needed),
            messages=tuple(each for each in self.messages if each.name in needed),
        )


def function_of(name: str) -> str:
    """The name of the function that converts a message."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


class Reader:
    """Finds messages, enums and their comments in a descriptor set with source info."""

    def __init__(self, descriptors: FileDescriptorSet, is_left_out: Callable[[str], bool]) -> None:
        self._is_left_out = is_left_out
        self._messages: dict[str, tuple[str, DescriptorProto]] = {}
        self._enums: dict[str, tuple[str, EnumDescriptorProto]] = {}
        self._docs: dict[str, str] = {}
        for file in descriptors.file:
            if file.package == PACKAGE:
                self._index(file)
        self._done_enums: dict[str, Enum] = {}
        self._done_messages: dict[str, Message] = {}

    def _index(self, file: FileDescriptorProto) -> None:
        comments = {
            tuple(location.path): " ".join(location.leading_comments.split())
            for location in file.source_code_info.location
        }
        stub = Path(file.name).stem + "_pb2"
        # Source paths consist of field numbers of descriptor.proto: 4 is message_type, and so on.
        for at, message in enumerate(file.message_type):
            name = f".{PACKAGE}.{message.name}"
            self._messages[name] = (f"{stub}.{message.name}", message)
            self._docs[name] = comments.get((4, at), "")
            for inner, field in enumerate(message.field):
                self._docs[f"{name}.{field.name}"] = comments.get((4, at, 2, inner), "")
        for at, each in enumerate(file.enum_type):
            name = f".{PACKAGE}.{each.name}"
            self._enums[name] = (f"{stub}.{each.name}", each)
            self._docs[name] = comments.get((5, at), "")
            for inner, value in enumerate(each.value):
                self._docs[f"{name}.{value.name}"] = comments.get((5, at, 2, inner), "")

    def events(self, frame_name: str) -> Events:
        """The events in the frame's oneof `event`, without those that are left out."""
        stub, frame = self._messages[f".{PACKAGE}.{frame_name}"]
        (oneof,) = (at for at, each in enumerate(frame.oneof_decl) if each.name == "event")
        fields = [each for each in frame.field if each.HasField("oneof_index")]
        return Events(
            frame=stub,
            by_field={
                field.name: self._message(field.type_name)
                for field in sorted(fields, key=lambda field: field.number)
                if field.oneof_index == oneof and not self._is_left_out(field.name)
            },
            enums=tuple(self._done_enums.values()),
            messages=tuple(self._done_messages.values()),
        )

    def _message(self, name: str) -> Message:
        if name not in self._done_messages:
            wire_type, message = self._messages[name]
            fields = sorted(message.field, key=lambda field: field.number)
            self._done_messages[name] = Message(
                name=message.name,
                wire_type=wire_type,
                doc=self._docs[name],
                fields=tuple(
                    self._field(name, field)
                    for field in fields
                    if not self._is_left_out(f"{message.name}.{field.name}")
                ),
            )
        return self._done_messages[name]

    def _field(self, message: str, field: FieldDescriptorProto) -> Field:
        kind, type_name, wire_type = self._type(field)
        doc = self._docs[f"{message}.{field.name}"]
        repeated = field.label == field.LABEL_REPEATED
        nullable = not repeated and (field.HasField("oneof_index") or kind is Kind.STATUS)
        return Field(
            wire_name=field.name,
            kind=kind,
            type_name=type_name,
            wire_type=wire_type,
            nullable=nullable,
            repeated=repeated,
            one_of_several=field.HasField("oneof_index") and not field.proto3_optional,
            doc=re.sub(r"\bUnset\b", "None", doc) if nullable else doc,
        )

    def _type(self, field: FieldDescriptorProto) -> tuple[Kind, str, str]:
        scalar = FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
        match field.type_name:
            case "":
                names = {"string": "str", "double": "float"}
                number = "int" if "int" in scalar or "fixed" in scalar else scalar
                return Kind.SCALAR, names.get(number, number), ""
            case ".google.protobuf.Duration":
                return Kind.DURATION, "float", ""
            case ".google.rpc.Status":
                return Kind.STATUS, "", ""
            case name if name in self._enums:
                return Kind.ENUM, self._enum(name).name, self._enums[name][0]
            case name if name in self._messages:
                return Kind.MESSAGE, self._message(name).name, ""
            case name:
                sys.exit(f"gen: {field.name}: an event cannot hold {name} yet")

    def _enum(self, name: str) -> Enum:
        if name not in self._done_enums:
            _, each = self._enums[name]
            prefix = each.value[0].name.removesuffix("UNSPECIFIED")
            self._done_enums[name] = Enum(
                name=each.name,
                doc=self._docs[name],
                members=tuple(
                    (
                        value.name.removeprefix(prefix),
                        value.number,
                        self._docs[f"{name}.{value.name}"],
                    )
                    for value in each.value
                ),
            )
        return self._done_enums[name]
