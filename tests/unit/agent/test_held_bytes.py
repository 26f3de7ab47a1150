"""The bytes that conversations hold: what counts, what is refused, and that all is given back."""

from __future__ import annotations

import asyncio
import sys

import pytest

from precall_service.agent.held_bytes import CONVERSATION_BYTES, TOKEN_BYTES, Part, event_size
from precall_service.domain.errors import Reason, ServiceError
from precall_service.domain.events import (
    FrameRejected,
    Invoke,
    TextDelta,
    ToolCallCompleted,
    ToolsRegistered,
)
from precall_service.domain.messages import AssistantMessage, UserMessage
from precall_service.tools.declarations import ToolProposal
from precall_service.tools.link import HandlerResult
from tests.support.agent import Agent, agent, agent_limits
from tests.support.clock import settle
from tests.support.scripts import Pause, calls, says
from tests.support.tools import CITY_SCHEMA

MIB = 1 << 20
WEATHER = ToolProposal(name="weather", input_schema_json=CITY_SCHEMA)


def held(there: Agent, tenant: str = "ann") -> int:
    return there.conversations.held.bytes_by_tenant.get(tenant, 0)


def refusal(there: Agent, *, tenant: str = "ann", text: str = "") -> ServiceError:
    before = dict(there.conversations.held.bytes_by_tenant)
    with pytest.raises(ServiceError) as caught:
        there.open(tenant=tenant, system_prompt=text)
    assert there.conversations.held.bytes_by_tenant == before
    return caught.value


async def test_a_conversation_counts_by_its_tenant() -> None:
    async with agent() as there:
        there.open()
        there.open(tenant="bob")
        there.open(tenant="bob")
        counts = there.conversations.held
        assert counts.conversations_by_tenant == {"ann": 1, "bob": 2}
        assert counts.total == held(there) + held(there, "bob") > 3 * CONVERSATION_BYTES


async def test_a_history_counts_with_its_reasoning_and_its_prompt() -> None:
    async with agent() as there:
        there.open()
        before = held(there)
        history = (
            UserMessage(text="u" * MIB),
            AssistantMessage(text="a" * MIB, reasoning="r" * MIB),
        )
        there.open(history=history, system_prompt="s" * MIB)
        assert 4 * MIB < held(there) - 2 * before < 4.1 * MIB


async def test_a_text_counts_as_much_as_python_needs_for_it() -> None:
    """A single emoji makes every character of its text take four bytes."""
    text = "x" * MIB + "\N{GRINNING FACE}"
    async with agent() as there:
        there.open(system_prompt=text)
        assert held(there) > sys.getsizeof(text) > 4 * MIB


async def test_what_a_turn_adds_counts_while_it_runs_and_after() -> None:
    hold = asyncio.Event()
    steps = calls(("weather", '{"city":"Rome"}')), [Pause(hold), *says("Fine.")]
    async with agent(*steps) as there:
        client = there.open(WEATHER)
        before = held(there)
        await client.send("q" * 5000)
        asked = held(there) - before
        assert asked > 5000
        await client.answer(result_json=f'"{"r" * 1000}"')
        running = held(there) - before
        assert running > asked + 1000, "the result does not wait for the turn's end to count"
        hold.set()
        await settle()
        assert client.ending().text == "Fine."
        again = client.conversation._holding._parts  # pyright: ignore[reportPrivateUsage]
        assert again[Part.TURN] == 0, "nothing counts twice"
        assert 6000 < again[Part.TRANSCRIPT] < 6000 + 6 * 1024


async def test_the_exact_tokens_of_a_transcript_count() -> None:
    async with agent(says("Yes.")) as there:
        client = there.open()
        before = held(there)
        text = "word " * 1000
        ended = await client.ask(text)
        tokens = ended.report.usage.input_tokens
        assert tokens > len(text)
        assert held(there) - before > sys.getsizeof(text) + tokens * TOKEN_BYTES


async def test_tools_count_until_they_are_withdrawn() -> None:
    async with agent() as there:
        client = there.open()
        before = held(there)
        await client.conversation.register_tools(2, [WEATHER])
        await settle()
        with_one = held(there)
        assert with_one - before > 8 * len(CITY_SCHEMA)
        await client.conversation.register_tools(3, [WEATHER])
        await settle()
        assert held(there) == with_one, "it took the place of the one before"
        await client.conversation.withdraw_tools(4, ["weather", "unknown"])
        await settle()
        assert held(there) == before


async def test_events_count_until_they_are_sent() -> None:
    async with agent() as there:
        client = there.open()
        await client.stop_reading()
        before = held(there)
        await client.conversation.outbox.put(TextDelta("x" * MIB))
        assert held(there) - before > MIB
        client.reading.set()
        await settle()
        assert held(there) == before


async def test_the_number_of_a_tenants_conversations_is_limited() -> None:
    async with agent(limits=agent_limits(conversations_per_tenant_max=2)) as there:
        there.open()
        there.open()
        error = refusal(there)
        assert error.reason is Reason.LIMIT_REACHED
        assert error.metadata == {"limit": "2"}
        assert error.retry_after_s is None, "only the tenant itself can make room"
        there.open(tenant="bob")


async def test_a_tenant_that_holds_too_much_is_refused_and_no_other_is() -> None:
    async with agent(limits=agent_limits(bytes_per_tenant_max=2 * MIB)) as there:
        there.open(system_prompt="x" * MIB)
        error = refusal(there, text="x" * MIB)
        assert error.reason is Reason.LIMIT_REACHED
        assert error.metadata["limit"] == str(2 * MIB)
        assert error.metadata["held"] == str(held(there))
        assert error.retry_after_s is None
        there.open(tenant="bob", system_prompt="x" * MIB)


async def test_a_full_server_refuses_everyone_without_telling_how_full_it_is() -> None:
    async with agent(limits=agent_limits(bytes_max=2 * MIB)) as there:
        there.open(system_prompt="x" * MIB)
        error = refusal(there, tenant="bob", text="x" * MIB)
        assert error.reason is Reason.OVERLOADED
        assert error.retry_after_s is not None
        assert not error.metadata
        there.open(tenant="bob")


async def test_a_conversation_that_ends_gives_its_bytes_back() -> None:
    async with agent(limits=agent_limits(bytes_max=2 * MIB)) as there:
        client = there.open(system_prompt="x" * MIB)
        refusal(there, text="x" * MIB)
        await client.close()
        there.leave_all()
        there.open(system_prompt="x" * MIB)


async def test_a_turn_that_does_not_fit_is_refused_and_the_conversation_goes_on() -> None:
    async with agent(says("Yes."), limits=agent_limits(bytes_per_tenant_max=MIB)) as there:
        client = there.open()
        with pytest.raises(ServiceError) as caught:
            await client.send("x" * MIB)
        assert caught.value.reason is Reason.LIMIT_REACHED
        assert caught.value.field == "start_turn.content"
        assert (await client.ask("Short?")).text == "Yes."


async def test_a_running_turn_goes_on_over_the_limit() -> None:
    steps = calls(("weather", '{"city":"Rome"}')), says("Fine."), says("More.")
    limit = CONVERSATION_BYTES + 1000
    async with agent(*steps, limits=agent_limits(bytes_per_tenant_max=limit)) as there:
        client = there.open(WEATHER)
        await client.send()
        assert client.of(Invoke)
        await client.deliver(HandlerResult(f'"{"r" * 1000}"'))
        assert client.of(ToolCallCompleted)
        assert client.ending().text == "Fine."
        assert held(there) > limit
        with pytest.raises(ServiceError) as caught:
            await client.send("And now?")
        assert caught.value.reason is Reason.LIMIT_REACHED


async def test_tools_that_do_not_fit_are_refused_one_by_one() -> None:
    async with agent(limits=agent_limits(bytes_per_tenant_max=CONVERSATION_BYTES + 4096)) as there:
        client = there.open()
        await settle()
        await client.conversation.register_tools(2, [WEATHER])
        await settle()
        [registered] = client.of(ToolsRegistered)
        [outcome] = registered.registrations
        assert outcome.error is not None
        assert outcome.error.reason is Reason.LIMIT_REACHED
        assert not client.of(FrameRejected)


def test_an_event_is_as_large_as_its_texts() -> None:
    small, large = TextDelta("x"), TextDelta("x" * MIB)
    assert event_size(large) - event_size(small) == MIB - 1
    call = Invoke(arguments_json="x" * MIB, tool_name="weather")
    assert event_size(call) > MIB
