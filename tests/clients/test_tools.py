"""The tools of clients and conversations: adding, removing, choosing, and unserved options."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

import precall
from precall import Capability, Client, NotServedWarning, ToolNamed
from precall.testing import Call, FakeServer, Say
from precall.v1 import generation_pb2
from tests.clients.helpers import talking

SERVES_NOTHING = (Capability.TOOL_CALLS,)
SERVES_CACHE = (Capability.TOOL_CALLS, Capability.TOOL_CACHE, Capability.SPECULATION)


async def search(query: str) -> str:
    return query


async def test_a_removed_tool_is_missing_in_later_conversations() -> None:
    async with FakeServer() as server, Client(server.address) as client:
        client.add_tool(search)
        async with client.conversation() as earlier:
            client.remove_tool("search")
            async with client.conversation() as later:
                assert [tool.name for tool in earlier.tools] == ["search"]
                assert later.tools == client.tools == ()


async def test_removing_an_unknown_tool_raises_the_same_error_everywhere() -> None:
    async with talking() as (_, conversation):
        with pytest.raises(precall.ToolRejectedError, match="this conversation has no tool 'x'"):
            await conversation.remove_tool("x")
    with pytest.raises(precall.ToolRejectedError, match="this client has no tool 'x'") as caught:
        Client("localhost:1").remove_tool("x")
    assert caught.value.reason == "TOOL_UNKNOWN"


async def test_a_tool_with_the_name_of_a_mode_can_be_chosen() -> None:
    async with (
        FakeServer(*([Call("auto", {"query": "x"}), Say("yes")] for _ in range(5))) as server,
        Client(server.address) as client,
    ):
        tool = client.add_tool(search, name="auto")
        async with client.conversation() as conversation:
            for choice in (ToolNamed("auto"), tool, search):
                await conversation.ask("?", tool_choice=choice)
            await conversation.ask("?", tool_choice="auto")
            await conversation.ask("?", tool_choice="none")
    named = generation_pb2.ToolChoice(mode=generation_pb2.TOOL_CHOICE_MODE_NAMED, tool_name="auto")
    assert [turn.frame.generation.tool_choice for turn in server.turns] == [
        *[named] * 3,
        generation_pb2.ToolChoice(mode=generation_pb2.TOOL_CHOICE_MODE_AUTO),
        generation_pb2.ToolChoice(mode=generation_pb2.TOOL_CHOICE_MODE_NONE),
    ]


async def test_a_chosen_function_is_exactly_one_tool_of_the_conversation() -> None:
    script = [Call("find", {"query": "x"}), Say("yes")]
    async with talking(script, tools=(search,)) as (server, conversation):
        with pytest.raises(ValueError, match="its tools are: search"):
            conversation.send("?", tool_choice=len)
        await conversation.add_tool(search, name="find")
        with pytest.raises(ValueError, match="several tools: search, find; name one with"):
            conversation.send("?", tool_choice=search)
        await conversation.remove_tool("search")
        await conversation.ask("?", tool_choice=search)
    assert server.turns[0].frame.generation.tool_choice.tool_name == "find"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"cache_ttl_s": 60, "read_only": True},
            "cache_ttl_s has no effect, since this server does not list TOOL_CACHE",
        ),
        ({"cache_scope": "tenant"}, "cache_scope has no effect, .* TOOL_CACHE"),
        ({"reads": ["file:{path}"]}, "reads has no effect, .* TOOL_CACHE"),
        ({"writes": ["file:{path}"]}, "writes has no effect, .* TOOL_CACHE"),
        ({"speculation_safe": True}, "speculation_safe has no effect, .* SPECULATION"),
        ({"approval_may_edit": True}, "approval_may_edit has no effect, .* APPROVALS"),
        ({"idempotent": True}, "idempotent has no effect, since no server uses it yet"),
        ({"open_world": True}, "open_world has no effect, .* SPECULATION"),
    ],
)
async def test_an_option_without_effect_warns_where_server_and_option_meet(
    options: Any, says: str
) -> None:
    async with FakeServer(capabilities=SERVES_NOTHING) as server:
        async with Client(server.address) as client:
            client.add_tool(search, **options)
            with pytest.warns(NotServedWarning, match=f"tool 'search': {says}") as caught:
                async with client.conversation():
                    pass
            assert [warning.filename for warning in caught] == [__file__]
        async with Client(server.address) as client, client.conversation() as conversation:
            with pytest.warns(NotServedWarning, match=says) as caught:
                await conversation.add_tool(search, **options)
            assert [warning.filename for warning in caught] == [__file__]


async def test_a_client_warns_once_per_option() -> None:
    async with FakeServer(capabilities=SERVES_NOTHING) as server, Client(server.address) as client:
        client.add_tool(search, cache_ttl_s=60, read_only=True, timeout_s=1, reads=[])
        client.add_tool(search, name="find", read_only=True, cache_ttl_s=60)
        with pytest.warns(NotServedWarning, match="cache_ttl_s") as caught:
            await client.conversation().open()
        assert len(caught) == 1
        async with client.conversation() as conversation:  # no warning, or this would raise
            await conversation.add_tool(search, read_only=True, cache_ttl_s=5)


async def test_an_option_that_the_server_serves_does_not_warn() -> None:
    async with (
        FakeServer(capabilities=SERVES_CACHE) as server,
        Client(server.address) as client,
        client.conversation() as conversation,
    ):
        assert conversation.capabilities == set(SERVES_CACHE)
        await conversation.add_tool(
            search, read_only=True, cache_ttl_s=60, speculation_safe=True, reads=["file:{query}"]
        )


async def test_a_warning_that_a_filter_turns_into_an_error_leaves_nothing_behind() -> None:
    async with FakeServer(capabilities=SERVES_NOTHING) as server, Client(server.address) as client:
        with warnings.catch_warnings():
            warnings.simplefilter("error", NotServedWarning)
            tool = precall.Tool.from_function(search, read_only=True, cache_ttl_s=60)
            with pytest.raises(NotServedWarning):
                await client.conversation(tools=[tool]).open()
            async with client.conversation() as conversation:
                with pytest.raises(NotServedWarning):
                    await conversation.add_tool(search, idempotent=True)
                assert conversation.tools == ()
    assert [frame.WhichOneof("frame") for frame in server.frames] == ["open", "close"] * 2
