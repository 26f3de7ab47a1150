"""Whatever the schema and the value: a check takes at most what it is charged, on our machines."""

from __future__ import annotations

import time
from typing import Any, Final

from hypothesis import given, settings
from hypothesis import strategies as st

from precall_service.tools.schema import Schema, SchemaError, extent_of
from tests.support.costly_checks import KEYWORDS
from tests.unit.tools.test_schema_costs import MACHINE, SLACK_NS

BUDGET_NS: Final = 20_000_000
"""Costlier checks are not tried."""

PARTS = st.sampled_from([schema for schema, _ in KEYWORDS.values()])
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.sampled_from([value for _, value in KEYWORDS.values()])
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda below: st.lists(below, max_size=9) | st.dictionaries(st.text(max_size=3), below),
    max_leaves=4,
)
KEYS = st.sampled_from(["allOf", "anyOf", "oneOf"])
SINGLE = st.sampled_from(["not", "items", "contains", "additionalProperties", "propertyNames"])
SCHEMAS: st.SearchStrategy[Any] = st.recursive(
    PARTS,
    lambda below: (
        st.dictionaries(KEYS, st.lists(below, min_size=1, max_size=3), max_size=2)
        | st.dictionaries(SINGLE, below, max_size=3)
        | st.fixed_dictionaries(
            {"unevaluatedProperties": below, "allOf": st.lists(below, min_size=1)}
        )
    ),
    max_leaves=4,
)


@settings(max_examples=150)
@given(part=SCHEMAS, value=VALUES)
def test_a_check_takes_at_most_what_it_is_charged(part: Any, value: Any) -> None:
    part = {name: each for name, each in part.items() if name != "$ref"}
    try:
        schema = Schema(part)
    except SchemaError:
        return
    charged_ns = schema.cost_ns(extent_of(value, "value"))
    if charged_ns > BUDGET_NS:
        return
    times: list[int] = []
    for _ in range(3):
        begun = time.thread_time_ns()
        schema.fits(value, root="value")
        times.append(time.thread_time_ns() - begun)
    assert min(times) <= MACHINE * charged_ns + SLACK_NS
