"""Grammars are made once, in batches, and callers take turns. The process is a stand-in."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence

import pytest

from precall_service.domain.events import LoosenedKeyword
from precall_service.domain.tools import ToolDeclaration
from precall_service.engine.vllm import grammar_maker
from precall_service.engine.vllm.grammar_maker import GrammarMaker
from precall_service.engine.vllm.grammar_process import GrammarProcessError
from precall_service.engine.vllm.grammar_worker import Ended, Made, Text, Wanted
from precall_service.engine.vllm.tool_grammars import ToolGrammar
from tests.support.clock import settle
from tests.support.steps import declared


class FakeProcess:
    """Makes grammars that say their schema. A schema with `slow` is given up unless it is cheap."""

    def __init__(self, *, batch_max: int = 100) -> None:
        self.asked: list[list[str]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.dead = False
        self._batch_max = batch_max

    async def ask(self, wanted: Sequence[Wanted]) -> AsyncGenerator[Made | Ended]:
        names = [str(json.loads(each["schema"]).get("title")) for each in wanted]
        self.asked.append(names)
        await self.open.wait()
        if self.dead:
            raise GrammarProcessError("dead")
        for name, each in list(zip(names, wanted, strict=True))[: self._batch_max]:
            if name == "hopeless" or (name == "slow" and each["costly"]):
                yield Ended(given_up="it takes too long")
                return
            loosened = [["$.a", "why"]] if name == "slow" else []
            texts = [Text(style="json", lines=False, text=name)]
            made = Made(
                schema={"title": name}, texts=texts, loosened=loosened, compile_s=0.1, rules=1
            )
            yield made
        yield Ended(given_up="")

    async def close(self) -> None:
        self.dead = True
        self.open.set()


def tool(name: str) -> ToolDeclaration:
    return declared(name, schema=json.dumps({"type": "object", "title": name}))


def tools(*names: str) -> list[ToolDeclaration]:
    return [tool(name) for name in names]


def text_of(grammar: ToolGrammar) -> str:
    [text] = grammar.texts.values()
    return text


async def texts(maker: GrammarMaker, *names: str, tenant: str = "acme") -> list[str]:
    return [text_of(grammar) for grammar in await maker.of(tools(*names), tenant)]


async def test_one_batch_makes_the_tools_of_a_frame_and_a_second_one_pays_nothing() -> None:
    process = FakeProcess()
    maker = GrammarMaker(process)
    assert await texts(maker, "a", "b", "a") == ["a", "b", "a"]
    assert await texts(maker, "b", "a") == ["b", "a"]
    assert process.asked == [["a", "b"]]
    assert await maker.of([], "acme") == []


async def test_two_that_want_the_same_tool_at_once_share_it() -> None:
    process = FakeProcess()
    maker = GrammarMaker(process)
    one, other = await asyncio.gather(texts(maker, "a", "b"), texts(maker, "b", "c"))
    assert (one, other) == (["a", "b"], ["b", "c"])
    assert process.asked == [["a", "b"], ["c"]]


async def test_callers_take_turns_of_one_batch_each() -> None:
    process = FakeProcess(batch_max=1)
    maker = GrammarMaker(process)
    await asyncio.gather(texts(maker, "a", "b", "c"), texts(maker, "d"))
    assert process.asked == [["a", "b", "c"], ["d"], ["b", "c"], ["c"]]


async def test_tenants_take_turns_however_many_callers_one_has() -> None:
    process = FakeProcess(batch_max=1)
    maker = GrammarMaker(process)
    flood = [texts(maker, f"{number}a", f"{number}b", tenant="hostile") for number in range(3)]
    hostile = asyncio.gather(*flood)
    await asyncio.sleep(0)
    victim = asyncio.gather(texts(maker, "x", "y", tenant="victim"), texts(maker, "z"))
    await asyncio.gather(hostile, victim)
    assert process.asked[:8] == [
        *(["0a", "0b"], ["x", "y"], ["z"]),
        *(["1a", "1b"], ["y"], ["2a", "2b"], ["0b"], ["1b"]),
    ]


async def test_tenants_share_no_grammar() -> None:
    process = FakeProcess()
    maker = GrammarMaker(process)
    first, other = await asyncio.gather(texts(maker, "a"), texts(maker, "a", tenant="other"))
    assert first == other == ["a"]
    assert await texts(maker, "a", tenant="third") == ["a"]
    assert process.asked == [["a"], ["a"], ["a"]]


@pytest.mark.parametrize("bound", ["WAITING_TOOLS_PER_TENANT_MAX", "WAITING_TOOLS_MAX"])
async def test_those_for_whom_there_is_no_room_go_without(
    monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    monkeypatch.setattr(grammar_maker, bound, 2)
    process = FakeProcess()
    process.open.clear()
    maker = GrammarMaker(process)
    first = asyncio.ensure_future(texts(maker, "a"))  # it is made, and waits no longer
    await settle()
    others = asyncio.ensure_future(maker.of(tools("b", "c", "d"), "acme"))
    await settle()
    (refused,) = await maker.of(tools("e"), "acme")
    assert refused.loosened == (LoosenedKeyword("$", grammar_maker._NO_ROOM),)  # pyright: ignore[reportPrivateUsage]
    process.open.set()
    *made, late = await others
    assert (list(map(text_of, made)), late.schema) == (["b", "c"], {"type": "object"})
    assert await first == ["a"]
    assert await texts(maker, "d", "e") == ["d", "e"], "they are made once there is room"


async def test_a_batch_stops_at_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammar_maker, "BATCH_CHARS_MAX", 1)
    process = FakeProcess()
    assert await texts(GrammarMaker(process), "a", "b") == ["a", "b"]
    assert process.asked == [["a"], ["b"]]


async def test_what_was_given_up_is_tried_again_without_what_is_costly() -> None:
    process = FakeProcess()
    (before, slow, after) = await GrammarMaker(process).of(tools("before", "slow", "after"), "acme")
    assert list(map(text_of, (before, slow, after))) == ["before", "slow", "after"]
    assert slow.loosened == (LoosenedKeyword("$.a", "why"),)
    assert process.asked == [["before", "slow", "after"], ["slow", "after"]]


async def test_what_is_given_up_twice_is_held_to_any_object() -> None:
    process = FakeProcess()
    maker = GrammarMaker(process)
    (hopeless, after) = await maker.of(tools("hopeless", "after"), "acme")
    assert (hopeless.schema, text_of(after)) == ({"type": "object"}, "after")
    assert hopeless.loosened == (LoosenedKeyword("$", "it takes too long"),)
    assert await maker.of(tools("hopeless"), "acme") == [hopeless], "it is not tried a third time"
    assert len(process.asked) == 3


async def test_what_is_loosened_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    maker = GrammarMaker(FakeProcess())
    for _ in range(2):
        await maker.of(tools("slow", "a"), "acme")
    assert caplog.messages == ["calls of tool 'slow' are not held to $.a: why"]


async def test_a_grammar_that_comes_too_late_is_used_the_next_time() -> None:
    process = FakeProcess()
    process.open.clear()
    maker = GrammarMaker(process, wait_max_s=0.0)
    (late,) = await maker.of(tools("a"), "acme")
    assert late.schema == {"type": "object"}
    assert late.loosened == (LoosenedKeyword("$", "its grammar was not made within 0 s"),)
    process.open.set()
    await settle()
    assert await texts(maker, "a") == ["a"]
    assert process.asked == [["a"]]


async def test_a_caller_that_leaves_has_its_grammars_made_nevertheless() -> None:
    process = FakeProcess()
    process.open.clear()
    maker = GrammarMaker(process)
    leaving = asyncio.ensure_future(maker.of(tools("a"), "acme"))
    await asyncio.sleep(0)
    leaving.cancel()
    process.open.set()
    assert await texts(maker, "a") == ["a"]
    assert process.asked == [["a"]]


async def test_a_process_that_keeps_ending_costs_those_who_wait_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    process = FakeProcess()
    maker = GrammarMaker(process)
    process.dead = True
    for grammar in await maker.of(tools("a", "b"), "acme"):
        assert grammar.schema == {"type": "object"}
        assert "has ended" in grammar.loosened[0].reason
    assert caplog.text.count("is started again") == 2
    process.dead = False
    assert await texts(maker, "a", "b") == ["a", "b"]


async def test_closing_leaves_nobody_waiting() -> None:
    process = FakeProcess()
    process.open.clear()
    maker = GrammarMaker(process)
    waiting = asyncio.ensure_future(maker.of(tools("a"), "acme"))
    await asyncio.sleep(0)
    await maker.close()
    (grammar,) = await waiting
    assert grammar.schema == {"type": "object"}
    await maker.close()
