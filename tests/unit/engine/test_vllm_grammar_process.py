"""The process that makes grammars: its bounds, and its end.

It is a real one, with the embedded model's tokens; the tests of this module share it.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncGenerator, Mapping

import psutil
import pytest
import pytest_asyncio

from precall_service.domain.json import JsonObject
from precall_service.engine.vllm.grammar_maker import GrammarMaker
from precall_service.engine.vllm.grammar_process import GrammarProcess
from precall_service.engine.vllm.grammar_worker import TOOL_CPU_MAX_S, Form, Start
from precall_service.engine.vllm.grammars import AS_JSON, ArgumentsForm
from precall_service.engine.vllm.tool_grammars import ToolGrammar
from tests.support.hostile_schemas import FORESEEN, UNFORESEEN
from tests.support.prompt_renderers import tokenizer
from tests.support.steps import declared

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]


class Served:
    """The process, and a maker that asks it."""

    def __init__(self) -> None:
        self.process = GrammarProcess()
        self._maker = GrammarMaker(self.process, wait_max_s=120.0)

    async def grammar(self, name: str, schema: JsonObject) -> ToolGrammar:
        (made,) = await self.grammars({name: schema})
        return made

    async def grammars(self, schemas: Mapping[str, JsonObject]) -> list[ToolGrammar]:
        tools = [declared(name, schema=json.dumps(schema)) for name, schema in schemas.items()]
        return await self._maker.of(tools, "tenant")

    async def begin(self, *forms: ArgumentsForm) -> None:
        model_tokenizer = tokenizer()
        from xgrammar import TokenizerInfo

        info = TokenizerInfo.from_huggingface(model_tokenizer, vocab_size=len(model_tokenizer))
        await self.process.spawn()
        told = [Form(style=form.style, lines=form.lines) for form in forms]
        await self.process.serve(Start(tokenizer_info=info.serialize_json(), forms=told))

    async def end(self) -> None:
        await self._maker.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served() -> AsyncGenerator[Served]:
    made = Served()
    await made.begin(AS_JSON)
    yield made
    await made.end()


@pytest.mark.parametrize("name", FORESEEN)
async def test_what_costs_much_is_foreseen_and_left_out_alone(served: Served, name: str) -> None:
    schema, loosened = FORESEEN[name]
    made = await served.grammar(name, schema)
    assert [each.path for each in made.loosened] == loosened
    assert made.compile_s < TOOL_CPU_MAX_S


@pytest.mark.parametrize("name", UNFORESEEN)
async def test_what_was_not_foreseen_is_given_up_in_time(served: Served, name: str) -> None:
    schema, loosened = UNFORESEEN[name]
    await served.grammar("before", {"type": "object"})
    pid = served.process.pid
    made = await served.grammar(name, schema)
    assert [each.path for each in made.loosened] == loosened
    assert "took too long to compile" in made.loosened[0].reason
    assert made.compile_s < TOOL_CPU_MAX_S
    assert served.process.pid == pid, "only its fork ends"


async def test_a_tool_costs_what_it_does_without_those_before_it(served: Served) -> None:
    """The engine may compile it alone, or beside others."""
    part: JsonObject = {"type": "string", "pattern": "^[a-z]{1,120}$"}
    before, after, small = await served.grammars(
        {
            "one": {"type": "object", "properties": {"a": part}},
            "another": {"type": "object", "properties": {"a": part, "b": {}}},
            "small": {"type": "object", "properties": {"b": {}}},
        }
    )
    assert after.compile_s > before.compile_s / 2 > small.compile_s
    assert after.rules > small.rules > 0


async def test_a_fork_ends_with_its_process(served: Served) -> None:
    await served.grammar("first of all", {"type": "object"})
    assert served.process.pid is not None
    process = psutil.Process(served.process.pid)
    schema, _ = UNFORESEEN["120 optional characters"]
    making = asyncio.ensure_future(served.grammar("ends with it", {**schema, "title": "again"}))
    async with asyncio.timeout(30):
        while not (forks := process.children()):  # noqa: ASYNC110  (no event tells of a fork)
            await asyncio.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    _, alive = await asyncio.to_thread(psutil.wait_procs, forks, timeout=10.0)
    assert not alive
    await making


async def test_one_that_ended_is_started_again(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    made = await served.grammar("first", {"type": "object", "properties": {"a": {}}})
    assert made.loosened == ()
    assert served.process.pid is not None
    os.kill(served.process.pid, signal.SIGKILL)
    again = await served.grammar("second", {"type": "object", "properties": {"a": {}}})
    assert again.texts == made.texts
    assert "is started again" in caplog.text


@pytest.mark.parametrize("style", ["qwen_xml", "glm_xml"])
async def test_values_between_tags_are_held_in_the_same_bounds(style: str) -> None:
    served = Served()
    lines = ArgumentsForm(style, lines=style == "qwen_xml")
    await served.begin(lines)
    try:
        for name, (schema, loosened) in FORESEEN.items():
            made = await served.grammar(name, schema)
            assert (name, [each.path for each in made.loosened]) == (name, loosened)
            assert made.compile_s < TOOL_CPU_MAX_S
            assert set(made.texts) == (set() if "$" in loosened else {lines})
    finally:
        await served.end()
