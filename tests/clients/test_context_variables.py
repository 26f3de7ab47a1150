"""Handlers see the context variables of whoever sent the turn that they serve."""

from __future__ import annotations

import asyncio
import contextvars
from typing import Annotated

import pydantic
from opentelemetry import baggage
from opentelemetry import context as otel_context

from precall import Client, Conversation
from precall.testing import Call, FakeServer, Parallel, Predict, Say
from tests.clients.helpers import FAST, talking

USER = contextvars.ContextVar("USER", default="nobody")


async def asynchronous() -> str:
    return USER.get()


def synchronous() -> str:
    return USER.get()


def by_validator(value: str) -> str:
    return f"{value} of {USER.get()}"


async def validated(value: Annotated[str, pydantic.AfterValidator(by_validator)]) -> str:
    return value


class Seen(pydantic.BaseModel):
    name: str

    @pydantic.field_serializer("name")
    def by_user(self, name: str) -> str:
        return f"{name} for {USER.get()}"


async def serialised() -> Seen:
    return Seen(name="page")


HANDLERS = (asynchronous, synchronous, validated, serialised)
CALLS = Parallel(
    [
        Call("asynchronous"),
        Call("synchronous"),
        Call("validated", {"value": "mail"}),
        Call("serialised"),
    ]
)


def seen_by(user: str) -> list[object]:
    return [user, user, f"mail of {user}", {"name": f"page for {user}"}]


async def ask_as(user: str, conversation: Conversation) -> list[object]:
    USER.set(user)
    answer = await conversation.ask("go")
    return [call.result for call in answer.tool_calls]


async def test_handlers_see_the_variables_of_their_turn_not_of_the_opening() -> None:
    async with FakeServer(*[[CALLS, Say("done")]] * 2) as server, Client(server.address) as client:
        USER.set("opener")
        async with client.conversation(tools=HANDLERS) as conversation:
            for user in ("ada", "bob"):
                asked = asyncio.create_task(ask_as(user, conversation))
                assert await asked == seen_by(user)
    assert USER.get() == "opener"


async def test_turns_at_the_same_time_see_their_own_variables() -> None:
    users = [f"user {number}" for number in range(5)]
    async with (
        FakeServer(*[[CALLS, CALLS, Say("done")]] * len(users)) as server,
        Client(server.address, options=FAST) as client,
    ):
        conversations = [await client.conversation(tools=HANDLERS).open() for _ in users]
        async with asyncio.TaskGroup() as group:
            asked = [
                group.create_task(ask_as(user, conversation))
                for user, conversation in zip(users, conversations, strict=True)
            ]
    assert [task.result() for task in asked] == [seen_by(user) * 2 for user in users]


async def test_the_variables_are_those_of_the_moment_of_sending() -> None:
    async with talking([Call("synchronous"), Say("done")], tools=(synchronous,)) as (_, talk):
        USER.set("sender")
        turn = talk.send("go")
        USER.set("reader")
        answer = await turn
    assert [call.result for call in answer.tool_calls] == ["sender"]


async def test_what_a_handler_sets_stays_in_its_run() -> None:
    async def sets() -> str:
        before = USER.get()
        USER.set("set by a handler")
        return before

    def sets_too() -> str:
        before = USER.get()
        USER.set("set by a handler")
        return before

    script = [Call("sets"), Call("sets_too"), Call("sets"), Say("done")]
    async with talking(script, tools=(sets, sets_too)) as (server, conversation):
        USER.set("sender")
        await conversation.ask("go")
    assert [result.value for result in server.results] == ["sender"] * 3
    assert USER.get() == "sender"


async def test_early_runs_see_them_too() -> None:
    script = [Predict("synchronous", wait=True), Call("synchronous"), Say("done")]
    async with FakeServer(script) as server, Client(server.address) as client:
        client.add_tool(synchronous, read_only=True, speculation_safe=True)
        async with client.conversation() as conversation:
            assert await ask_as("ada", conversation) == ["ada"]


async def test_the_senders_baggage_reaches_the_handler() -> None:
    async def handler() -> object:
        return baggage.get_baggage("user")

    async with talking([Call("handler"), Say("done")], tools=(handler,)) as (server, conversation):
        token = otel_context.attach(baggage.set_baggage("user", "ada"))
        await conversation.ask("go")
        otel_context.detach(token)
    assert [result.value for result in server.results] == ["ada"]
