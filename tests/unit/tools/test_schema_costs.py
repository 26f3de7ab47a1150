"""What a check is charged is an upper bound of what it takes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Final

import pytest

from precall_service.domain.json import JsonObject, JsonValue
from precall_service.tools.checks import AT_ONCE_NS_MAX
from precall_service.tools.pattern_costs import pattern_cost
from precall_service.tools.schema import CostlyError, Schema, SchemaError, extent_of
from precall_service.tools.schema_parts import SchemaParts
from tests.support.costly_checks import HALVES, HUGE, KEYWORDS, none_of

MACHINE: Final = 2.0
"""How much slower than ours the machine may be that runs the tests."""
SLACK_NS: Final = 200_000


def taken_ns(check: Callable[[], object]) -> int:
    """The least processor time of three checks: the first one may make what the others use."""
    times: list[int] = []
    for _ in range(3):
        begun = time.thread_time_ns()
        check()
        times.append(time.thread_time_ns() - begun)
    return min(times)


@pytest.mark.parametrize("keyword", KEYWORDS)
def test_no_keyword_takes_more_than_it_is_charged(keyword: str) -> None:
    given, value = KEYWORDS[keyword]
    schema = Schema(given)
    charged_ns = schema.cost_ns(extent_of(value, "value"))
    taken = taken_ns(lambda: schema.fits(value, root="value"))
    assert taken <= MACHINE * charged_ns + SLACK_NS


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ({"anyOf": [{"items": {"type": "string"}}] * 20}, list(range(300))),
        ({"anyOf": [{"items": {"anyOf": [{"type": "string"}] * 5}}] * 5}, list(range(300))),
        ({"oneOf": [{"items": {"type": "string"}}] * 50}, [{"a": [1] * 50}] * 5),
        ({"not": {"anyOf": [True] * 50}}, list(range(3000))),
    ],
    ids=lambda given: str(given)[:40],
)
def test_no_explanation_takes_more_than_it_is_charged(given: JsonObject, value: JsonValue) -> None:
    schema, parts, extent = Schema(given), SchemaParts(given), extent_of(value, "value")
    taken = taken_ns(lambda: schema.explained(value, root="value"))
    assert taken <= MACHINE * 15_000 * parts.visits(extent) + SLACK_NS


@pytest.mark.parametrize(
    ("given", "value"),
    [
        (none_of({"enum": [n + 0.5 for n in range(6000)]}), [-1.5] * 2000),
        ({"uniqueItems": True}, [HUGE + n for n in range(250)]),
        ({"items": {"maximum": HUGE}}, HALVES),
        ({"pattern": "^(?:(?=.*b)[ab])*$"}, "ab" * 4000),
        ({"type": "string"}, HUGE),
        ({"items": {"multipleOf": 0.01}}, [n / 100 for n in range(9000)]),
    ],
    ids=lambda given: str(given)[:40],
)
def test_what_may_take_long_is_not_begun(given: JsonObject, value: JsonValue) -> None:
    with pytest.raises(CostlyError):
        Schema(given).check_within(value, root="value", cost_max_ns=AT_ONCE_NS_MAX)


def test_an_explanation_that_may_take_long_is_not_begun() -> None:
    schema = Schema({"anyOf": [{"items": {"type": "string"}}] * 20})
    with pytest.raises(CostlyError):
        schema.check_within(list(range(300)), root="value", cost_max_ns=AT_ONCE_NS_MAX)


def test_ordinary_values_are_checked_at_once() -> None:
    names = [f"property_{number}" for number in range(50)]
    text = {"type": "string", "minLength": 1, "maxLength": 80}
    number = {"type": "number", "minimum": 0, "maximum": 1000}
    properties: dict[str, JsonValue] = {
        name: text if n % 2 else number for n, name in enumerate(names)
    }
    for name in names[1:11:2]:
        properties[name] = {"type": "string", "pattern": "^[a-z]+( [a-z]+)*$"}
    schema = Schema({"properties": properties, "required": names, "additionalProperties": False})
    value = {name: "some words" if n % 2 else 12.5 for n, name in enumerate(names)}
    schema.check_within(value, root="value", cost_max_ns=AT_ONCE_NS_MAX)


PATTERNS: Final = (
    *(r"\p{L}", r"\p{L}{2}", r"^\p{L}{1,20}$", r"[^\p{L}]{3}", r"(?i)\p{L}{3}", r"\W{500}"),
    *("^[a-z]{1,3000}$", ".{1000}", "[^a]{1,900}", r"\s{1000}", r"\d{1000}", "é{1000}"),
    *("(ab|cd){1000}", "(a?){3000}", "(.*a.{50}){20}c", "^(?!x).{100}$", "a" * 5000),
    *("|".join(f"word{n}" for n in range(1000)), r"[\u0100-\uffff]{1,500}", "(?i)[a-z]{1,500}"),
)
MEASURE: Final = """
import json, sys
from pathlib import Path
from precall_service.tools.schema import Schema

def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

Schema({"pattern": "a"})
found, kept = {}, []
for pattern in json.load(sys.stdin):
    before = resident()
    kept.append([Schema({"pattern": pattern + "()" * n}) for n in range(16)])
    found[pattern] = (resident() - before) / 16
print(json.dumps(found))
"""


def test_patterns_take_no_more_memory_than_is_estimated() -> None:
    given = json.dumps(PATTERNS)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE], input=given, capture_output=True, text=True, check=True
    )
    taken = json.loads(done.stdout)
    estimated = {pattern: pattern_cost(pattern).held_bytes for pattern in PATTERNS}
    assert not {pattern for pattern in PATTERNS if taken[pattern] > estimated[pattern]}


@pytest.mark.parametrize(
    "pattern",
    [r"^[A-Z]{3}\d{4}$", r"^[\w.-]+@[\w-]+\.\w{2,}$", r"^\d{4}-\d{2}-\d{2}$", r"^[^/]+(/[^/]+)*$"],
)
def test_ordinary_patterns_cost_little(pattern: str) -> None:
    assert pattern_cost(pattern).states < 200
    assert not pattern_cost(pattern).looks


@pytest.mark.parametrize("pattern", ["(?=a)b", "(?<!a)b", r"(a)\1", r"(?<n>a)\k<n>"])
def test_patterns_that_look_around_are_known(pattern: str) -> None:
    assert pattern_cost(pattern).looks


@pytest.mark.parametrize(
    "pattern", ["", "(", "[", "\\", "a{", "a{2", "(?", "[\\", ")", "*", "\\p{"]
)
def test_any_text_has_a_cost(pattern: str) -> None:
    assert pattern_cost(pattern).states >= 2


def test_patterns_that_take_long_to_compile_are_refused_before() -> None:
    begun_s = time.thread_time()
    with pytest.raises(SchemaError, match="its patterns would take"):
        Schema({"anyOf": [{"pattern": f".{{1000}}{n}"} for n in range(64)]})
    assert time.thread_time() - begun_s < 0.1


def test_data_is_counted_as_often_as_it_is_referred_to() -> None:
    values: JsonObject = {"enum": list(range(6000))}
    properties = {f"p{n}": {"$ref": "#/$defs/a"} for n in range(100)}
    with pytest.raises(SchemaError, match="606100 values and names in its keywords"):
        Schema({"$defs": {"a": values}, "properties": properties})
