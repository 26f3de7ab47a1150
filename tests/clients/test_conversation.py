"""Conversations: opening, their tools, closing, and errors."""

from __future__ import annotations

import asyncio
import gc
import time

import pytest

import precall
from precall import (
    Capability,
    Client,
    Message,
    ServerLimits,
    Tool,
    ToolCall,
    ToolOptions,
    _frames,
)
from precall.testing import Call, FakeServer, Hang, Parallel, Refuse, Say
from precall.v1 import agent_pb2, tool_pb2
from tests.clients.helpers import FAST, talking


async def add(left: int, right: int = 1) -> int:
    """Add numbers."""
    return left + right


def shout(text: str) -> str:
    return text.upper()


async def test_the_handshake_holds_the_arguments() -> None:
    history = [
        Message("user", "1 + 1?"),
        Message("assistant", tool_calls=(ToolCall("c", "add", '{"left": 1}'),), reasoning="hm"),
        Message("tool", "2", tool_call_id="c"),
    ]
    async with (
        FakeServer(model="other") as server,
        Client(server.address, tenant="acme") as client,
    ):
        client.add_tool(add)
        async with client.conversation(
            system_prompt="Be brief.",
            model="other",
            history=history,
            template_variables={"enable_thinking": False},
            agent_name="adder",
        ) as conversation:
            assert (conversation.id, conversation.model) == ("conversation-1", "other")
            assert Capability.TOOL_CALLS in conversation.capabilities
            assert conversation.limits.result_bytes_max == 1024 * 1024
            assert conversation.expires_after_s == 3600
            assert [tool.name for tool in conversation.tools] == ["add"]
    opened = server.frames[0].open
    assert (opened.system_prompt, opened.agent_name) == ("Be brief.", "adder")
    assert opened.template_variables_json == '{"enable_thinking":false}'
    assert opened.client_name == f"precall-python/{precall.__version__}"
    assert [message.role for message in opened.history] == [
        agent_pb2.MESSAGE_ROLE_USER, agent_pb2.MESSAGE_ROLE_ASSISTANT, agent_pb2.MESSAGE_ROLE_TOOL,
    ]  # fmt: skip
    assert opened.history[1].tool_calls[0].arguments_json == '{"left": 1}'
    assert server.metadata[0]["precall-tenant"] == "acme"
    assert [frame.WhichOneof("frame") for frame in server.frames] == ["open", "close"]


def test_a_declaration_holds_the_options() -> None:
    declared = _frames.tool(
        Tool.from_function(
            add, version="3", read_only=True, speculation_safe=True, idempotent=True,
            open_world=True, requires_approval=True, approval_may_edit=True, reads=["n:{left}"],
            writes=["n:{right}"], cache_ttl_s=60, cache_scope="tenant", timeout_s=2.5,
            max_concurrency=4, rate_limit=10, rate_interval_s=0.5,
        )
    )  # fmt: skip
    assert declared.effects == tool_pb2.ToolEffects(
        read_only=True, speculation_safe=True, idempotent=True, open_world=True,
        requires_approval=True, approval_may_edit=True, reads=["n:{left}"], writes=["n:{right}"],
    )  # fmt: skip
    assert (declared.description, declared.version) == ("Add numbers.", "3")
    assert (declared.max_concurrency, declared.rate_limit) == (4, 10)
    assert declared.timeout.ToMilliseconds() == 2500
    assert declared.rate_interval.ToMilliseconds() == 500
    assert (declared.cache.ttl.seconds, declared.cache.scope) == (60, tool_pb2.CACHE_SCOPE_TENANT)
    # Without options, nothing is declared.
    quiet = _frames.tool(Tool.from_function(shout))
    assert quiet.effects == tool_pb2.ToolEffects()
    assert not quiet.HasField("cache")
    assert not quiet.HasField("timeout")


async def test_the_decorator_returns_the_function_and_a_cell_can_run_again() -> None:
    client = Client("localhost:1")

    @client.tool
    def twice(x: int) -> int:
        return x * 2

    first = client.tools

    @client.tool(name="twice", read_only=True)
    def twice_again(x: int) -> int:
        return x + x

    assert (twice(2), twice_again(2)) == (4, 4)
    assert [tool.name for tool in client.tools] == ["twice"]
    assert client.tools[0].options.get("read_only")
    assert first != client.tools


async def test_conversations_choose_their_tools() -> None:
    async with FakeServer() as server, Client(server.address) as client:
        declared = client.add_tool(add, read_only=True)
        client.add_tool(shout)
        for tools, names in (
            (None, ["add", "shout"]),
            ([], []),
            ([declared], ["add"]),
            ([add, len_of], ["add", "len_of"]),
        ):
            async with client.conversation(tools=tools) as conversation:
                assert [tool.name for tool in conversation.tools] == names
        # A function keeps the options that the client has for it.
        assert server.tools["add"].effects.read_only


async def len_of(text: str) -> int:
    return len(text)


async def test_tools_come_and_go_while_a_turn_runs() -> None:
    script = [Call("grow"), Call("grow", text="again"), Call("shout", {"text": "a"}), Say("done")]
    async with talking(script, tools=(shout,)) as (server, conversation):

        async def shrink() -> str:
            await conversation.remove_tool("shout")
            return "shrunk"

        async def grow() -> str:
            await conversation.add_tool(add)
            await conversation.add_tool(shrink, name="grow", read_only=True)  # from now on
            return "grown"

        await conversation.add_tool(grow)
        answer = await conversation.ask("go")
        assert [tool.name for tool in conversation.tools] == ["grow", "add"]
    assert [result.value for result in server.results] == ["grown", "shrunk", None]
    withdrawn = answer.tool_calls[2]
    assert withdrawn.outcome is precall.ToolCallOutcome.UNAVAILABLE
    assert withdrawn.error is not None
    assert withdrawn.error.reason == "TOOL_UNAVAILABLE"
    assert server.tools["grow"].effects.read_only


async def test_a_turn_offers_the_tools_of_its_start() -> None:
    async def grow() -> None:
        await conversation.add_tool(add)

    scripts = ([Call("grow"), Call("add", {"left": 1})], [Call("add", {"left": 1}), Say("2")])
    async with talking(*scripts, tools=(grow,)) as (_, conversation):
        with pytest.raises(precall.ServerError, match=r"'add', which .* when the turn began"):
            await conversation.ask("now?")
        assert str(await conversation.ask("and now?")) == "2"


async def test_adding_a_tool_of_the_client_keeps_its_options() -> None:
    class Counter:
        def add(self, left: int) -> int:
            return left

    counter = Counter()
    async with FakeServer() as server, Client(server.address) as client:
        client.add_tool(counter.add, read_only=True)
        async with client.conversation(tools=[counter.add]) as conversation:
            assert server.tools.pop("add").effects.read_only
            await conversation.add_tool(counter.add)
            assert server.tools.pop("add").effects.read_only
            await conversation.add_tool(counter.add, version="2")
            assert not server.tools["add"].effects.read_only


@pytest.mark.parametrize("options", [{"requires_approval": True}, {"rate_limit": 1}])
async def test_options_that_no_server_serves_yet_are_refused(options: ToolOptions) -> None:
    async with talking() as (_, conversation):
        with pytest.raises(precall.ToolRejectedError, match=next(iter(options))) as caught:
            await conversation.add_tool(add, **options)
    assert caught.value.reason == "NOT_SERVED"


async def test_a_refused_tool_leaves_the_previous_one() -> None:
    async with FakeServer([Call("add", {"left": 1}), Say("x")]) as server:
        async with Client(server.address) as client, client.conversation(tools=[add]) as talk:
            server.refuse_tools["add"] = Refuse("TOOL_SCHEMA_INVALID", "add: $.type is odd")
            with pytest.raises(precall.ToolRejectedError, match="odd") as caught:
                await talk.add_tool(shout, name="add")
            assert caught.value.reason == "TOOL_SCHEMA_INVALID"
            await talk.ask("go")
        assert server.results[0].value == 2


async def test_removing_a_tool() -> None:
    async with talking(tools=(add,)) as (_, conversation):
        await conversation.remove_tool("add")
        assert conversation.tools == ()
        with pytest.raises(precall.ToolRejectedError, match="has no tool 'add'"):
            await conversation.remove_tool("add")


async def test_opening_with_refused_tools_raises_with_all_of_them() -> None:
    refused = {"add": Refuse("TOOL_NAME_INVALID", "bad a"), "shout": Refuse("TOO_LARGE", "bad b")}
    async with FakeServer(refuse_tools=refused) as server, Client(server.address) as client:
        with pytest.raises(precall.ToolRejectedError, match="bad a") as caught:
            await client.conversation(tools=[add, shout]).open()
    assert caught.value.__notes__ == ["also refused: bad b"]


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("OVERLOADED", precall.OverloadedError),
        ("ENGINE_UNAVAILABLE", precall.EngineUnavailableError),
        ("FIELD_INVALID", precall.InvalidArgumentError),
        ("NOT_SERVED", precall.NotServedError),
    ],
)
async def test_a_refused_handshake_raises_by_reason(
    reason: str, kind: type[precall.PrecallError]
) -> None:
    refused = Refuse(reason, "not now", 30.0)
    async with FakeServer(refuse_open=refused) as server, Client(server.address) as client:
        with pytest.raises(kind, match="not now") as caught:
            await client.conversation().open()
    assert (caught.value.reason, caught.value.retry_after_s) == (reason, 30.0)


async def test_a_frame_over_the_limit_is_refused_by_the_client_and_the_stream_lives() -> None:
    limits = ServerLimits(frame_bytes_max=1000)
    async with (
        FakeServer([Say("short")], limits=limits) as server,
        Client(server.address) as client,
        client.conversation() as conversation,
    ):
        with pytest.raises(precall.TooLargeError, match=r"limit of 1,000 bytes") as caught:
            await conversation.ask("x" * 2000)
        assert caught.value.metadata["limit"] == "1000"
        assert str(await conversation.ask("y")) == "short"
    numbers = [frame.sequence for frame in server.frames]
    assert numbers == list(range(1, len(numbers) + 1))


async def test_a_conversation_is_open_between_open_and_close() -> None:
    async with FakeServer() as server, Client(server.address) as client:
        conversation = client.conversation()
        with pytest.raises(precall.ConversationClosedError, match="not open yet"):
            _ = conversation.id
        await conversation.open()
        with pytest.raises(RuntimeError, match="opens once"):
            await conversation.open()
        await conversation.close()
        await conversation.close()
        with pytest.raises(precall.ConversationClosedError, match="was closed"):
            await conversation.ask("?")


async def test_many_conversations_share_a_client() -> None:
    scripts = [[Parallel([Call("add", {"left": 1}), Call("add", {"left": 2})]), Say("ok")]] * 20
    async with FakeServer(*scripts) as server, Client(server.address) as client:
        client.add_tool(add)

        async def one() -> str:
            async with client.conversation() as conversation:
                return str(await conversation.ask("go"))

        assert await asyncio.gather(*(one() for _ in range(20))) == ["ok"] * 20
    assert [result.value for result in server.results] == [2, 3] * 20


async def test_a_server_that_does_not_end_the_stream_does_not_delay_close() -> None:
    async with FakeServer([Hang()]) as server, Client(server.address, options=FAST) as client:
        conversation = await client.conversation().open()
        await server.stop()
        started_at = time.monotonic()
        await conversation.close()
        assert time.monotonic() - started_at < 4
    gc.collect()
