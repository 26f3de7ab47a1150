"""What predictors see of a turn, and what those that learn are taught."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest

from precall_service.agent import situations
from precall_service.agent.situations import EARLIER_CALLS_MAX, EARLIER_RESULT_CHARS_MAX
from precall_service.domain.events import Predictor
from precall_service.domain.messages import AssistantMessage, ToolCall, ToolMessage
from precall_service.speculation.base import Lesson, Moment, PastCall, Situation
from precall_service.tools.link import HandlerError, HandlerResult
from tests.support.agent import LIMITS, agent_limits, agent_on, scripted
from tests.support.clock import settle
from tests.support.scripts import TICK, Item, Pause, calls, says, thinks
from tests.support.speculating import ALWAYS, TIME, WEATHER, Told, following, proposal, weather

ROME, OSLO = ("weather", '{"city": "Rome"}'), ("weather", '{"city": "Oslo"}')


def slowly(items: Sequence[Item]) -> list[Item]:
    """A step that lets predictors look before it goes on."""
    return [TICK, TICK, *items]


def watcher(*moments: Moment) -> Told:
    """A predictor that only looks."""
    return Told((), name=Predictor.HISTORY, moments=moments)


def past(city: str, result_json: str | None = None, tool: str = "weather") -> PastCall:
    return PastCall(tool_name=tool, arguments={"city": city}, result_json=result_json)


async def test_a_turn_at_its_beginning() -> None:
    watch = watcher(Moment.STEP_BEGAN)
    steps = [[*thinks("hm"), TICK, TICK, *says("done")]]
    async with agent_on(scripted(*steps), predictors=[watch]) as there:
        client = there.open(WEATHER)
        turn = await client.send("Hello?")
        [situation] = watch.asked
        assert situation == Situation(
            tenant="ann",
            conversation_id=client.conversation.conversation_id,
            turn_id=turn,
            moment=Moment.STEP_BEGAN,
            step=0,
            text="Hello?",
            tools=situation.tools,
        )
        assert list(situation.tools) == ["weather"]
        assert situation.branch is not None


async def test_calls_come_with_their_results_in_the_order_of_the_message() -> None:
    watch = watcher(Moment.STEP_BEGAN)
    steps = map(slowly, [calls(ROME, OSLO), calls(ROME), says("done")])
    async with agent_on(scripted(*steps), predictors=[watch]) as there:
        client = there.open(WEATHER)
        await client.send()
        await client.answer(1, '"rain"')
        await client.answer(0, '"sun"')
        await client.deliver(HandlerError("Busy", "later"))
        assert [each.step for each in watch.asked] == [0, 1, 2]
        before = (past("Rome", '"sun"'), past("Oslo", '"rain"'))
        assert [each.calls for each in watch.asked] == [(), before, (*before, past("Rome"))]
        assert all(each.written == () and each.earlier == () for each in watch.asked)


async def test_calls_of_earlier_turns_come_apart() -> None:
    watch = watcher(Moment.STEP_BEGAN)
    steps = map(slowly, [calls(ROME), says("done"), says("hello")])
    async with agent_on(scripted(*steps), predictors=[watch]) as there:
        client = there.open(WEATHER, handler=lambda _: HandlerResult('{"t": 1}', "sunny today"))
        await client.ask()
        await client.ask()
        last = watch.asked[-1]
        assert last.calls == ()
        # What the model has read: a text, which is a string as JSON.
        assert last.earlier == (past("Rome", '"sunny today"'),)


async def test_only_the_latest_calls_of_earlier_turns_are_shown() -> None:
    watch = watcher(Moment.STEP_BEGAN)
    cities = [f"city {number}" for number in range(EARLIER_CALLS_MAX + 4)]
    steps: list[list[Item]] = []
    for city in cities:
        steps += [calls(("weather", f'{{"city": "{city}"}}')), says("done")]
    last, limits = slowly(says("done")), agent_limits(messages_max=1000)
    async with agent_on(scripted(*steps, last), predictors=[watch], limits=limits) as there:
        client = there.open(WEATHER, handler=lambda _: HandlerResult("1"))
        for _ in cities:
            await client.ask()
        await client.ask()
        shown = [each.arguments["city"] for each in watch.asked[-1].earlier]
        assert shown == cities[-EARLIER_CALLS_MAX:]


def test_a_turn_shows_no_long_results_of_earlier_ones() -> None:
    call = ToolCall(call_id="1", tool_name="weather", arguments_json='{"city": "Rome"}')
    for chars, shown in ((EARLIER_RESULT_CHARS_MAX, True), (EARLIER_RESULT_CHARS_MAX + 1, False)):
        messages = (
            AssistantMessage(text="", tool_calls=(call,)),
            ToolMessage(call_id="1", tool_name="weather", text="7" * chars),
        )
        [found] = situations._past_calls(messages)  # pyright: ignore[reportPrivateUsage]
        assert (found.result_json is not None) is shown


def test_a_turn_reads_a_bounded_part_of_what_came_before() -> None:
    """The latest calls are shown, as far as their arguments and results are not too long."""
    long = f'{{"city": "{"x" * (situations.EARLIER_CHARS_MAX // 4)}"}}'
    messages = tuple(
        AssistantMessage(
            text="", tool_calls=(ToolCall(call_id=name, tool_name=name, arguments_json=long),)
        )
        for name in ("a", "b", "c", "d", "e")
    )
    found = situations._past_calls(messages)  # pyright: ignore[reportPrivateUsage]
    assert [each.tool_name for each in found] == ["e", "d", "c"]


async def test_a_call_that_is_written_is_shown_at_once() -> None:
    watch = watcher(Moment.CALL_WRITTEN)
    writing = Pause(asyncio.Event())
    steps = [[*calls(ROME), writing, *calls(OSLO, first=1), TICK, TICK], says("done")]
    async with agent_on(scripted(*steps), predictors=[watch]) as there:
        client = there.open(WEATHER, handler=lambda _: HandlerResult("1"))
        await client.send()
        assert [each.written for each in watch.asked] == [(past("Rome"),)]
        writing.event.set()
        await settle()
        assert watch.asked[1].written == (past("Rome"), past("Oslo"))
        assert all(each.branch is None for each in watch.asked), "its reasoning is over"
        assert all(each.calls == () for each in watch.asked)


@pytest.mark.parametrize("arguments", ["[]", "{", '{"city": 1e999}'])
async def test_a_call_that_is_no_json_object_is_not_shown(arguments: str) -> None:
    watch = watcher(Moment.STEP_BEGAN, Moment.CALL_WRITTEN)
    steps = [[*calls(("weather", arguments)), TICK, TICK], [TICK, TICK, *says("done")]]
    async with agent_on(scripted(*steps), predictors=[watch]) as there:
        client = there.open(WEATHER)
        await client.ask()
        assert [each.moment for each in watch.asked] == [Moment.STEP_BEGAN] * 2
        assert watch.asked[1].calls == ()


async def test_reasoning_is_counted_and_its_tokens_are_what_a_branch_starts_from() -> None:
    watch = watcher(Moment.REASONED)
    steps = [[*thinks("x" * 30), TICK, TICK, *says("done")]]
    async with agent_on(scripted(*steps), predictors=[watch]) as there:
        await there.open(WEATHER).ask()
        [situation] = watch.asked
        assert situation.reasoning_tokens == len("<think>") + 30
        assert situation.branch is not None


async def test_the_best_confidence_so_far_is_the_predictors_own() -> None:
    proposals = [weather("Oslo", 0.3), weather("Rome", 0.6), weather("Bonn", 0.2)]
    told = Told(
        lambda situation: proposals if situation.moment is Moment.STEP_BEGAN else (),
        moments=(Moment.STEP_BEGAN, Moment.REASONED),
    )
    gate = Pause(asyncio.Event())
    steps = [[*thinks("hm"), gate, *thinks("x" * 30), TICK, TICK, *says("done")]]
    async with agent_on(scripted(*steps), predictors=[told]) as there:
        await there.open(WEATHER).send()
        gate.event.set()
        await settle()
        assert [each.confidence for each in told.asked] == [0.0, 0.6]


async def test_a_prediction_that_is_ready_is_shown_as_if_it_had_come_true() -> None:
    told = Told(following(weather(), proposal("time", "Oslo")), moments=ALWAYS)
    gate = Pause(asyncio.Event())
    steps = [[*thinks("hm"), gate, *says("done")]]
    async with agent_on(scripted(*steps), predictors=[told]) as there:
        client = there.open(WEATHER, TIME)
        await client.send("Where?")
        await there.advance(1.0)
        await client.answer(0, '"sun"')
        ahead = told.asked[-1]
        assert (ahead.moment, ahead.step, ahead.depth) == (Moment.RESULT_READY, 1, 2)
        assert ahead.calls == (past("Rome", '"sun"'),)
        assert (ahead.written, ahead.branch, ahead.text) == ((), None, "Where?")
        gate.event.set()
        await settle()


# What is learned.


class Learner:
    """Keeps its lessons, and may fail."""

    def __init__(self) -> None:
        self.lessons: list[Lesson] = []
        self.fails = False

    def learn(self, lesson: Lesson) -> None:
        self.lessons.append(lesson)
        if self.fails:
            raise RuntimeError("a defect")

    @property
    def learned(self) -> list[tuple[PastCall, ...]]:
        return [each.calls for each in self.lessons]


async def test_each_step_is_a_lesson() -> None:
    learner = Learner()
    steps = [calls(ROME, OSLO), calls(ROME), says("done")]
    async with agent_on(scripted(*steps)) as there:
        there.speculation.learners = (learner,)
        client = there.open(WEATHER)
        await client.send("Hello?")
        await client.answer(0, "1")
        await client.deliver(HandlerError("Busy", "later"), 1)
        await client.answer(2, "2")
        first = (past("Rome", "1"), past("Oslo"))
        assert learner.learned == [first, (past("Rome", "2"),), ()], "an answer is one too"
        before = [each.before for each in learner.lessons]
        assert [each.moment for each in before] == [Moment.STEP_BEGAN] * 3
        assert [each.calls for each in before] == [(), first, (*first, past("Rome", "2"))]
        assert [each.text for each in before] == ["Hello?"] * 3


async def test_calls_of_a_turn_that_ends_before_their_results_are_a_lesson_without_them() -> None:
    learner = Learner()
    async with agent_on(scripted(calls(ROME))) as there:
        there.speculation.learners = (learner,)
        client = there.open(WEATHER)
        await client.send()
        client.conversation.cancel_turn("")
        await settle()
        assert learner.learned == [(past("Rome"),)]


async def test_calls_that_a_limit_cut_are_no_lesson() -> None:
    learner = Learner()
    limits = replace(LIMITS, max_turn_tokens=len('<call weather>{"city": "Rome"}</call>') + 1)
    async with agent_on(scripted([*calls(ROME), *calls(OSLO, first=1)])) as there:
        there.speculation.learners = (learner,)
        client = there.open(WEATHER)
        await client.send(limits=limits)
        assert client.ending()
        assert learner.lessons == []


async def test_a_step_that_is_cancelled_is_no_lesson() -> None:
    learner = Learner()
    gate = asyncio.Event()
    async with agent_on(scripted([*calls(ROME), Pause(gate)])) as there:
        there.speculation.learners = (learner,)
        client = there.open(WEATHER)
        await client.send()
        client.conversation.cancel_turn("")
        await settle()
        assert learner.lessons == []


async def test_a_learner_with_a_defect_hurts_no_turn() -> None:
    learner, other = Learner(), Learner()
    learner.fails = True
    async with agent_on(scripted(calls(ROME), says("done"))) as there:
        there.speculation.learners = (learner, other)
        client = there.open(WEATHER, handler=lambda _: HandlerResult("1"))
        assert (await client.ask()).text == "done"
        assert learner.learned == other.learned == [(past("Rome", "1"),), ()]
