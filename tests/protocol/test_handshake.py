"""The first frame of a stream: it opens a conversation, or an invalid one ends the stream."""

from __future__ import annotations

import grpc
import pytest
from google.protobuf.message import Message

from precall.v1 import agent_pb2, common_pb2, invocation_pb2, prediction_pb2, tool_pb2, turn_pb2
from tests.support.scripted_template import prompt_text
from tests.support.scripts import says
from tests.support.stream import MODEL, WEATHER, Section, eventually, running_server
from tests.support.wire import Failure, failure, said, seconds

OpenConversation = agent_pb2.OpenConversation
ConverseRequest = agent_pb2.ConverseRequest

NO_HANDSHAKES: dict[str, Message] = {
    "register_tools": tool_pb2.RegisterTools(tools=[WEATHER]),
    "withdraw_tools": tool_pb2.WithdrawTools(names=["weather"]),
    "start_turn": turn_pb2.StartTurn(turn_id="t1", content=said("Hi.")),
    "cancel_turn": turn_pb2.CancelTurn(),
    "cancel_tool_call": turn_pb2.CancelToolCall(turn_id="t1", call_id="c"),
    "invocation_result": invocation_pb2.InvocationResult(invocation_id="i", result_json="1"),
    "invocation_progress": invocation_pb2.InvocationProgress(invocation_id="i"),
    "approval_decision": invocation_pb2.ApprovalDecision(approval_id="a"),
    "acknowledge": common_pb2.Acknowledge(),
    "close": agent_pb2.CloseConversation(),
}


def test_every_kind_of_frame_is_tested() -> None:
    kinds = {field.name for field in ConverseRequest.DESCRIPTOR.oneofs_by_name["frame"].fields}
    assert kinds == {*NO_HANDSHAKES, "open", "resume"}


@pytest.mark.parametrize("kind", NO_HANDSHAKES)
async def test_a_first_frame_of_another_kind_ends_the_stream(kind: str) -> None:
    async with running_server() as server:
        stream = server.stream()
        await stream.send(kind, NO_HANDSHAKES[kind])
        error = await stream.ended()
        assert error is not None
        assert error.reason == "HANDSHAKE_REQUIRED"
        assert error.code is grpc.StatusCode.INVALID_ARGUMENT
        assert error.field == "frame"
        assert kind in error.message
        assert "`open`" in error.message


async def test_an_empty_first_frame_ends_the_stream() -> None:
    async with running_server() as server:
        stream = server.stream()
        await stream.send()
        error = await stream.ended()
        assert error is not None
        assert error.reason == "HANDSHAKE_REQUIRED"


async def test_half_closing_before_the_handshake_ends_the_stream() -> None:
    async with running_server() as server:
        stream = server.stream()
        await stream.half_close()
        error = await stream.ended()
        assert error is not None
        assert error.reason == "HANDSHAKE_REQUIRED"


async def test_a_silent_client_loses_its_stream_after_the_handshake_timeout() -> None:
    async with running_server(server={"handshake_s": 7.0}) as server:
        stream = server.stream()
        await eventually(lambda: server.timers == 1)
        server.clock.advance(6.9)
        assert not stream.call.done()
        server.clock.advance(0.2)
        error = await stream.ended()
        assert error is not None
        assert error.reason == "HANDSHAKE_REQUIRED"
        assert "7 s" in error.message
        assert server.timers == 0


async def test_a_second_handshake_is_refused_and_the_stream_stays_open() -> None:
    async with running_server([says("Hello.")]) as server:
        stream = await server.opened()
        again = await stream.send("open", OpenConversation())
        error = await stream.refused(again)
        assert error.reason == "HANDSHAKE_REPEATED"
        resumed = await stream.send("resume", agent_pb2.ResumeConversation(conversation_id="c"))
        assert (await stream.refused(resumed)).reason == "HANDSHAKE_REPEATED"
        assert (await stream.ask()).text == "Hello."
        await stream.close()


async def test_resume_is_refused_by_name_while_it_is_not_served() -> None:
    async with running_server() as server:
        stream = server.stream()
        await stream.send("resume", agent_pb2.ResumeConversation(conversation_id="conv-1"))
        error = await stream.ended()
        assert error is not None
        assert error.code is grpc.StatusCode.UNIMPLEMENTED
        assert error.reason == "NOT_SERVED"
        assert "resume" in error.message
        assert error.metadata["capability"] == "CAPABILITY_RESUME"
        assert agent_pb2.CAPABILITY_RESUME not in (await server.info()).capabilities


async def test_the_answer_lists_what_is_granted() -> None:
    async with running_server(conversations={"idle_expiry_s": 90.5}) as server:
        stream = server.stream()
        opened = await stream.open(OpenConversation(model=MODEL, tools=[WEATHER]))
        assert opened.conversation_id
        assert opened.resume_token == ""
        assert seconds(opened.expires_after) == 90.5
        assert opened.model == MODEL
        assert opened.last_client_sequence == 0
        assert opened.speculation.mode == prediction_pb2.SPECULATION_MODE_ISSUE
        assert opened.speculation.max_depth == 2
        info = await server.info()
        assert opened.limits == info.limits
        assert opened.capabilities == info.capabilities
        [registration] = opened.registrations
        assert registration.name == "weather"
        assert registration.version
        assert stream.events[0].acknowledged == 1
        await stream.close()


async def test_the_name_of_a_client_cannot_forge_a_log_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", logger="precall_service")
    async with running_server() as server:
        stream = server.stream()
        await stream.open(OpenConversation(client_name="agent\nERROR forged", agent_name="\x1b[2J"))
        await stream.close()
    assert "forged" in caplog.text
    assert not [line for line in caplog.messages if "\n" in line or "\x1b" in line]


async def test_conversation_ids_are_not_reused() -> None:
    async with running_server() as server:
        ids = {(await server.stream().open()).conversation_id for _ in range(5)}
        assert len(ids) == 5


async def refused(
    handshake: agent_pb2.OpenConversation, *, conversations: Section | None = None
) -> Failure:
    """The error that this handshake ends the stream with. The server must serve the next stream."""
    async with running_server([says("Hello.")], conversations=conversations or {}) as server:
        stream = server.stream()
        await stream.send("open", handshake)
        error = await stream.ended()
        assert error is not None
        assert not stream.events
        other = await server.opened()
        assert (await other.ask()).text == "Hello."
        await other.close()
    return error


USER, ASSISTANT, TOOL = (
    agent_pb2.MESSAGE_ROLE_USER,
    agent_pb2.MESSAGE_ROLE_ASSISTANT,
    agent_pb2.MESSAGE_ROLE_TOOL,
)


def message(
    role: agent_pb2.MessageRole.ValueType,
    text: str = "",
    *calls: agent_pb2.ToolCall,
    answers: str = "",
) -> agent_pb2.Message:
    return agent_pb2.Message(role=role, content=said(text), tool_calls=calls, tool_call_id=answers)


def call(call_id: str, arguments_json: str = "{}") -> agent_pb2.ToolCall:
    return agent_pb2.ToolCall(call_id=call_id, tool_name="weather", arguments_json=arguments_json)


BAD_HISTORIES = {
    "no role": ([message(USER), message(agent_pb2.MESSAGE_ROLE_UNSPECIFIED)], "[1].role"),
    "an answer without its call": ([message(TOOL, "1", answers="a")], "[0].tool_call_id"),
    "an answer to another call": (
        [message(ASSISTANT, "", call("a")), message(TOOL, "1", answers="b")],
        "[1].tool_call_id",
    ),
    "a second answer to a call": (
        [message(ASSISTANT, "", call("a")), *[message(TOOL, "1", answers="a")] * 2],
        "[2].tool_call_id",
    ),
    "a missing answer": ([message(ASSISTANT, "", call("a"))], ""),
    "a user before the answer": ([message(ASSISTANT, "", call("a")), message(USER, "?")], "[1]"),
    "two calls with one id": (
        [message(ASSISTANT, "", call("a"), call("a")), message(TOOL, "1", answers="a")],
        "[0].tool_calls[1].call_id",
    ),
    "a call without an id": (
        [message(ASSISTANT, "", call("")), message(TOOL, "1", answers="")],
        "[0].tool_calls[0].call_id",
    ),
    "arguments that are not an object": (
        [message(ASSISTANT, "", call("a", "[]")), message(TOOL, "1", answers="a")],
        "[0].tool_calls[0].arguments_json",
    ),
    "arguments that are not JSON": (
        [message(ASSISTANT, "", call("a"), call("b", "{"))],
        "[0].tool_calls[1].arguments_json",
    ),
}


@pytest.mark.parametrize("name", BAD_HISTORIES)
async def test_an_impossible_history_is_refused(name: str) -> None:
    history, field = BAD_HISTORIES[name]
    error = await refused(OpenConversation(history=history))
    assert error.reason == "FIELD_INVALID"
    assert error.field == f"open.history{field}"


BAD_HANDSHAKES = {
    "open.model": OpenConversation(model="gpt-unknown"),
    "open.template_variables_json": OpenConversation(template_variables_json="[1]"),
}


@pytest.mark.parametrize("field", BAD_HANDSHAKES)
async def test_a_field_out_of_range_ends_the_stream_and_is_named(field: str) -> None:
    error = await refused(BAD_HANDSHAKES[field])
    assert error.reason == "FIELD_INVALID"
    assert error.field == field
    assert field in error.message


async def test_the_refusal_of_an_unknown_model_names_the_served_one() -> None:
    error = await refused(OpenConversation(model="gpt-unknown"))
    assert "gpt-unknown" in error.message
    assert MODEL in error.message


@pytest.mark.parametrize(
    "text",
    [
        "nonsense",
        '"text"',
        "null",
        '{"a": NaN}',
        '{"a":1,"a":2}',
        '{"a": "\\ud800"}',
        '{"a": 1e999}',
        '{"chat_template": "{{ 1 }}"}',
        '{"tokenizer": null}',
        "[" * 16_000,
        "1" * 5_000,
    ],
    ids=lambda text: text[:12],
)
async def test_template_variables_must_be_a_json_object(text: str) -> None:
    error = await refused(OpenConversation(template_variables_json=text))
    assert error.field == "open.template_variables_json"
    assert error.reason == "FIELD_INVALID"


@pytest.mark.parametrize(
    ("variables", "name"),
    [
        ('{"self": 1}', "'self'"),
        ('{"raise_exception": 1}', "'raise_exception'"),
        ('{"documents": [1]}', "'documents'"),
        ('{"documents": "x"}', "'documents'"),
    ],
)
async def test_an_unusable_template_variable_is_named(variables: str, name: str) -> None:
    error = await refused(OpenConversation(template_variables_json=variables))
    assert (error.field, error.reason) == ("open.template_variables_json", "FIELD_INVALID")
    assert name in error.message


TOO_LARGE = {
    "open.system_prompt": OpenConversation(system_prompt="é" * 513),
    "open.history[0].content": OpenConversation(history=[message(USER, "x" * 1025)]),
    "open.history": OpenConversation(history=[message(USER, "x")] * 4),
    "open.history[0].tool_calls": OpenConversation(
        history=[message(ASSISTANT, "", *[call("a")] * 129)]
    ),
    "open.tools": OpenConversation(tools=[tool_pb2.Tool()] * 129),
    "open.template_variables_json": OpenConversation(
        template_variables_json='{"a": "%s"}' % ("x" * (16 << 10))
    ),
}


@pytest.mark.parametrize("field", TOO_LARGE)
async def test_a_field_over_its_size_is_named_with_its_limit(field: str) -> None:
    limits = {"text_bytes_max": 1024, "messages_max": 3}
    error = await refused(TOO_LARGE[field], conversations=limits)
    assert error.reason == "TOO_LARGE"
    assert error.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert error.field == field
    assert error.metadata["limit"] in error.message
    assert int(error.metadata["size"]) > int(error.metadata["limit"])


async def test_a_handshake_may_be_as_large_as_its_limits() -> None:
    limits = {"text_bytes_max": 1024, "messages_max": 3}
    async with running_server(conversations=limits) as server:
        stream = server.stream()
        prompt = "é" * 512
        await stream.open(
            OpenConversation(system_prompt=prompt, history=[message(USER, prompt)] * 3)
        )
        await stream.close()


async def test_the_history_and_the_system_prompt_reach_the_model() -> None:
    history = [
        message(USER, "Is it warm in Rome?"),
        message(ASSISTANT, "", call("a", '{"city":"Rome"}'), call("b", '{"city":"Bari"}')),
        message(TOOL, "7 C", answers="b"),
        message(TOOL, "30 C", answers="a"),
        message(ASSISTANT, "It is."),
    ]
    async with running_server([says("Yes.")]) as server:
        stream = server.stream()
        await stream.open(OpenConversation(system_prompt="Be brief.", history=history))
        await stream.ask("Sure?")
        prompt = prompt_text(server.engine.prompts[0])
        parts = ["Be brief.", "warm in Rome?", '{"city":"Rome"}', "7 C", "30 C", "It is.", "Sure?"]
        places = [prompt.index(part) for part in parts]
        assert places == sorted(places)
        await stream.close()


async def test_each_tool_of_the_handshake_is_accepted_or_refused_separately() -> None:
    async with running_server() as server:
        stream = server.stream()
        opened = await stream.open(OpenConversation(tools=[WEATHER, tool_pb2.Tool(name="a b")]))
        good, bad = opened.registrations
        assert good.version
        assert not good.HasField("error")
        assert bad.name == "a b"
        assert bad.version == ""
        error = failure(bad.error)
        assert error.reason == "TOOL_NAME_INVALID"
        assert error.field == "open.tools[1].name"
        await stream.close()


@pytest.mark.parametrize("tenant", ["a", "A-Z.a_z-0", "x" * 64])
async def test_a_tenant_may_be_named(tenant: str) -> None:
    async with running_server() as server:
        stream = server.stream(("precall-tenant", tenant))
        await stream.open()
        await stream.close()


@pytest.mark.parametrize("tenant", ["", " ", "a b", "a/b", "x" * 65, "*"])
async def test_a_tenant_with_an_invalid_name_is_refused(tenant: str) -> None:
    async with running_server() as server:
        stream = server.stream(("precall-tenant", tenant))  # refused before its first frame
        error = await stream.ended()
        assert error is not None
        assert error.reason == "FIELD_INVALID"
        assert error.field == "metadata.precall-tenant"


async def test_two_tenants_on_one_call_are_refused() -> None:
    """A gateway may add the real tenant to one that the client sent; the order proves nothing."""
    async with running_server() as server:
        stream = server.stream(("precall-tenant", "true"), ("precall-tenant", "false"))
        error = await stream.ended()
        assert error is not None
        assert error.field == "metadata.precall-tenant"


async def test_a_status_with_a_long_cause_fits_the_metadata_of_grpc() -> None:
    name = "\U000e0001" * 3000
    error = await refused(OpenConversation(template_variables_json=f'{{"{name}":1,"{name}":2}}'))
    assert error.field == "open.template_variables_json"
    assert (await refused(OpenConversation(model=name))).field == "open.model"


async def test_a_refusal_over_the_limit_of_conversations_says_when_to_retry() -> None:
    async with running_server(conversations={"conversations_max": 2}) as server:
        first, second, third = await server.opened(), await server.opened(), server.stream()
        await third.send("open", OpenConversation())
        error = await third.ended()
        assert error is not None
        assert error.reason == "OVERLOADED"
        assert error.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert error.retry_after_s is not None
        assert "conversations_max" in error.message
        await first.close()
        await (await server.opened()).close()
        await second.close()
