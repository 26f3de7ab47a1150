"""Canonical JSON text, and halves of surrogate pairs."""

from __future__ import annotations

import json
import math
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from precall_service.domain.json import (
    JsonError,
    JsonValue,
    canonical,
    find_half_pair,
    may_hold_half_pair,
    parse,
    without_half_pairs,
)

SAFE = 2**53 - 1

texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-SAFE, SAFE)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
)
values: st.SearchStrategy[JsonValue] = st.recursive(
    cast("st.SearchStrategy[JsonValue]", scalars),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


def shuffled(value: JsonValue) -> JsonValue:
    """Returns the same value with the names of its objects in another order."""
    if isinstance(value, dict):
        return {name: shuffled(inner) for name, inner in reversed(value.items())}
    return [shuffled(inner) for inner in value] if isinstance(value, list) else value


def names_in_order(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    keys = [name.encode("utf-16-be") for name, _ in pairs]
    assert keys == sorted(keys), "names are not in the order of UTF-16 code units"
    return dict(pairs)


@given(values)
def test_equal_values_have_one_canonical_text(value: JsonValue) -> None:
    text = canonical(value)
    # Every number of I-JSON is a double, but a large one is written without a decimal point.
    read = cast("JsonValue", json.loads(text, parse_int=float, object_pairs_hook=names_in_order))
    assert read == value
    assert canonical(read) == text
    assert canonical(shuffled(value)) == text


plain_texts = st.text(st.characters(exclude_categories=("Cs",), max_codepoint=0xFFFF), max_size=8)
"""Texts whose order by code points is their order by UTF-16 code units."""


@given(st.recursive(plain_texts, lambda inner: st.dictionaries(plain_texts, inner, max_size=4)))
def test_canonical_text_without_numbers_is_that_of_the_standard_library(value: JsonValue) -> None:
    reference = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert canonical(value) == reference.encode()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, "1"),
        (-0.0, "0"),
        (1e21, "1e+21"),
        (1e20, "100000000000000000000"),
        (1e-6, "0.000001"),
        (1e-7, "1e-7"),
        (333333333.33333329, "333333333.3333333"),
        ({"\U0001f600": 1, "\ufb33": 2}, '{"\U0001f600":1,"\ufb33":2}'),
        ("\u0001\n€", '"\\u0001\\n€"'),
    ],
)
def test_examples_of_the_rfc(value: JsonValue, text: str) -> None:
    assert canonical(value) == text.encode()


def nested(levels: int) -> JsonValue:
    value: JsonValue = []
    for _ in range(levels):
        value = [value]
    return value


NOT_CANONICAL: dict[str, tuple[object, str]] = {
    "an integer beyond 2^53": (SAFE + 1, "9007199254740992 is beyond"),
    "an integer below -2^53": ([-SAFE - 1], "-9007199254740992 is beyond"),
    "too many digits": (10**5000, "digits"),
    "not a number": (math.nan, "nan"),
    "infinity": ({"a": math.inf}, "inf"),
    "half of a pair": ({"a": ["\ud800"]}, r"\$\.a\[0\]: holds half of a surrogate pair"),
    "half of a pair in a name": ({"\udc00": 1}, r"a name in \$: holds half"),
    "a name that is not a string": ({1: 2}, "keys must be strings"),
    "too deep": (nested(5000), "nested too deeply"),
}


@pytest.mark.parametrize("name", NOT_CANONICAL)
def test_what_i_json_excludes_has_no_canonical_text(name: str) -> None:
    value, says = NOT_CANONICAL[name]
    with pytest.raises(JsonError, match=says):
        canonical(cast("JsonValue", value))


@pytest.mark.parametrize(
    ("text", "place", "without"),
    [
        ('"\\ud800"', "$", '"?"'),
        ('{"a":["x","\\uDBFFy"]}', "$.a[1]", '{"a":["x","?y"]}'),
        ('{"\\udc00":1}', "a name in $", '{"?":1}'),
        ('"\\ud83d\\ude00"', None, '"\\ud83d\\ude00"'),
        ('"\\ude00\\ud83d"', "$", '"??"'),
    ],
)
def test_half_of_a_surrogate_pair_is_found_and_replaced(
    text: str, place: str | None, without: str
) -> None:
    value = parse(text)
    assert may_hold_half_pair(text)
    assert find_half_pair(value, "$") == place
    assert without_half_pairs(value) == parse(without)


@given(values)
def test_values_without_halves_stay_as_they_are(value: JsonValue) -> None:
    assert find_half_pair(value, "$") is None
    assert without_half_pairs(value) == value
