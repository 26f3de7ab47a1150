"""Generates the Python classes of events, for the service and for the client."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator

from contract import Enum, Events, Field, Kind, Message

POSITIONAL_MAX = 8
"""The number of positional fields. Later ones are keyword-only, so that adding a field breaks no
positional pattern."""

COLUMNS = 100
ZEROS = {"bool": "False", "bytes": 'b""', "float": "0.0", "int": "0", "str": '""'}

SERVICE_VALUES = '''"""The events that a conversation sends to its client, and the values in them.

Fields that end in `_s` are seconds.

Generated from proto/precall/v1 by `make gen`. Do not edit.
"""

from __future__ import annotations

import enum
from dataclasses import {dataclass}

from precall_service.domain.errors import ServiceError

{classes}

TurnEvent = {turn}
"""Every event of a turn."""

ConversationEvent = {all}
"""Every event of a conversation."""
'''

CLIENT_VALUES = '''"""The events of a turn, as frozen values for use with `match`.

Fields that end in `_s` are seconds. Events that only a newer server knows are skipped.

Generated from proto/precall/v1 by `make gen`. Do not edit.
"""

from __future__ import annotations

import enum
from dataclasses import {dataclass}
from typing import TypeAlias

import pydantic
import pydantic_core

from precall._errors import PrecallError

__all__ = {names}

{classes}

Event: TypeAlias = {turn}
"""Every event that iterating over a turn yields."""
'''


def service_values(events: Events, of_a_turn: Events) -> str:
    """The text of the service's domain/events.py."""
    classes = "\n".join(
        [
            *(line for each in events.enums for line in service_enum(each)),
            *(
                line
                for each in events.messages
                for line in dataclass_of(each, events, error="ServiceError", zero="UNSPECIFIED")
            ),
        ]
    )
    return SERVICE_VALUES.format(
        dataclass=dataclass_imports(classes),
        classes=classes,
        turn=union(of_a_turn),
        all=union(events),
    )


def client_values(events: Events) -> str:
    """The text of the client's _events.py."""
    classes = "\n".join(
        [
            *(line for each in events.enums for line in client_enum(each)),
            *(
                line
                for each in events.messages
                for line in (
                    *dataclass_of(each, events, error="PrecallError", zero="UNKNOWN"),
                    *parsed_json(each),
                )
            ),
        ]
    )
    return CLIENT_VALUES.format(
        dataclass=dataclass_imports(classes),
        names=sorted(["Event", *(each.name for each in (*events.enums, *events.messages))]),
        classes=classes,
        turn=union(events),
    )


def service_enum(each: Enum) -> Iterator[str]:
    """The lines of an enum whose values are the numbers of the contract."""
    yield f"\nclass {each.name}(enum.Enum):"
    yield from class_doc(each.name, each.doc)
    for name, number, doc in each.members:
        yield f"    {name} = {number}"
        yield from attribute_doc(doc)


def client_enum(each: Enum) -> Iterator[str]:
    """The lines of an enum whose values are texts. UNKNOWN stands for values of newer servers."""
    yield f"\nclass {each.name}(enum.Enum):"
    yield from class_doc(each.name, each.doc)
    for name, number, doc in each.members:
        if number == 0:
            yield '    UNKNOWN = "unknown"'
            yield from attribute_doc(
                "A value of a newer server."
                if doc == "Never sent."
                else f"{doc} Or a value of a newer server."
            )
        else:
            yield f'    {name} = "{name.lower()}"'
            yield from attribute_doc(doc)


def dataclass_of(message: Message, events: Events, *, error: str, zero: str) -> Iterator[str]:
    """The lines of a message as a frozen dataclass; `error` is the class of its statuses."""
    long = len(message.fields) > POSITIONAL_MAX
    is_event = message in events.by_field.values()
    kw_only = ", kw_only=True" if long and not is_event else ""
    yield f"\n@dataclass(frozen=True, slots=True{kw_only})"
    yield f"class {message.name}:"
    yield from class_doc(message.name, message.doc)
    for at, field in enumerate(message.fields):
        if at == POSITIONAL_MAX and is_event:
            yield "    _: KW_ONLY"
        yield f"    {field.name}: {annotation(field, error, zero)}"
        yield from attribute_doc(field.doc)


def dataclass_imports(classes: str) -> str:
    return "KW_ONLY, dataclass" if "KW_ONLY" in classes else "dataclass"


def annotation(field: Field, error: str, zero: str) -> str:
    """The type and the default of a field."""
    item = error if field.kind is Kind.STATUS else field.type_name
    if field.repeated:
        return f"tuple[{item}, ...] = ()"
    if field.nullable:
        return f"{item} | None = None"
    match field.kind:
        case Kind.ENUM:
            return f"{item} = {item}.{zero}"
        case Kind.MESSAGE:
            return f"{item} = {item}()"
        case _:
            return f"{item} = {ZEROS[item]}"


def parsed_json(message: Message) -> Iterator[str]:
    """The lines of the properties that parse the fields which hold JSON as text."""
    for field in message.fields:
        if field.name.endswith("_json") and not field.repeated:
            yield "    @property"
            yield f"    def {field.name.removesuffix('_json')}(self) -> pydantic.JsonValue:"
            yield f'        """`{field.name}` as Python values; None where it is empty."""'
            yield f"        text = self.{field.name}"
            yield "        return pydantic_core.from_json(text) if text else None"


def union(events: Events) -> str:
    return f"({' | '.join(event.name for event in events.by_field.values())})"


def class_doc(name: str, doc: str) -> Iterator[str]:
    """The lines of a docstring: one line if it fits, else its first sentence and then the rest."""
    doc = literal(doc)
    first, _, rest = doc.partition(". ")
    if len(doc) <= COLUMNS - 10:
        yield f'    """{doc}"""\n'
    else:
        if not rest or len(first) > COLUMNS - 8:
            first, rest = f"{name} of the contract", doc
        yield f'    """{first}.\n'
        yield from wrapped(rest)
        yield '    """\n'


def attribute_doc(doc: str) -> Iterator[str]:
    yield from wrapped(f'"""{literal(doc)}"""' if doc else "")


def literal(doc: str) -> str:
    """A comment as it may stand between the quotes of a docstring."""
    doc = doc.replace("\\", "\\\\").replace('"""', "''")
    return f"{doc} " if doc.endswith('"') else doc


def wrapped(text: str) -> Iterable[str]:
    return textwrap.wrap(
        text,
        COLUMNS,
        initial_indent="    ",
        subsequent_indent="    ",
        break_long_words=False,
        break_on_hyphens=False,
    )
