"""What the schemas of tools may take: time to make them, and memory while they are used."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from precall_service.domain.errors import Reason
from precall_service.domain.json import JsonObject
from precall_service.domain.messages import Transcript
from precall_service.tools import declarations
from precall_service.tools.declarations import ToolLimits, ToolProposal
from precall_service.tools.schema import Schema
from precall_service.tools.schema_store import SchemaStore, trim_memory
from precall_service.tools.toolset import Registration, Toolset
from tests.support.agent import TIME, WITH_EVENTS, agent
from tests.support.links import RecordingLink
from tests.support.loop_watch import watched_loop
from tests.support.tools import tool_limits

LIMITS = replace(tool_limits(tools_max=128), schema_bytes_max=64 << 10)


def heavy(number: int, *, name: str = "") -> ToolProposal:
    """A tool whose schemas take about a megabyte each."""
    patterns = [{"pattern": f"^[a-z]{{1,{4000 + number}}}$"}]
    text = json.dumps({"type": "object", "anyOf": patterns})
    return ToolProposal(name=name or f"tool{number}", input_schema_json=text)


class Streams:
    """A store, and streams of tenants."""

    def __init__(self, **limits: int) -> None:
        self.limits: ToolLimits = replace(LIMITS, **limits)
        self.store = SchemaStore(self.limits)

    def open(self, tenant: str) -> Toolset:
        return Toolset(RecordingLink(), self.limits, self.store, tenant=tenant)


@pytest.fixture
def streams() -> Iterator[Streams]:
    streams = Streams()
    yield streams
    streams.store.close()


async def freed(store: SchemaStore) -> None:
    """Returns once what is not used is freed. The thread holds its last result for a moment."""
    thread = store._thread  # pyright: ignore[reportPrivateUsage]
    await asyncio.get_running_loop().run_in_executor(thread, int)
    gc.collect()


def refusals(registrations: list[Registration]) -> list[str]:
    errors = [each.outcome.error for each in registrations]
    for error in filter(None, errors):
        assert error.reason is Reason.LIMIT_REACHED
        assert error.metadata["limit"]
    return [error.message if error else "" for error in errors]


async def test_memory_is_given_back(streams: Streams) -> None:
    tools = streams.open("a")
    await tools.register([heavy(1), heavy(2)])
    both = streams.store.held_bytes["a"]
    tools.withdraw(["tool2"])
    await freed(streams.store)
    one = streams.store.held_bytes["a"]
    assert one < both
    await tools.register([heavy(3, name="tool1")])
    await freed(streams.store)
    assert streams.store.held_bytes["a"] == pytest.approx(one, rel=0.01)
    del tools
    await freed(streams.store)
    assert streams.store.held_bytes == {}


async def test_memory_counts_as_long_as_a_turn_has_the_tool(streams: Streams) -> None:
    tools = streams.open("a")
    await tools.register([heavy(1)])
    held = streams.store.held_bytes
    snapshot = tools.snapshot()
    tools.withdraw(["tool1"])
    await freed(streams.store)
    assert streams.store.held_bytes == held
    del snapshot
    await freed(streams.store)
    assert streams.store.held_bytes == {}


async def test_equal_schemas_of_a_tenant_are_compiled_once(
    streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[str] = []
    made = Schema.__init__

    def counted(self: Schema, schema: JsonObject) -> None:
        compiled.append(str(schema))
        made(self, schema)

    monkeypatch.setattr(Schema, "__init__", counted)
    first, second, other = streams.open("a"), streams.open("a"), streams.open("b")
    await first.register([heavy(1)])
    held = streams.store.held_bytes["a"]
    await second.register([heavy(1), heavy(1, name="again")])
    assert streams.store.held_bytes["a"] == held
    assert len(compiled) == 1
    await other.register([heavy(1)])
    assert len(compiled) == 2, "what one tenant has registered must not be seen in another's time"
    assert streams.store.held_bytes["b"] == held


@pytest.mark.parametrize(
    ("limit", "whose"),
    [
        ("schemas_stream_bytes_max", "this stream"),
        ("schemas_tenant_bytes_max", "this tenant"),
        ("schemas_bytes_max", "this server"),
    ],
)
async def test_each_limit_refuses_the_tool_that_exceeds_it(limit: str, whose: str) -> None:
    streams = Streams(**{limit: 5 << 20})
    tools = streams.open("a")
    found = refusals(await tools.register([heavy(number) for number in range(6)]))
    assert found[:3] == ["", "", ""]
    assert f"the schemas of {whose} would take" in found[-1]
    assert "use simpler or shorter schemas, or withdraw other tools first" in found[-1]
    await freed(streams.store)
    assert sum(streams.store.held_bytes.values()) <= 5 << 20

    # An update that keeps within the limit replaces what is there.
    [update] = refusals(await tools.register([ToolProposal(name="tool0")]))
    assert update == ""
    other = streams.open("b" if limit == "schemas_bytes_max" else "a")
    more = refusals(await other.register([heavy(number) for number in range(10, 16)]))
    assert bool(more[1]) == (limit != "schemas_stream_bytes_max")
    if limit != "schemas_stream_bytes_max":
        tools.withdraw([f"tool{number}" for number in range(6)])
        await freed(streams.store)
        assert refusals(await other.register([heavy(20)])) == [""]
    streams.store.close()


async def test_tenants_take_turns_at_the_one_thread(
    streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    threads: set[str] = set()
    declare = declarations.declare

    def noted(proposal: ToolProposal, *args: object, **kwargs: object) -> object:
        order.append(proposal.name)
        threads.add(threading.current_thread().name)
        return declare(proposal, *args, **kwargs)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr("precall_service.tools.schema_store.declare", noted)
    many, few = streams.open("a"), streams.open("b")
    more = streams.open("a")
    await asyncio.gather(
        many.register([ToolProposal(name=f"a{n}") for n in range(20)]),
        more.register([ToolProposal(name=f"c{n}") for n in range(20)]),
        few.register([ToolProposal(name=f"b{n}") for n in range(3)]),
    )
    assert len(threads) == 1
    assert order.index("b2") <= 8


async def test_a_frame_of_costly_schemas_keeps_nobody() -> None:
    """The heaviest schemas that are refused, the heaviest that are allowed, and large ones."""
    streams = Streams()
    tools = streams.open("a")

    def patterned(count: int, tool: int) -> str:
        patterns = [{"pattern": f".{{1000}}{tool}_{n}"} for n in range(count)]
        return json.dumps({"type": "object", "anyOf": patterns})

    large = json.dumps({"type": "object", "properties": {f"a{n}": {} for n in range(4000)}})
    frames = [
        [ToolProposal(name=f"t{n}_{kind}", input_schema_json=text, output_schema_json=text)]
        for n in range(24)
        for kind, text in enumerate((patterned(64, n), patterned(4, n), large))
    ]
    async with watched_loop() as watch:
        registrations = [each for frame in frames for each in await tools.register(frame)]
    reasons = [each.outcome.error and each.outcome.error.reason for each in registrations]
    assert reasons[::3] == [Reason.TOOL_SCHEMA_INVALID] * 24
    assert Reason.LIMIT_REACHED in reasons[1::3]
    assert reasons[2] is None
    assert streams.store.held_bytes["a"] <= LIMITS.schemas_stream_bytes_max
    watch.assert_free()
    streams.store.close()


async def test_the_schemas_of_a_conversation_end_with_it() -> None:
    async with agent() as there:
        transcript = Transcript(messages=(), system_prompt="", template_variables={})
        with there.conversations.opened("ann", "helper", transcript, WITH_EVENTS) as conversation:
            [accepted] = await conversation.register([TIME], path="tools")
            assert accepted.outcome.error is None
            assert there.dispatcher.schemas_bytes["ann"] > 0
        del conversation, accepted
        await freed(there.dispatcher._schemas)  # pyright: ignore[reportPrivateUsage]
        assert there.dispatcher.schemas_bytes == {}


async def test_freed_memory_is_returned_to_the_system(
    streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    trims = 0

    def counted() -> None:
        nonlocal trims
        trims += 1
        trim_memory()

    monkeypatch.setattr("precall_service.tools.schema_store.trim_memory", counted)
    monkeypatch.setattr("precall_service.tools.schema_store.TRIM_BYTES", 8 << 20)
    tools = streams.open("a")
    await tools.register([heavy(number) for number in range(8)])
    assert trims == 0
    tools.withdraw([f"tool{number}" for number in range(8)])
    await freed(streams.store)
    await tools.register([heavy(20)])
    assert trims == 1
    await tools.register([heavy(21)])
    assert trims == 1
