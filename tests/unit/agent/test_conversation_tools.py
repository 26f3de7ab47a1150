"""The tools of a conversation: registered, updated, withdrawn and called."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest

from precall_service.domain.errors import Reason, ServiceError
from precall_service.domain.events import (
    CancelInvocation,
    InvocationCancelReason,
    InvocationCommitted,
    Invoke,
    LoosenedKeyword,
    ToolCallCompleted,
    ToolCallOutcome,
    ToolsRegistered,
    ToolsWithdrawn,
)
from precall_service.domain.tools import ToolDeclaration
from precall_service.domain.turn import GenerationSettings, ToolChoice, ToolChoiceMode
from precall_service.engine.base import Feature
from precall_service.engine.supervisor import EngineSupervisor
from precall_service.tools.declarations import ToolProposal
from precall_service.tools.link import HandlerResult
from tests.support.agent import (
    ROME,
    TIME,
    WEATHER,
    agent,
    agent_limits,
    agent_on,
)
from tests.support.clock import settle
from tests.support.scripted_engine import INFO, ScriptedEngine
from tests.support.scripted_template import prompt_text
from tests.support.scripts import calls, says


async def test_new_tools_are_offered_from_the_next_turn_on() -> None:
    async with agent(says("One."), calls(("time", "{}")), says("Two.")) as there:
        client = there.open(WEATHER, handler=lambda invocation: HandlerResult("1"))
        await client.ask()
        await client.conversation.register_tools(3, [TIME])
        await settle()
        [registered] = client.of(ToolsRegistered)
        assert registered.frame_sequence == 3
        assert [registration.error for registration in registered.registrations] == [None]
        await client.ask()
        prompts = [prompt_text(prompt) for prompt in there.engine.prompts]
        assert prompts[0].startswith("<system> tools: weather\n")
        assert prompts[1].startswith("<system> tools: weather, time\n"), "rendered whole"
        assert prompts[1].endswith("<user>hi\n<model>One.\n<user>hi\n<model>")
        [completed] = client.of(ToolCallCompleted)
        assert completed.outcome is ToolCallOutcome.RESULT


async def test_registering_the_same_tools_again_changes_nothing() -> None:
    async with agent(calls(ROME), says("One."), says("Two.")) as there:
        client = there.open(WEATHER, handler=lambda invocation: HandlerResult("1"))
        await client.ask()
        await client.conversation.register_tools(3, [WEATHER])
        await client.ask()
        before, after = there.engine.prompts[1:]
        assert after.token_ids[: len(before)] == before.token_ids


async def test_the_answer_says_why_a_tool_is_refused() -> None:
    async with agent() as there:
        client = there.open()
        await client.conversation.register_tools(2, [ToolProposal(name="no good"), TIME])
        await settle()
        [registered] = client.of(ToolsRegistered)
        errors = [registration.error for registration in registered.registrations]
        assert errors[0] is not None
        assert errors[0].reason is Reason.TOOL_NAME_INVALID
        assert errors[0].field.startswith("register_tools.tools[0]")
        assert errors[1] is None


async def test_the_answer_names_withdrawn_and_unknown_tools() -> None:
    async with agent(says("Yes.")) as there:
        client = there.open(WEATHER, TIME)
        await client.conversation.withdraw_tools(5, ["time", "rain"])
        await client.ask()
        assert client.of(ToolsWithdrawn) == [ToolsWithdrawn(5, ("time",), ("rain",))]
        assert prompt_text(there.engine.prompts[0]).startswith("<system> tools: weather\n")


async def test_a_tool_withdrawn_while_a_turn_runs_is_unavailable_to_its_later_calls() -> None:
    async with agent(calls(ROME), calls(ROME), says("Sorry.")) as there:
        client = there.open(WEATHER)
        await client.send()
        await client.conversation.withdraw_tools(2, ["weather"])
        await client.answer()
        assert client.ending().text == "Sorry."
        outcomes = [call.outcome for call in client.of(ToolCallCompleted)]
        assert outcomes == [ToolCallOutcome.RESULT, ToolCallOutcome.UNAVAILABLE]
        names = [[tool.name for tool in spec.tools] for spec in there.engine.specs]
        assert names == [["weather"]] * 3, "the turn keeps the tools that it began with"


async def test_a_tool_updated_while_a_turn_runs_is_called_in_its_new_version() -> None:
    async with agent(calls(ROME), calls(ROME), says("Yes.")) as there:
        client = there.open(WEATHER)
        await client.send()
        await client.conversation.register_tools(2, [replace(WEATHER, version="2")])
        await client.answer()
        await client.answer()
        assert client.ending().text == "Yes."
        versions = [invocation.tool_version for invocation in client.of(Invoke)]
        assert versions[1] == "2" != versions[0]


async def test_tools_are_refused_by_a_model_without_tool_calls() -> None:
    info = replace(INFO, features=INFO.features - {Feature.TOOL_CALLS})
    async with agent_on(ScriptedEngine([says("Yes.")], info)) as there:
        client = there.open()
        proposals = [WEATHER, TIME]
        registrations = await client.conversation.register(proposals, path="open.tools")
        outcomes = await client.conversation.judged(registrations)
        assert [registration.name for registration in outcomes] == ["weather", "time"]
        for registration in outcomes:
            assert registration.error is not None
            assert registration.error.reason is Reason.NOT_SERVED
            assert "--tool-call-parser" in registration.error.message
        assert await client.conversation.register([], path="open.tools") == []
        assert (await client.ask()).text == "Yes."


@pytest.mark.parametrize("mode", [ToolChoiceMode.AUTO, ToolChoiceMode.REQUIRED])
async def test_tools_registered_before_the_engine_started_are_refused_by_a_model_without_tool_calls(
    mode: ToolChoiceMode, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = replace(INFO, features=INFO.features - {Feature.TOOL_CALLS})
    async with agent_on(ScriptedEngine([says("Yes.")], info)) as there:
        with monkeypatch.context() as starting:
            starting.setattr(there.supervisor, "_info", None)
            client = there.open(WEATHER)
        generation = GenerationSettings(tool_choice=ToolChoice(mode=mode))
        with pytest.raises(ServiceError) as caught:
            await client.send(generation=generation)
        assert caught.value.reason is Reason.NOT_SERVED
        assert caught.value.metadata["capability"] == "CAPABILITY_TOOL_CALLS"
        await client.conversation.withdraw_tools(1, ["weather"])
        assert (await client.ask()).text == "Yes."


async def test_a_client_is_told_that_its_run_now_answers_a_call() -> None:
    async with agent() as there:
        client = there.open(WEATHER)
        await client.conversation.commit("run-1", "call-1")
        await settle()
        assert client.of(InvocationCommitted) == [InvocationCommitted("run-1", "call-1")]


async def test_a_run_that_took_too_long_is_cancelled_at_the_client() -> None:
    async with agent(calls(ROME), says("Sorry.")) as there:
        client = there.open(WEATHER)
        await client.send()
        [invocation] = client.of(Invoke)
        await there.advance(20.0)
        assert client.of(CancelInvocation) == [
            CancelInvocation(invocation.invocation_id, InvocationCancelReason.TIMEOUT)
        ]


async def test_a_client_that_does_not_read_is_told_of_a_cancelled_run_later() -> None:
    """Its handler would otherwise go on for nothing."""
    async with agent(calls(ROME), limits=agent_limits(events_max=1)) as there:
        client = there.open(WEATHER)
        await client.send()
        [invocation] = client.of(Invoke)
        await client.stop_reading()
        client.conversation.cancel_turn("")
        await settle()
        await there.advance(60.0)
        client.reading.set()
        await settle()
        assert client.of(CancelInvocation) == [
            CancelInvocation(invocation.invocation_id, InvocationCancelReason.TURN_ENDED)
        ]


async def test_an_invocation_that_the_client_cannot_get_was_not_sent() -> None:
    """Whether a tool may have had effects depends on it."""
    async with agent(limits=agent_limits(events_max=1)) as there:
        client = there.open(WEATHER)
        await client.stop_reading()
        invocation = Invoke("run-1", "weather", "1", ROME[1], "turn-1", "conversation-1")
        invoking = asyncio.create_task(client.conversation.invoke(invocation))
        await settle()
        assert not invoking.done()
        client.conversation.outbox.close()
        with pytest.raises(ServiceError) as caught:
            await invoking
        assert caught.value.reason is Reason.TOOL_UNAVAILABLE


async def test_an_answer_to_an_unknown_invocation_is_refused() -> None:
    async with agent() as there:
        client = there.open()
        with pytest.raises(ServiceError) as caught:
            await client.conversation.deliver("none", HandlerResult("1"))
        assert caught.value.reason is Reason.INVOCATION_UNKNOWN
        with pytest.raises(ServiceError) as caught:
            client.conversation.progress("none", "half", 0.5)
        assert caught.value.reason is Reason.INVOCATION_UNKNOWN


async def test_an_answer_to_an_invocation_of_another_conversation_is_refused() -> None:
    async with agent(calls(ROME), says("Yes.")) as there:
        client, other = there.open(WEATHER), there.open(WEATHER)
        await client.send()
        [invocation] = client.of(Invoke)
        with pytest.raises(ServiceError) as caught:
            await other.conversation.deliver(invocation.invocation_id, HandlerResult("1"))
        assert caught.value.reason is Reason.INVOCATION_UNKNOWN
        await client.answer()
        assert client.ending().text == "Yes."


URL = LoosenedKeyword("$.properties.url.pattern", "no grammar holds a lookahead")


async def test_the_answer_says_what_does_not_bind_the_model() -> None:
    engine = ScriptedEngine([says("Yes.")])
    engine.loosened = {"time": [URL]}
    async with agent_on(engine) as there:
        client = there.open()
        proposals = [WEATHER, ToolProposal(name="no good"), TIME]
        await client.conversation.register_tools(1, proposals)
        await settle()
        [registered] = client.of(ToolsRegistered)
        assert [each.loosened for each in registered.registrations] == [(), (), (URL,)]


async def test_frames_do_not_wait_for_the_judgement_of_tools(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = ScriptedEngine([calls(ROME), says("Yes."), says("Well.")])
    judged = asyncio.Event()

    async def judge(tools: Sequence[ToolDeclaration], _tenant: str) -> list[list[LoosenedKeyword]]:
        await judged.wait()
        return [[] for _ in tools]

    monkeypatch.setattr(engine, "judge", judge)
    async with agent_on(engine) as there:
        client = there.open(WEATHER)
        await client.send()
        await client.conversation.register_tools(2, [TIME])
        await client.answer()
        assert client.ending().text == "Yes."
        await client.ask()
        assert not client.of(ToolsRegistered)
        judged.set()
        await settle()
        assert [each.frame_sequence for each in client.of(ToolsRegistered)] == [2]
        assert [tool.name for tool in engine.specs[-1].tools] == ["weather", "time"]


async def test_a_half_close_waits_for_the_answer_to_a_registration() -> None:
    async with agent_on(ScriptedEngine([])) as there:
        client = there.open()
        await client.conversation.register_tools(1, [WEATHER])
        client.conversation.hang_up()
        await settle()
        assert len(client.of(ToolsRegistered)) == 1


async def test_an_engine_that_starts_holds_no_registration_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = ScriptedEngine([])
    engine.loosened = {"weather": [URL]}
    async with agent_on(engine) as there:
        client = there.open()
        monkeypatch.setattr(EngineSupervisor, "running", None)
        await client.conversation.register_tools(1, [WEATHER])
        await settle()
        [registered] = client.of(ToolsRegistered)
        assert [each.loosened for each in registered.registrations] == [()]
