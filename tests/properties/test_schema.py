"""Exactly those values are valid that the reference implementation of JSON Schema accepts."""

from __future__ import annotations

from typing import Any

import jsonschema
from hypothesis import given
from hypothesis import strategies as st

from precall_service.tools.schema import MismatchError, Schema


def with_part(keyword: str, part: Any) -> dict[str, Any]:
    return {keyword: part}


def with_properties(parts: dict[str, Any], required: set[str]) -> dict[str, Any]:
    return {"properties": parts, "required": sorted(required)}


NAMES = st.sampled_from(["a", "b", "c"])
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["", "a", "ab", 0.5]),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(NAMES, below, max_size=3),
    max_leaves=8,
)
TYPES = st.sampled_from(["null", "boolean", "integer", "number", "string", "array", "object"])
LEAVES: st.SearchStrategy[Any] = st.one_of(
    st.builds(with_part, st.just("type"), TYPES),
    st.builds(with_part, st.just("const"), VALUES),
    st.builds(with_part, st.just("enum"), st.lists(VALUES, min_size=1, max_size=3)),
    st.builds(with_part, st.sampled_from(["minimum", "exclusiveMaximum"]), st.integers(-2, 2)),
    st.builds(with_part, st.just("$ref"), NAMES.map("#/$defs/{}".format)),
    st.sampled_from([{"pattern": "^a"}, {"minLength": 1}, {"uniqueItems": True}, True, False]),
)
SCHEMAS: st.SearchStrategy[Any] = st.recursive(
    LEAVES,
    lambda below: st.one_of(
        st.builds(
            with_part,
            st.sampled_from(["allOf", "anyOf", "oneOf"]),
            st.lists(below, min_size=1, max_size=3),
        ),
        st.builds(
            with_part,
            st.sampled_from(["not", "items", "contains", "additionalProperties"]),
            below,
        ),
        st.builds(
            with_properties,
            st.dictionaries(NAMES, below, max_size=3),
            st.sets(NAMES, max_size=2),
        ),
    ),
    max_leaves=6,
)


@given(part=SCHEMAS, value=VALUES)
def test_agrees_with_the_reference_implementation(part: Any, value: Any) -> None:
    schema = {
        "allOf": [part],
        "$defs": {
            "a": {"type": "object"},
            "b": {"items": {"$ref": "#/$defs/c"}},
            "c": {"type": ["integer", "null"]},
        },
    }
    reference = jsonschema.Draft202012Validator(schema)
    try:
        Schema(schema).check(value, root="value")
        fits = True
    except MismatchError:
        fits = False
    assert fits == reference.is_valid(value)  # pyright: ignore[reportUnknownMemberType]
