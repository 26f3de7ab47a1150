"""For any value, canonical JSON text is that of RFC 8785, whichever encoder makes it."""

from __future__ import annotations

import math
import random
from typing import cast
from unittest import mock

import rfc8785
from hypothesis import example, given, settings
from hypothesis import strategies as st

from precall_service.domain import json
from precall_service.domain.json import JsonError, JsonValue, canonical

TEXTS = st.text(max_size=6) | st.sampled_from(
    ["", "\ud800", "\udc00\ud800", "\U0001f600", "\ufb33", "\x00\x1f\x7f\u2028", '"\\/<>&', "é"]
)
INTEGERS = st.integers(-(2**53) - 2, -(2**53) + 2) | st.integers(2**53 - 2, 2**53 + 2)
SCALARS = (
    TEXTS
    | st.none()
    | st.booleans()
    | st.integers()
    | INTEGERS
    | st.floats()
    | st.floats(1e-5, 1e17)
    | st.decimals(-1000, 1000, places=3).map(float)
    | st.sampled_from([-0.0, 1e21, 1e-7, 2.0**53, 5e-324])
    | st.sampled_from([1e-4, math.nextafter(1e-4, 0), 1e16, math.nextafter(1e16, 0), 0.1 + 0.2])
)
VALUES: st.SearchStrategy[JsonValue] = st.recursive(
    cast("st.SearchStrategy[JsonValue]", SCALARS),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(TEXTS, inner, max_size=4)
        | st.dictionaries(st.text("aAbBzZ_09 ~", max_size=3), inner, max_size=4)
    ),
    max_leaves=10,
)


def told(value: JsonValue) -> bytes | str:
    """The canonical text of a value, or why it has none."""
    try:
        return canonical(value)
    except JsonError as error:
        return str(error)


@settings(max_examples=600)
@given(VALUES)
@example({"b": 1, "a": [True, None, "\ud800"]})
@example({"\U0001f600": 1, "\ufb33": 2})
@example([2**53 - 1, -(2**53) + 1])
@example([2**53])
@example({"a": math.nan})
@example([[]] * 3)
@example(cast("JsonValue", {1: 2}))
@example(cast("JsonValue", {None: 2}))
@example(cast("JsonValue", [b"a"]))
def test_the_fast_encoder_is_not_told_from_the_library(value: JsonValue) -> None:
    with mock.patch.object(json, "_is_plain", return_value=False):
        by_the_library = told(value)
    assert told(value) == by_the_library
    if isinstance(by_the_library, bytes):
        assert by_the_library == rfc8785.dumps(value)


@given(st.dictionaries(st.text(max_size=4), st.integers(-9, 9), max_size=6), st.randoms())
def test_the_order_of_names_does_not_matter(
    value: dict[str, JsonValue], order: random.Random
) -> None:
    names = list(value)
    order.shuffle(names)
    assert told({name: value[name] for name in names}) == told(value)
