"""Tools that the server and the fake server refuse: the same, by reason and field."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from precall.v1 import tool_pb2, turn_pb2
from tests.clients.refusing import (
    DESCRIPTION_MAX,
    FIELD,
    KINDS,
    LARGE,
    SCHEMA_MAX,
    SERVED,
    TOOLS_MAX,
    Effects,
    Open,
    Tool,
    named,
    stream_to,
    what,
)
from tests.support.wire import failure


def tool(**fields: Any) -> Tool:
    values: dict[str, Any] = {"name": "f", **fields}
    return Tool(**values)


def schema(**fields: Any) -> str:
    return json.dumps({"type": "object", **fields})


def cache(seconds: int) -> tool_pb2.ToolCachePolicy:
    return tool_pb2.ToolCachePolicy(ttl=Duration(seconds=seconds))


def properties(**named: Any) -> dict[str, Any]:
    return {"properties": named}


def nested(levels: int) -> dict[str, Any]:
    inner: dict[str, Any] = {}
    for _ in range(levels // 2):
        inner = {"items": {"not": inner}}
    return properties(a=inner)


BAD_NAME, BAD_SCHEMA = "TOOL_NAME_INVALID", "TOOL_SCHEMA_INVALID"
BAD: dict[str, dict[str, Any]] = {
    "an unknown type": properties(a={"type": "text"}),
    "a list where a schema belongs": properties(a=[]),
    "a list in items": properties(a={"items": [{"type": "string"}]}),
    "a length below 0": properties(a={"minLength": -1}),
    "required as one name": {"required": "a"},
    "an empty choice": {"anyOf": []},
    "a pattern that is none": properties(a={"pattern": "("}),
    "a reference to nothing": properties(a={"$ref": "#/$defs/a"}),
    "a reference to another document": properties(a={"$ref": "https://example.com/a"}),
    "$id below the root": properties(a={"$id": "a"}),
    "too deep": nested(64),
    "too many patterns": {"patternProperties": {f"{number}": {} for number in range(65)}},
    "patterns with too many states": {
        "anyOf": [{"pattern": f"^.{{1,1000}}{number}$"} for number in range(5)]
    },
    "too many paths to one part": {
        "$defs": {
            f"d{number}": {"allOf": [{"$ref": f"#/$defs/d{number + 1}"}] * 2}
            for number in range(13)
        }
        | {"d13": {}},
        "allOf": [{"$ref": "#/$defs/d0"}],
    },
}
"""Keywords that no schema of a tool may have."""
UNSATISFIABLE: dict[str, dict[str, Any]] = {
    "a required property that is false": {"required": ["a"], "properties": {"a": False}},
    "a required property that is left out": {"required": ["a"], "additionalProperties": False},
    "types that contradict each other": {
        "required": ["a"],
        **properties(a={"allOf": [{"type": "string"}, {"type": "integer"}]}),
    },
    "bounds that contradict each other": {
        "required": ["a"],
        **properties(a={"type": "integer", "minimum": 2, "maximum": 1}),
    },
    "a constant of another type": {
        "required": ["a"],
        **properties(a={"type": "string", "const": 1}),
    },
    "too many properties": {"minProperties": 2, "maxProperties": 1},
    "a reference to itself": properties(a={"$ref": "#/properties/a"}),
    "the whole as a reference to itself": {"$ref": "#"},
}
"""Keywords that no arguments can satisfy."""
GOOD: list[dict[str, Any]] = [
    {"$schema": "http://json-schema.org/draft-07/schema#", "$id": "https://example.com/a"},
    properties(a={"anyOf": [{"type": "string"}, {"type": "null"}], "default": None}),
    {"$defs": {"tree": {"type": "array", "items": {"$ref": "#/$defs/tree"}}}},
    properties(a={"$ref": "#/$defs/b"}) | {"$defs": {"b": {"enum": ["é"]}}},
    {"patternProperties": {f"{number}": {} for number in range(64)}},
    nested(58),
    properties(a={"minimum": 2, "maximum": 1}),
]
TOOLS: list[tuple[str, str, Tool]] = [
    *((BAD_NAME, "name", Tool(name=name)) for name in ("", "a b", "x" * 65, "é", "a\n", "a" * 99)),
    (LARGE, "description", tool(description="é" * (DESCRIPTION_MAX // 2 + 1))),
    (LARGE, "version", tool(version="x" * 129)),
    (LARGE, "input_schema_json", tool(input_schema_json=schema(title="x" * SCHEMA_MAX))),
    (LARGE, "output_schema_json", tool(output_schema_json=schema(title="x" * SCHEMA_MAX))),
    *(
        (BAD_SCHEMA, "input_schema_json", tool(input_schema_json=text))
        for text in (
            "{", "[]", "true", "{}", '{"type": "array"}', '{"type": ["object"]}', " ",
            '{"type": "object", "type": "object"}', r'{"type": "object", "title": "\ud800"}',
            '{"type": "object", "default": NaN}', '{"type": "object", "default": 1e999}',
        )
    ),
    *(
        (BAD_SCHEMA, "output_schema_json", tool(output_schema_json=text))
        for text in ("{", "[]", '{"a": 1, "a": 1}')
    ),
    *(
        (BAD_SCHEMA, "input_schema_json", tool(input_schema_json=schema(**keywords)))
        for keywords in (*BAD.values(), *UNSATISFIABLE.values())
    ),
    *(
        (BAD_SCHEMA, "output_schema_json", tool(output_schema_json=schema(**keywords)))
        for keywords in BAD.values()
    ),
    (FIELD, "timeout", tool(timeout=Duration())),
    (FIELD, "timeout", tool(timeout=Duration(seconds=-1))),
    (FIELD, "timeout", tool(timeout=Duration(seconds=61))),
    (SERVED, "rate_limit", tool(rate_limit=1)),
    (FIELD, "cache.ttl", tool(cache=cache(1))),
    (FIELD, "cache.ttl", tool(cache=cache(-1), effects=Effects(read_only=True))),
    (FIELD, "cache.ttl", tool(cache=cache(604_801), effects=Effects(read_only=True))),
    (SERVED, "effects.requires_approval", tool(effects=Effects(requires_approval=True))),
    (FIELD, "effects.writes", tool(effects=Effects(read_only=True, writes=["a:b"]))),
    (LARGE, "effects.reads", tool(effects=Effects(reads=["a:b"] * 65))),
    (LARGE, "effects.writes[1]", tool(effects=Effects(writes=["a:b", "a:" + "b" * 256]))),
    *(
        (FIELD, "effects.reads[0]", tool(effects=Effects(reads=[template])))
        for template in ("", "file", "{path}", "file:{", "file:}", "file:{}", "file:{a.}", "1:{a}")
    ),
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("reason", "field", "bad"), TOOLS, ids=named(TOOLS))
async def test_tools(kind: str, reason: str, field: str, bad: Tool) -> None:
    async with stream_to(kind) as stream:
        opened = await stream.open(Open(tools=[bad]))
        assert what(failure(opened.registrations[0].error)) == (reason, f"open.tools[0].{field}")
        frame = tool_pb2.RegisterTools(tools=[Tool(name="good"), bad])
        await stream.send("register_tools", frame)
        good, refused = (await stream.expect("tools_registered")).tools_registered.registrations
        assert good.version
        path = f"register_tools.tools[1].{field}"
        assert (what(failure(refused.error)), refused.version) == ((reason, path), "")
        await stream.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_schemas_that_are_accepted(kind: str) -> None:
    async with stream_to(kind) as stream:
        opened = await stream.open(Open())
        assert not opened.registrations
        for number, keywords in enumerate(GOOD):
            text = schema(**keywords)
            good = tool(input_schema_json=text, output_schema_json=text)
            await stream.send("register_tools", tool_pb2.RegisterTools(tools=[good]))
            (registered,) = (await stream.expect("tools_registered")).tools_registered.registrations
            assert not registered.HasField("error"), (number, registered.error)
        await stream.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_refused_update_leaves_the_tool(kind: str) -> None:
    async with stream_to(kind, steps=[{"a": 1}, "Yes."]) as stream:
        first = tool(input_schema_json=schema(**properties(a={"type": "integer"})))
        await stream.open(Open(tools=[first]))
        bad = tool(input_schema_json=schema(**BAD["an unknown type"]))
        await stream.send("register_tools", tool_pb2.RegisterTools(tools=[bad]))
        (refused,) = (await stream.expect("tools_registered")).tools_registered.registrations
        assert what(failure(refused.error))[0] == BAD_SCHEMA
        await stream.start()
        await stream.answer((await stream.invoked()).invocation_id)
        assert (await stream.call_completed()).outcome == turn_pb2.TOOL_CALL_OUTCOME_RESULT
        await stream.close()


def outcomes(registrations: Iterable[tool_pb2.ToolRegistration]) -> list[object]:
    """The name of each tool that was accepted, and what was wrong with each other."""
    return [
        what(failure(entry.error)) if entry.HasField("error") else entry.name
        for entry in registrations
    ]


@pytest.mark.parametrize("kind", KINDS)
async def test_the_number_of_tools(kind: str) -> None:
    async with stream_to(kind) as stream:
        opened = await stream.open(Open(tools=[Tool(name=name) for name in ("a", "a", "b")]))
        assert outcomes(opened.registrations) == [
            "a",
            ("TOOL_DUPLICATE", "open.tools[1].name"),
            "b",
        ]
        await stream.send(
            "register_tools", tool_pb2.RegisterTools(tools=[Tool(name="c"), Tool(name="d")])
        )
        registered = (await stream.expect("tools_registered")).tools_registered
        assert outcomes(registered.registrations) == [
            "c",
            ("LIMIT_REACHED", "register_tools.tools[1].name"),
        ]
        names = ["x"] * (TOOLS_MAX + 1)
        for name, field, frame in (
            ("withdraw_tools", "names", tool_pb2.WithdrawTools(names=names)),
            ("register_tools", "tools", tool_pb2.RegisterTools(tools=[Tool(name="a")] * 4)),
        ):
            number = await stream.send(name, frame)
            assert what(await stream.refused(number)) == (LARGE, f"{name}.{field}")
        await stream.send("withdraw_tools", tool_pb2.WithdrawTools(names=["b", "b", "x"]))
        withdrawn = (await stream.expect("tools_withdrawn")).tools_withdrawn
        assert (withdrawn.names, withdrawn.unknown_names) == (["b"], ["x"])
        await stream.close()
