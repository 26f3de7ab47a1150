"""A client's frames become values; any frame is either accepted or refused."""

from __future__ import annotations

from google.protobuf.duration_pb2 import Duration
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from precall.v1 import agent_pb2, common_pb2, generation_pb2, invocation_pb2, tool_pb2, turn_pb2
from precall_service.agent.limits import AgentLimits
from precall_service.domain.errors import ServiceError
from precall_service.domain.events import TraceContext
from precall_service.domain.tools import CacheScope, ToolEffects
from precall_service.domain.turn import GenerationSettings, ToolChoice, ToolChoiceMode, TurnLimits
from precall_service.tools.link import HandlerCancelled, HandlerError, HandlerResult
from precall_service.transport import events_out, frames_in, opening_in
from precall_service.transport.statuses import to_status
from tests.support.any_frames import TEXTS, frames
from tests.support.links import RecordingLink
from tests.support.tools import new_toolset, tool_limits
from tests.support.wire import failure, said

LIMITS = AgentLimits(
    messages_max=5,
    text_bytes_max=1024,
    turn=TurnLimits(max_steps=4, max_turn_tokens=1000, max_duration_s=60.0),
)


def test_a_turn_has_the_values_of_its_frame() -> None:
    spec = frames_in.turn_spec(
        turn_pb2.StartTurn(
            turn_id="t",
            content=said(" Hi. "),
            generation=generation_pb2.GenerationSettings(
                temperature=0,
                top_p=0.5,
                top_k=-1,
                seed=7,
                max_step_tokens=10,
                stop=["a", "b"],
                tool_choice=generation_pb2.ToolChoice(
                    mode=generation_pb2.TOOL_CHOICE_MODE_NAMED, tool_name="weather"
                ),
            ),
            limits=turn_pb2.TurnLimits(
                max_steps=2, max_turn_tokens=20, max_duration=Duration(seconds=1, nanos=500_000_000)
            ),
            trace_context=common_pb2.TraceContext(traceparent="p", tracestate="s"),
        ),
        LIMITS,
    )
    assert (spec.turn_id, spec.text) == ("t", " Hi. ")
    assert spec.generation == GenerationSettings(
        temperature=0.0,
        top_p=0.5,
        top_k=-1,
        seed=7,
        max_step_tokens=10,
        stop=("a", "b"),
        tool_choice=ToolChoice(mode=ToolChoiceMode.NAMED, tool_name="weather"),
    )
    assert spec.limits == TurnLimits(max_steps=2, max_turn_tokens=20, max_duration_s=1.5)
    assert spec.trace_context == TraceContext(traceparent="p", tracestate="s")


def test_unset_fields_of_a_turn_mean_the_defaults_of_model_and_server() -> None:
    spec = frames_in.turn_spec(turn_pb2.StartTurn(turn_id="t", content=said("Hi.")), LIMITS)
    assert spec.generation == GenerationSettings()
    assert spec.limits == LIMITS.turn


def test_a_tool_has_the_values_of_its_frame() -> None:
    (proposal,) = opening_in.proposals(
        "tools",
        [
            tool_pb2.Tool(
                name="n",
                version="v",
                description="d",
                input_schema_json="i",
                output_schema_json="o",
                effects=tool_pb2.ToolEffects(
                    read_only=True,
                    speculation_safe=True,
                    idempotent=True,
                    open_world=True,
                    requires_approval=True,
                    approval_may_edit=True,
                    reads=["r"],
                    writes=["w"],
                ),
                cache=tool_pb2.ToolCachePolicy(
                    ttl=Duration(seconds=5), scope=tool_pb2.CACHE_SCOPE_TENANT
                ),
                timeout=Duration(nanos=1),
                max_concurrency=3,
                rate_limit=4,
            )
        ],
        tools_max=1,
    )
    assert (proposal.name, proposal.version, proposal.description) == ("n", "v", "d")
    assert (proposal.input_schema_json, proposal.output_schema_json) == ("i", "o")
    assert proposal.effects == ToolEffects(
        read_only=True,
        speculation_safe=True,
        idempotent=True,
        open_world=True,
        requires_approval=True,
        approval_may_edit=True,
        reads=("r",),
        writes=("w",),
    )
    assert (proposal.cache_ttl_s, proposal.cache_scope) == (5.0, CacheScope.TENANT)
    assert (proposal.timeout_s, proposal.max_concurrency, proposal.rate_limit) == (1e-9, 3, 4)


def test_a_tool_that_declares_nothing_is_unsafe() -> None:
    (proposal,) = opening_in.proposals("tools", [tool_pb2.Tool(name="n")], tools_max=1)
    assert proposal.effects == ToolEffects()
    assert not proposal.effects.read_only
    assert not proposal.effects.speculation_safe
    assert (proposal.cache_ttl_s, proposal.cache_scope) == (0.0, CacheScope.CONVERSATION)
    assert proposal.timeout_s is None


def test_a_handlers_answer_is_one_of_three() -> None:
    result = invocation_pb2.InvocationResult
    assert frames_in.handler_answer(result(result_json="")) == HandlerResult("")
    error = invocation_pb2.InvocationError(type="T", message="m")
    assert frames_in.handler_answer(result(error=error)) == HandlerError("T", "m")
    cancelled = invocation_pb2.InvocationCancelled()
    assert frames_in.handler_answer(result(cancelled=cancelled)) == HandlerCancelled()


def assert_sendable(error: ServiceError) -> None:
    """Checks that the error can be sent, and that the contract has its reason."""
    failure(to_status(error))


any_frame = settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])


@any_frame
@given(frames("open"))
def test_any_handshake_is_accepted_or_refused(frame: agent_pb2.ConverseRequest) -> None:
    try:
        opening = opening_in.opening(
            frame.open, "script", LIMITS, arguments_bytes_max=1 << 20, tools_max=128
        )
    except ServiceError as error:
        assert_sendable(error)
    else:
        assert len(opening.transcript.messages) == len(frame.open.history) <= LIMITS.messages_max
        assert len(opening.proposals) == len(frame.open.tools)


@any_frame
@given(frames("start_turn"))
def test_any_turn_is_accepted_or_refused(frame: agent_pb2.ConverseRequest) -> None:
    try:
        spec = frames_in.turn_spec(frame.start_turn, LIMITS)
    except ServiceError as error:
        assert_sendable(error)
    else:
        assert spec.text.strip()
        assert 1 <= spec.limits.max_steps <= LIMITS.turn.max_steps
        assert 1 <= spec.limits.max_turn_tokens <= LIMITS.turn.max_turn_tokens
        assert 0 < spec.limits.max_duration_s <= LIMITS.turn.max_duration_s


@any_frame
@given(frames("register_tools"))
async def test_any_tool_is_registered_or_refused(frame: agent_pb2.ConverseRequest) -> None:
    toolset = new_toolset(RecordingLink(), tool_limits())
    tools = frame.register_tools.tools
    proposals = opening_in.proposals("tools", tools, tools_max=len(tools))
    entries = [each.outcome for each in await toolset.register(proposals)]
    assert [entry.name for entry in entries] == [tool.name for tool in tools]
    for entry in entries:
        assert (entry.error is None) == bool(entry.version)
        told = events_out.tool_registration(entry)
        if entry.error is not None:
            failure(told.error)


@any_frame
@given(frames("invocation_result"))
def test_any_result_is_accepted_or_refused(frame: agent_pb2.ConverseRequest) -> None:
    try:
        frames_in.handler_answer(frame.invocation_result)
    except ServiceError as error:
        assert_sendable(error)
        assert frame.invocation_result.WhichOneof("outcome") is None


@any_frame
@given(frames("invocation_progress"))
def test_any_progress_is_accepted_or_refused(frame: agent_pb2.ConverseRequest) -> None:
    try:
        fraction = frames_in.fraction(frame.invocation_progress)
    except ServiceError as error:
        assert_sendable(error)
    else:
        assert fraction is None or 0 <= fraction <= 1


@any_frame
@given(st.lists(st.tuples(st.sampled_from(["precall-tenant", "other"]), TEXTS | st.binary())))
def test_any_metadata_names_a_tenant_or_is_refused(metadata: list[tuple[str, str | bytes]]) -> None:
    try:
        name = opening_in.tenant(metadata)
    except ServiceError as error:
        assert_sendable(error)
    else:
        assert 1 <= len(name) <= 64
