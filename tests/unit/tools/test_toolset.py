"""Which tools a stream offers, through updates and withdrawals."""

from __future__ import annotations

from precall_service.domain.errors import Reason
from precall_service.tools.declarations import ToolProposal
from precall_service.tools.toolset import Registration, Toolset
from tests.support.links import RecordingLink
from tests.support.tools import new_toolset, tool_limits


def toolset() -> Toolset:
    return new_toolset(RecordingLink(), tool_limits(tools_max=3))


def tool(name: str, *, version: str = "", schema: str = "") -> ToolProposal:
    return ToolProposal(name=name, version=version, input_schema_json=schema)


def names(tools: Toolset) -> list[str]:
    return [each.name for each in tools.snapshot()]


def reasons(registrations: list[Registration]) -> list[Reason | None]:
    return [each.outcome.error and each.outcome.error.reason for each in registrations]


async def test_registers_in_order() -> None:
    tools = toolset()
    registrations = await tools.register([tool("b", version="1"), tool("a")])
    assert names(tools) == ["b", "a"]
    assert [each.outcome.name for each in registrations] == ["b", "a"]
    assert registrations[0].outcome.version == "1"
    assert len(registrations[1].outcome.version) == 16


async def test_each_tool_is_refused_on_its_own() -> None:
    tools = toolset()
    registrations = await tools.register([tool("a"), tool("b c"), tool("a"), tool("d")])
    assert reasons(registrations) == [
        None,
        Reason.TOOL_NAME_INVALID,
        Reason.TOOL_DUPLICATE,
        None,
    ]
    assert [each.outcome.error.field for each in registrations if each.outcome.error] == [
        "register_tools.tools[1].name",
        "register_tools.tools[2].name",
    ]
    assert names(tools) == ["a", "d"]


async def test_path_of_the_handshake() -> None:
    [registration] = await toolset().register([tool("")], path="open.tools")
    assert registration.outcome.error is not None
    assert registration.outcome.error.field == "open.tools[0].name"


async def test_limit_counts_new_names_only() -> None:
    tools = toolset()
    await tools.register([tool("a"), tool("b"), tool("c")])
    registrations = await tools.register([tool("d"), tool("a", version="2")])
    assert reasons(registrations) == [Reason.LIMIT_REACHED, None]
    tools.withdraw(["b"])
    assert reasons(await tools.register([tool("d")])) == [None]
    assert names(tools) == ["a", "c", "d"]


async def test_snapshot_stays_while_the_tools_change() -> None:
    tools = toolset()
    await tools.register([tool("a", version="1"), tool("b")])
    snapshot = tools.snapshot()
    await tools.register([tool("a", version="2")])
    tools.withdraw(["b"])

    a, b = snapshot
    assert a.declaration.version == "1"
    updated = a.current()
    assert updated is not None
    assert updated.declaration.version == "2"
    assert updated.current() is updated
    assert b.current() is None


async def test_refused_update_changes_nothing() -> None:
    tools = toolset()
    await tools.register([tool("a", version="1")])
    [before] = tools.snapshot()
    assert reasons(await tools.register([tool("a", schema="[]")])) == [Reason.TOOL_SCHEMA_INVALID]
    assert before.current() is before


async def test_withdraw_tells_what_it_did_not_know() -> None:
    tools = toolset()
    await tools.register([tool("a"), tool("b")])
    assert tools.withdraw(["b", "x", "b"]) == (["b"], ["x"])
    assert tools.withdraw(["b"]) == ([], ["b"])
    assert names(tools) == ["a"]
