"""Tools of one tenant whose grammars cost as much as they may, beside the tool turns of another."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

from precall_service.domain.tools import ToolDeclaration
from precall_service.engine.base import Engine
from tests.support.hostile_schemas import wide
from tests.support.loop_watch import watched_loop
from tests.support.steps import REQUIRED, asked, declared, heard, step_spec, until_idle


async def costly_tools(engine: Engine, seed: int) -> Sequence[ToolDeclaration]:
    """Tools that are judged already, and are about as many as one turn may have of their kind."""
    tools = [
        declared(f"costly_{number}", schema=json.dumps(wide(1000, number)))
        for number in range(seed, seed + 8)
    ]
    assert not any(await engine.judge(tools, "hostile"))
    return tools


async def ordinary_tool(engine: Engine, name: str) -> ToolDeclaration:
    """A tool that is judged already."""
    tool = declared(name)
    assert not any(await engine.judge([tool], "victim"))
    return tool


async def stepped(engine: Engine, tenant: str, *tools: ToolDeclaration) -> str:
    """Generates a step that begins a call of one of the tools, and returns the tenant."""
    prompt = await engine.render(asked("Call a tool."))
    spec = step_spec(max_tokens=4, tools=tools, tool_choice=REQUIRED, tenant=tenant)
    await heard(engine.generate(prompt, spec))
    return tenant


async def until_compiling(engine: Engine) -> None:
    """Returns once a generation waits in the engine, which compiles its grammar."""
    async with asyncio.timeout(60):
        while not (await engine.load()).waiting:
            pass


async def test_a_tool_turn_passes_the_costly_ones_of_another_tenant(vllm_engine: Engine) -> None:
    """The engine has two threads or more for grammars, which four sets of tools would fill."""
    engine = vllm_engine
    sets = [await costly_tools(engine, seed) for seed in (100, 200, 300, 400)]
    ordinary = await ordinary_tool(engine, "ordinary")
    ended: list[str] = []
    async with watched_loop() as watch, asyncio.TaskGroup() as group:
        hostile = [group.create_task(stepped(engine, "hostile", *tools)) for tools in sets]
        for task in hostile:
            task.add_done_callback(lambda _: ended.append("hostile"))
        await until_compiling(engine)
        ended.append(await stepped(engine, "victim", ordinary))
        assert ended.count("hostile") <= 1
        for task in hostile:
            task.cancel()
    watch.assert_free()
    await until_idle(engine)


async def test_a_turn_is_cancelled_while_its_grammar_is_compiled(vllm_engine: Engine) -> None:
    """The engine goes on compiling, beside the tool turn of another tenant."""
    engine = vllm_engine
    first, second = [await costly_tools(engine, seed) for seed in (500, 600)]
    ordinary = await ordinary_tool(engine, "ordinary_too")
    async with watched_loop() as watch, asyncio.TaskGroup() as group:
        cancelled = group.create_task(stepped(engine, "hostile", *first))
        await until_compiling(engine)
        cancelled.cancel()
        await asyncio.wait([cancelled])
        load = await engine.load()
        assert load.running == load.waiting == 0
        again = group.create_task(stepped(engine, "hostile", *second))
        await stepped(engine, "victim", ordinary)
        assert not again.done()
        again.cancel()
    watch.assert_free()
    await until_idle(engine)
