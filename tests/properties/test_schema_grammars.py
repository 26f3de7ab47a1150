"""What a tool's author can mean, a model can write; and the normal form means the same."""

from __future__ import annotations

from typing import Any

import jsonschema
from hypothesis import given

from precall_service.domain.normal_schema import normal_form
from tests.properties.test_schema import SCHEMAS, VALUES
from tests.support.authored import authored_tools
from tests.support.grammars import derivable

DEFINITIONS = {
    "a": {"type": "object"},
    "b": {"items": {"$ref": "#/$defs/c"}},
    "c": {"type": ["integer", "null"]},
}


def valid(schema: Any, value: Any) -> bool:
    reference = jsonschema.Draft202012Validator(schema)
    return reference.is_valid(value)  # pyright: ignore[reportUnknownMemberType]


@given(part=SCHEMAS, value=VALUES)
def test_the_normal_form_accepts_the_same_values(part: Any, value: Any) -> None:
    schema: dict[str, Any] = {"allOf": [part], "$defs": DEFINITIONS}
    assert valid(normal_form(schema), value) == valid(schema, value)


@given(tool=authored_tools())
def test_every_value_that_the_author_could_mean_can_be_written(
    tool: tuple[dict[str, Any], Any],
) -> None:
    schema, arguments = tool
    assert valid(schema, arguments), "the test's own mistake"
    assert valid(normal_form(schema), arguments)
    assert derivable(schema, [arguments]) == [True]
