"""Inline tools: registrations, refusals with their reasons, updates and withdrawals."""

from __future__ import annotations

import json
from dataclasses import replace

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from precall.v1 import tool_pb2, turn_pb2
from precall_service.engine.findings import Finding, Findings, Standing, Subject
from precall_service.tools.text import shorten
from precall_service.transport.decoding import FIELDS_MAX
from tests.support.scripted_engine import INFO
from tests.support.scripts import always, calls, in_turn, says
from tests.support.stream import WEATHER, StreamDriver, running_server
from tests.support.wire import Failure, failure

HELLO = always(says("Hello."))
CALL = calls(("weather", '{"city":"Rome"}'))

Tool = tool_pb2.Tool

LIMITS = {
    "tools_max": 3,
    "schema_bytes_max": 8192,
    "description_bytes_max": 1024,
    "timeout_max_s": 60.0,
}


async def registered(stream: StreamDriver, *tools: Tool) -> list[tool_pb2.ToolRegistration]:
    """Registers tools; returns the answer for each."""
    number = await stream.send("register_tools", tool_pb2.RegisterTools(tools=tools))
    answer = (await stream.expect("tools_registered")).tools_registered
    assert answer.frame_sequence == number
    names = [shorten(tool.name, 80) for tool in tools]
    assert [entry.name for entry in answer.registrations] == names
    return list(answer.registrations)


async def withdrawn(stream: StreamDriver, *names: str) -> tool_pb2.ToolsWithdrawn:
    """Withdraws tools; returns the answer."""
    number = await stream.send("withdraw_tools", tool_pb2.WithdrawTools(names=names))
    answer = (await stream.expect("tools_withdrawn")).tools_withdrawn
    assert answer.frame_sequence == number
    return answer


def refusal(entry: tool_pb2.ToolRegistration) -> Failure:
    """The error with which a tool was refused."""
    assert entry.version == ""
    assert entry.HasField("error")
    return failure(entry.error)


def schema(**parts: object) -> str:
    return json.dumps({"type": "object", **parts})


def tool(**fields: object) -> Tool:
    return Tool(name="weather", **fields)  # pyright: ignore[reportArgumentType]


BAD_SCHEMAS = {
    "not JSON": ("{", "line 1"),
    "a list": ("[]", "array"),
    "true": ("true", "boolean"),
    "no type": ("{}", "$.type"),
    "another type": ('{"type": "array"}', "$.type"),
    "an unknown type": ('{"type": "objekt"}', "$.type"),
    "a broken part": (schema(properties={"a": {"type": 5}}), "$.properties.a.type"),
    "a broken pattern": (schema(properties={"a": {"pattern": "("}}), "$.properties.a.pattern"),
    "required twice": (schema(required=["a", "a"]), "$.required"),
    "a remote reference": (schema(**{"$ref": "https://example.com/a.json"}), "$.$ref"),
    "a file reference": (schema(properties={"a": {"$ref": "file:///etc/passwd"}}), "$ref"),
    "a relative reference": (schema(properties={"a": {"$ref": "other.json"}}), "other.json"),
    "a remote dynamic reference": (schema(items={"$dynamicRef": "http://a/b#c"}), "$dynamicRef"),
    "a reference to nothing": (schema(properties={"a": {"$ref": "#/$defs/b"}}), "#/$defs/b"),
    "an id inside": (schema(properties={"a": {"$id": "http://a/"}}), "$id"),
    "a name twice": ('{"type":"object","type":"object"}', "twice"),
    "half a surrogate pair": (schema(title="\ud800"), "UTF-8"),
    "too many digits": ('{"type":"object","maxProperties":%s}' % ("1" * 5000), "digits"),
    "too deep": ('{"type":"object","not":' * 80 + "{}" + "}" * 80, "nested"),
}


@pytest.mark.parametrize("name", BAD_SCHEMAS)
async def test_an_unusable_schema_is_refused_with_the_path_of_the_fault(name: str) -> None:
    text, place = BAD_SCHEMAS[name]
    async with running_server(HELLO, tools=LIMITS) as server:
        stream = await server.opened()
        [entry] = await registered(stream, tool(input_schema_json=text))
        error = refusal(entry)
        assert error.reason == "TOOL_SCHEMA_INVALID"
        assert error.code is grpc.StatusCode.INVALID_ARGUMENT
        assert error.field == "register_tools.tools[0].input_schema_json"
        assert place in error.message
        assert (await stream.ask()).text == "Hello."
        assert not server.engine.specs[0].tools
        await stream.close()


BAD_TOOLS = [
    ("name", "TOOL_NAME_INVALID", Tool()),
    ("name", "TOOL_NAME_INVALID", Tool(name="a b")),
    ("name", "TOOL_NAME_INVALID", Tool(name="x" * 65)),
    ("name", "TOOL_NAME_INVALID", Tool(name="wétter")),
    ("name", "TOOL_NAME_INVALID", Tool(name="weather\n")),
    ("name", "TOOL_NAME_INVALID", Tool(name="../etc")),
    ("description", "TOO_LARGE", tool(description="é" * 513)),
    ("version", "TOO_LARGE", tool(version="x" * 129)),
    ("input_schema_json", "TOO_LARGE", tool(input_schema_json=schema(title="x" * 8192))),
    ("output_schema_json", "TOO_LARGE", tool(output_schema_json=schema(title="x" * 8192))),
    ("output_schema_json", "TOOL_SCHEMA_INVALID", tool(output_schema_json='{"type":5}')),
    ("timeout", "FIELD_INVALID", tool(timeout=Duration())),
    ("timeout", "FIELD_INVALID", tool(timeout=Duration(seconds=-1))),
    ("timeout", "FIELD_INVALID", tool(timeout=Duration(seconds=61))),
    ("timeout", "FIELD_INVALID", tool(timeout=Duration(seconds=2**62, nanos=-1))),
    ("rate_limit", "NOT_SERVED", tool(rate_limit=5)),
    ("cache.ttl", "FIELD_INVALID", tool(cache=tool_pb2.ToolCachePolicy(ttl=Duration(seconds=-1)))),
    (
        "effects.requires_approval",
        "NOT_SERVED",
        tool(effects=tool_pb2.ToolEffects(requires_approval=True)),
    ),
    (
        "effects.writes",
        "FIELD_INVALID",
        tool(effects=tool_pb2.ToolEffects(read_only=True, writes=["file:{path}"])),
    ),
    ("effects.reads", "TOO_LARGE", tool(effects=tool_pb2.ToolEffects(reads=["a"] * 65))),
    ("effects.reads[1]", "TOO_LARGE", tool(effects=tool_pb2.ToolEffects(reads=["a", "b" * 257]))),
]


@pytest.mark.parametrize(
    ("field", "reason", "bad"), BAD_TOOLS, ids=[f"{f}-{r}" for f, r, _ in BAD_TOOLS]
)
async def test_a_field_out_of_range_is_refused_by_name(field: str, reason: str, bad: Tool) -> None:
    async with running_server(HELLO, tools=LIMITS) as server:
        stream = await server.opened()
        good, entry = await registered(stream, Tool(name="good"), bad)
        assert good.version
        error = refusal(entry)
        assert error.reason == reason
        assert error.field == f"register_tools.tools[1].{field}"
        if reason == "TOO_LARGE":
            assert error.metadata["limit"] in error.message
        await stream.ask()
        assert [tool.name for tool in server.engine.specs[0].tools] == ["good"]
        await stream.close()


async def test_what_the_contract_allows_is_registered() -> None:
    full = Tool(
        name="aZ0_-" * 12 + "four",
        version="v" * 128,
        description="é" * 512,
        input_schema_json='{"type":"object","items":{"$ref":"#/$defs/b"},"$defs":{"b":true}}',
        output_schema_json='{"type": ["string", "null"]}',
        effects=tool_pb2.ToolEffects(read_only=True, speculation_safe=True, reads=["file:{a}"]),
        cache=tool_pb2.ToolCachePolicy(ttl=Duration(seconds=5), scope=tool_pb2.CACHE_SCOPE_TENANT),
        timeout=Duration(seconds=60),
        max_concurrency=1,
    )
    async with running_server(HELLO, tools=LIMITS) as server:
        stream = await server.opened()
        first, second = await registered(stream, full, Tool(name="b"))
        assert first.version == "v" * 128
        assert second.version
        assert not second.HasField("error")
        assert (await registered(stream)) == []
        await stream.close()


async def test_a_missing_version_is_derived_from_the_declaration() -> None:
    async with running_server(HELLO) as server:
        stream, other = await server.opened(), await server.opened()
        [same] = await registered(other, WEATHER)
        versions = [
            (await registered(stream, declared))[0].version
            for declared in (
                WEATHER,
                WEATHER,
                tool(input_schema_json=WEATHER.input_schema_json, description="Now"),
                tool(input_schema_json=schema()),
                tool(input_schema_json=schema(), output_schema_json="{}"),
            )
        ]
        assert versions[0] == versions[1] == same.version
        assert len(set(versions)) == 4
        await stream.close()
        await other.close()


async def test_a_name_that_is_twice_in_a_frame_is_refused_once() -> None:
    async with running_server(HELLO) as server:
        stream = await server.opened()
        first, second = await registered(stream, WEATHER, WEATHER)
        assert first.version
        error = refusal(second)
        assert error.reason == "TOOL_DUPLICATE"
        assert error.code is grpc.StatusCode.ALREADY_EXISTS
        assert error.field == "register_tools.tools[1].name"
        await stream.ask()
        assert len(server.engine.specs[0].tools) == 1
        await stream.close()


async def test_too_many_tools_are_refused_until_some_are_withdrawn() -> None:
    async with running_server(HELLO, tools=LIMITS) as server:
        stream = await server.opened()
        [first] = await registered(stream, Tool(name="t0"))
        *taken, over = await registered(stream, *[Tool(name=f"t{n}") for n in range(1, 4)])
        assert all(entry.version for entry in (first, *taken))
        error = refusal(over)
        assert error.reason == "LIMIT_REACHED"
        assert error.metadata["limit"] == "3"
        [update] = await registered(stream, Tool(name="t0", description="new"))
        assert update.version, "an update does not count against the limit"
        await withdrawn(stream, "t0")
        [entry] = await registered(stream, Tool(name="t3"))
        assert entry.version
        await stream.close()


@pytest.mark.parametrize(
    "frame",
    [
        tool_pb2.RegisterTools(tools=[Tool()] * 50_000),
        tool_pb2.WithdrawTools(names=["t"] * 50_000),
    ],
    ids=["register_tools.tools", "withdraw_tools.names"],
)
async def test_a_frame_with_more_tools_than_a_stream_may_have_is_refused_as_a_whole(
    frame: tool_pb2.RegisterTools | tool_pb2.WithdrawTools,
) -> None:
    kind = "register_tools" if isinstance(frame, tool_pb2.RegisterTools) else "withdraw_tools"
    async with running_server(HELLO, tools=LIMITS) as server:
        stream = await server.opened(WEATHER)
        error = await stream.refused(await stream.send(kind, frame))
        assert error.reason == "TOO_LARGE"
        assert error.metadata == {"size": "50000", "limit": "3"}
        await stream.ask()
        await stream.close()


async def test_a_frame_with_too_many_fields_to_be_decoded_is_refused_without_its_number() -> None:
    async with running_server(HELLO, tools=LIMITS) as server:
        stream = await server.opened(WEATHER)
        await stream.send("register_tools", tool_pb2.RegisterTools(tools=[Tool()] * FIELDS_MAX))
        error = await stream.refused(0)
        assert error.reason == "TOO_LARGE"
        assert error.metadata == {"limit": str(FIELDS_MAX)}
        await stream.ask()
        await stream.close()


async def test_long_names_are_shortened_in_answers() -> None:
    async with running_server(HELLO) as server:
        stream = await server.opened()
        [entry] = await registered(stream, Tool(name="n" * 1_000_000))
        assert refusal(entry).reason == "TOOL_NAME_INVALID"
        assert entry.ByteSize() < 1000
        assert (await withdrawn(stream, "n" * 1_000_000)).ByteSize() < 1000
        cancel = turn_pb2.CancelTurn(turn_id="n" * 1_000_000)
        error = await stream.refused(await stream.send("cancel_turn", cancel))
        assert len(error.message) < 300
        await stream.close()


async def test_a_withdrawal_lists_the_tools_that_existed() -> None:
    async with running_server(HELLO) as server:
        stream = await server.opened(WEATHER)
        answer = await withdrawn(stream, "nothing", "weather", "weather", "")
        assert list(answer.names) == ["weather"]
        assert list(answer.unknown_names) == ["nothing", ""]
        await stream.ask()
        assert not server.engine.specs[0].tools
        answer = await withdrawn(stream)
        assert not answer.names
        await stream.close()


async def test_tools_belong_to_their_stream() -> None:
    async with running_server(HELLO) as server:
        mine, theirs = await server.opened(WEATHER), await server.opened(Tool(name="other"))
        await mine.ask()
        await theirs.ask()
        names = [[tool.name for tool in spec.tools] for spec in server.engine.specs]
        assert names == [["weather"], ["other"]]
        await mine.close()
        await theirs.close()


async def test_a_model_without_tool_calls_accepts_no_tools() -> None:
    refused = Finding(Subject.TOOL_CALLS, Standing.FAILS, "tools are refused: no role for them")
    deaf = replace(INFO, features=frozenset(), findings=Findings((refused,)))
    async with running_server(HELLO, info=deaf) as server:
        stream = await server.opened()
        [entry] = await registered(stream, WEATHER)
        error = refusal(entry)
        assert error.reason == "NOT_SERVED"
        assert "CAPABILITY_TOOL_CALLS" in error.message
        assert "tools are refused: no role for them" in error.message
        assert (await stream.ask()).text == "Hello."
        await stream.close()


async def test_an_update_while_a_call_runs_applies_to_the_next_call() -> None:
    async with running_server(in_turn(CALL, CALL, says("Warm."))) as server:
        stream = await server.opened(WEATHER)
        await stream.start()
        first = await stream.invoked()
        [update] = await registered(
            stream, tool(input_schema_json=WEATHER.input_schema_json, version="new")
        )
        assert update.version == "new"
        await stream.answer(first.invocation_id)
        second = await stream.invoked()
        assert (first.tool_version, second.tool_version) != (second.tool_version, "")
        assert second.tool_version == "new"
        await stream.answer(second.invocation_id)
        await stream.completed()
        await stream.close()


async def test_a_refused_update_leaves_the_tool_as_it_was() -> None:
    async with running_server(in_turn(CALL, says("Warm."))) as server:
        stream = await server.opened(WEATHER)
        [entry] = await registered(stream, tool(input_schema_json="nonsense"))
        refusal(entry)
        await stream.start()
        await stream.answer((await stream.invoked()).invocation_id)
        assert (await stream.completed()).text == "Warm."
        await stream.close()
