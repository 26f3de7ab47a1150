"""Every tool that is refused is refused with its field, its limit and its fix."""

from __future__ import annotations

import dataclasses
import json

import pytest

from precall_service.domain.errors import Reason, ServiceError
from precall_service.domain.tools import CacheScope, ToolEffects
from precall_service.tools.declarations import ToolProposal, declare
from tests.support.tools import CITY_SCHEMA, tool_limits

LIMITS = tool_limits()
WEATHER = ToolProposal(
    name="weather", description="Weather in a city.", input_schema_json=CITY_SCHEMA
)


def refusal(proposal: ToolProposal) -> ServiceError:
    with pytest.raises(ServiceError) as caught:
        declare(proposal, LIMITS, path="register_tools.tools[3].")
    return caught.value


def with_schema(schema: object) -> ToolProposal:
    return dataclasses.replace(WEATHER, input_schema_json=json.dumps(schema))


def test_declares_with_defaults() -> None:
    declaration = declare(WEATHER, LIMITS).declaration
    assert declaration.name == "weather"
    assert declaration.timeout_s == LIMITS.timeout_default_s
    assert declaration.max_concurrency == LIMITS.concurrency_default
    assert declaration.input_schema["required"] == ["city"]
    assert declaration.output_schema is None
    assert declaration.effects == ToolEffects()


def test_keeps_what_the_owner_says() -> None:
    effects = ToolEffects(read_only=True, reads=("weather:{city}",))
    declaration = declare(
        dataclasses.replace(
            WEATHER,
            version="7",
            timeout_s=60.0,
            max_concurrency=9,
            output_schema_json='{"type":"string"}',
            effects=effects,
            cache_ttl_s=5.0,
            cache_scope=CacheScope.TENANT,
        ),
        LIMITS,
    ).declaration
    assert declaration.version == "7"
    assert declaration.timeout_s == 60.0
    assert declaration.max_concurrency == 9
    assert declaration.output_schema == {"type": "string"}
    assert declaration.effects is effects
    assert (declaration.cache_ttl_s, declaration.cache_scope) == (5.0, CacheScope.TENANT)


def test_no_schema_means_no_arguments() -> None:
    checked = declare(dataclasses.replace(WEATHER, input_schema_json=""), LIMITS)
    checked.arguments.check({}, root="arguments")
    with pytest.raises(ValueError, match=r"^arguments: .*'city'"):
        checked.arguments.check({"city": "Rome"}, root="arguments")


def test_a_tool_with_other_effects_has_another_version() -> None:
    """What was cached while it declared too few reads must not be served any longer."""
    declared = declare(WEATHER, LIMITS).declaration
    effects = dataclasses.replace(WEATHER.effects, reads=("weather:{city}",))
    other = declare(dataclasses.replace(WEATHER, effects=effects), LIMITS).declaration
    assert other.version != declared.version
    assert other.digest == declared.digest, "the model is shown the same"


def test_version_is_a_digest_of_the_meaning() -> None:
    version = declare(WEATHER, LIMITS).declaration.version
    respaced = dataclasses.replace(
        WEATHER, input_schema_json=json.dumps(dict(reversed(json.loads(CITY_SCHEMA).items())))
    )
    assert len(version) == 16
    assert declare(respaced, LIMITS).declaration.version == version
    for changed in (
        dataclasses.replace(WEATHER, name="weather2"),
        dataclasses.replace(WEATHER, description="Rain in a city."),
        dataclasses.replace(WEATHER, output_schema_json='{"type":"string"}'),
        with_schema({"type": "object", "properties": {"city": {"type": "integer"}}}),
    ):
        assert declare(changed, LIMITS).declaration.version != version


@pytest.mark.parametrize("name", ["", "get weather", "a.b", "x" * 65, "wéather", "a\n"])
def test_bad_name(name: str) -> None:
    error = refusal(dataclasses.replace(WEATHER, name=name))
    assert error.reason is Reason.TOOL_NAME_INVALID
    assert error.field == "register_tools.tools[3].name"
    assert "1 to 64 of A-Z a-z 0-9 _ and -" in error.message
    assert len(error.message) < 200


def test_long_description() -> None:
    error = refusal(dataclasses.replace(WEATHER, description="é" * 129))
    assert error.reason is Reason.TOO_LARGE
    assert error.field == "register_tools.tools[3].description"
    assert "258 bytes, the limit is 256" in error.message
    assert error.metadata["limit"] == "256"


def test_large_schema() -> None:
    error = refusal(with_schema({"type": "object", "description": "x" * 5000}))
    assert error.reason is Reason.TOO_LARGE
    assert error.field == "register_tools.tools[3].input_schema_json"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "at line 1"),
        ("[]", "an array"),
        ("true", "a boolean"),
        ('{"type":"object","type":"object"}', "twice"),
        ('{"type":"object","default":NaN}', "NaN"),
        ('{"type":"object","default":1e999}', "too large"),
        ('{"type":"object","description":"\\ud800"}', "cannot carry"),
        ("{}", '$.type: arguments are always an object; set "type": "object"'),
        ('{"type":"string"}', "$.type"),
        ('{"type":["object","null"]}', "$.type"),
        (
            '{"type":"object","properties":{"a":{"type":"strin"}}}',
            '$.properties.a.type: fits no alternative: "strin"',
        ),
        ('{"type":"object","properties":{"a":{"items":[{}]}}}', "$.properties.a.items"),
        ('{"type":"object","properties":{"a":{"pattern":"("}}}', "$.properties.a.pattern"),
        ('{"type":"object","required":"a"}', "$.required"),
        ('{"type":"object","properties":{"a":7}}', "$.properties.a"),
        ('{"type":"object","$ref":"https://example.com/a"}', "$.$ref: 'https://example.com/a'"),
        ('{"type":"object","properties":{"a":{"$ref":"file:///etc/passwd"}}}', "$.properties.a"),
        ('{"type":"object","allOf":[{"$dynamicRef":"other#a"}]}', "$.allOf[0].$dynamicRef"),
        ('{"type":"object","$ref":"#/x","x":{"$ref":"http://a"}}', "#/x.$ref: 'http://a'"),
        ('{"type":"object","items":{"$ref":"#/$defs/b"}}', "$.items.$ref: there is no '#/$defs/b'"),
        ('{"type":"object","items":{"$ref":"#anchor"}}', "there is no '#anchor'"),
        ('{"type":"object","allOf":[{}],"$ref":"#/allOf/x"}', "$.$ref: there is no '#/allOf/x'"),
        ('{"type":"object","minProperties":1,"$ref":"#/minProperties/x"}', "$.$ref: there is no"),
        ('{"type":"object","allOf":[{}],"$ref":"#/allOf/7"}', "$.$ref: there is no '#/allOf/7'"),
        ('{"type":"object","not":{"$id":"http://a"}}', "$.not: $id and $schema"),
        ('{"type":"object","$ref":"#"}', "the reference # leads to nothing but itself"),
        ('{"type":"object","not":{"$ref":"#/not"}}', "#/not leads to nothing but itself"),
        ('{"type":"object","required":["a"],"additionalProperties":false}', "no arguments can"),
        ('{"type":"object","required":["a"],"properties":{"a":{"enum":[]}}}', "no arguments can"),
        ('{"type":"object","not":' * 80 + "{}" + "}" * 80, "deeper than 64"),
    ],
)
def test_bad_schema(text: str, says: str) -> None:
    error = refusal(dataclasses.replace(WEATHER, input_schema_json=text))
    assert error.reason is Reason.TOOL_SCHEMA_INVALID
    assert error.field == "register_tools.tools[3].input_schema_json"
    assert says in error.message
    assert len(error.message) < 500


def test_bad_output_schema() -> None:
    error = refusal(dataclasses.replace(WEATHER, output_schema_json='{"type":"strin"}'))
    assert error.reason is Reason.TOOL_SCHEMA_INVALID
    assert error.field == "register_tools.tools[3].output_schema_json"


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"$ref": {"type": "string"}}},
        {"type": "object", "default": {"$ref": "https://example.com"}},
        {"type": "object", "properties": {"a": {"const": {"$ref": "https://example.com"}}}},
        {"type": "object", "properties": {"a": {"$ref": "#"}}},
        {"type": "object", "$defs": {"a": True}, "properties": {"b": {"$ref": "#/$defs/a"}}},
        {"type": "object", "$schema": "http://json-schema.org/draft-07/schema#"},
        {
            "$id": "https://example.com/tool",
            "type": "object",
            "$defs": {"b": {"type": "integer"}},
            "properties": {"b": {"$ref": "#/$defs/b"}},
        },
    ],
)
def test_schema_without_reach_is_accepted(schema: dict[str, object]) -> None:
    declare(with_schema(schema), LIMITS).arguments.check({}, root="arguments")


@pytest.mark.parametrize("timeout_s", [0.0, -1.0, 60.1, float("inf"), float("nan")])
def test_timeout_outside_of_range(timeout_s: float) -> None:
    error = refusal(dataclasses.replace(WEATHER, timeout_s=timeout_s))
    assert error.reason is Reason.FIELD_INVALID
    assert error.field == "register_tools.tools[3].timeout"
    assert "at most 60 s" in error.message


@pytest.mark.parametrize(
    ("change", "reason", "field", "says"),
    [
        (
            {"effects": ToolEffects(requires_approval=True)},
            Reason.NOT_SERVED,
            "effects.requires_approval",
            "CAPABILITY_APPROVALS",
        ),
        ({"rate_limit": 5}, Reason.NOT_SERVED, "rate_limit", "leave it at 0"),
        (
            {"effects": ToolEffects(read_only=True, writes=("file:{path}",))},
            Reason.FIELD_INVALID,
            "effects.writes",
            "read_only",
        ),
        ({"effects": ToolEffects(reads=("a",) * 65)}, Reason.TOO_LARGE, "effects.reads", "64"),
        (
            {"effects": ToolEffects(writes=("a", "b" * 257))},
            Reason.TOO_LARGE,
            "effects.writes[1]",
            "256",
        ),
        ({"version": "v" * 129}, Reason.TOO_LARGE, "version", "128"),
        ({"cache_ttl_s": -1.0}, Reason.FIELD_INVALID, "cache.ttl", "0 for never, at most"),
        ({"cache_ttl_s": float("nan")}, Reason.FIELD_INVALID, "cache.ttl", "0 for never, at most"),
    ],
)
def test_refused(change: dict[str, object], reason: Reason, field: str, says: str) -> None:
    error = refusal(dataclasses.replace(WEATHER, **change))
    assert error.reason is reason
    assert error.field == f"register_tools.tools[3].{field}"
    assert says in error.message
    assert "weather" in error.message


def test_a_digest_follows_what_the_model_is_shown() -> None:
    schemas = ('{"type":"object","properties":{"a":{},"b":{}}}',) * 2 + (
        '{"type":"object","properties":{"b":{},"a":{}}}',
    )
    first, same, other = (
        declare(dataclasses.replace(WEATHER, version="", input_schema_json=schema), LIMITS)
        for schema in schemas
    )
    assert first.declaration.digest == same.declaration.digest
    assert first.declaration.digest != other.declaration.digest
    assert first.declaration.version == other.declaration.version
