"""The errors of turns that are refused, cut or failed: what was wrong, the limit, what to do."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Final

from precall_service.domain.endings import InvocationEnding
from precall_service.domain.errors import Reason, ServiceError
from precall_service.domain.events import ToolCallOutcome
from precall_service.domain.turn import ToolChoice
from precall_service.engine.base import EngineInfo, StrayCall
from precall_service.engine.findings import Subject
from precall_service.tools.text import shorten

RETRY_AFTER_S: Final = 5.0
"""When to try again at a server that is full, in seconds: about how long a short turn takes."""


def turn_running(turn_id: str) -> ServiceError:
    """Another turn is running."""
    return ServiceError(
        Reason.TURN_RUNNING,
        f"turn {turn_id!r} is running: wait for its TurnCompleted, or cancel it",
        field="start_turn",
        metadata={"running_turn_id": turn_id},
    )


def turn_id_reused(turn_id: str) -> ServiceError:
    """The id was used for a turn with another text or other settings."""
    return ServiceError(
        Reason.TURN_ID_REUSED,
        f"turn id {turn_id!r} was already used with another text or other settings: a new turn "
        "needs a new id",
        field="start_turn.turn_id",
    )


def turn_unknown(turn_id: str) -> ServiceError:
    """There is no such turn to cancel. An empty id stands for the running turn."""
    return ServiceError(
        Reason.TURN_UNKNOWN,
        f"no turn {shorten(turn_id, 80)!r} is running" if turn_id else "no turn is running",
        field="cancel_turn.turn_id",
    )


def too_many_messages(messages: int, limit: int) -> ServiceError:
    """The conversation has reached its message limit."""
    return ServiceError(
        Reason.LIMIT_REACHED,
        f"the conversation has {messages} messages, the limit is {limit}: open a new conversation "
        "with the part of the history that matters",
        field="start_turn",
        metadata={"limit": str(limit)},
    )


def too_many_conversations() -> ServiceError:
    """The server has as many conversations as it takes."""
    return ServiceError(
        Reason.OVERLOADED,
        "this server has as many conversations as it takes (conversations_max): try again in "
        f"{RETRY_AFTER_S:g} s, or on another replica",
        retry_after_s=RETRY_AFTER_S,
    )


def too_many_of_tenant(limit: int) -> ServiceError:
    """The tenant has as many conversations as it may have."""
    return ServiceError(
        Reason.LIMIT_REACHED,
        f"this tenant has {limit} conversations on this server, which is its limit "
        "(conversations_per_tenant_max): end some that are not needed, or use another replica",
        metadata={"limit": str(limit)},
    )


def memory_full(field: str) -> ServiceError:
    """The conversations of the server hold as many bytes as they may."""
    return ServiceError(
        Reason.OVERLOADED,
        "the conversations of this server hold as many bytes as they may (bytes_max): try again "
        f"in {RETRY_AFTER_S:g} s, or on another replica",
        field=field,
        retry_after_s=RETRY_AFTER_S,
    )


def memory_of_tenant_full(held: int, wanted: int, limit: int, field: str) -> ServiceError:
    """The conversations of the tenant hold as many bytes as they may."""
    return ServiceError(
        Reason.LIMIT_REACHED,
        f"the conversations of this tenant hold {held} bytes on this server, and with {wanted} "
        f"more they would be over its limit of {limit} (bytes_per_tenant_max): end conversations "
        "that are not needed, shorten this one, or use another replica",
        field=field,
        metadata={"held": str(held), "wanted": str(wanted), "limit": str(limit)},
    )


def conversation_expired(limit_s: float) -> ServiceError:
    """The conversation was idle for longer than the limit."""
    return ServiceError(
        Reason.CONVERSATION_EXPIRED,
        f"the conversation was idle for {limit_s:g} s, which is the limit: open a new conversation "
        "with the history",
        metadata={"limit_s": f"{limit_s:g}"},
    )


def client_gone() -> ServiceError:
    """The client that runs the tool has left."""
    return ServiceError(Reason.TOOL_UNAVAILABLE, "the client that runs the tool is gone")


def no_tool_calls(engine: EngineInfo) -> ServiceError:
    """The served model cannot call tools."""
    finding = engine.findings.on(Subject.TOOL_CALLS)
    why = f": {finding.sentence}" if finding is not None else ""
    return ServiceError(
        Reason.NOT_SERVED,
        f"{engine.model} cannot call tools here (CAPABILITY_TOOL_CALLS is not granted){why}. Use "
        "no tools, or serve another model, or name a parser or a chat template that fits with "
        "--tool-call-parser or --chat-template",
        metadata={"capability": "CAPABILITY_TOOL_CALLS"},
    )


def named_tool_unknown(name: str, known: Sequence[str]) -> ServiceError:
    """The tool that the tool choice names is not registered."""
    return ServiceError(
        Reason.TOOL_CHOICE_INVALID,
        f"no tool {name!r} is registered; registered tools: {', '.join(known) or 'none'}",
        field="start_turn.generation.tool_choice.tool_name",
    )


def no_tool_to_require() -> ServiceError:
    """The tool choice requires a call, but the client has registered no tool."""
    return ServiceError(
        Reason.TOOL_CHOICE_INVALID,
        "a call is required, but no tool is registered: register a tool first",
        field="start_turn.generation.tool_choice.mode",
    )


def turn_timeout(limit_s: float) -> ServiceError:
    """The turn reached its time limit."""
    return ServiceError(
        Reason.TURN_TIMEOUT,
        f"the turn took longer than its limit of {limit_s:g} s: raise limits.max_duration, or "
        "ask for less in one turn",
        field="start_turn.limits.max_duration",
        metadata={"limit_s": f"{limit_s:g}"},
    )


def too_many_steps(limit: int) -> ServiceError:
    """The turn reached its step limit, and the last step made calls."""
    return ServiceError(
        Reason.LIMIT_REACHED,
        f"the model still makes calls after {limit} steps, which is the limit of this turn: raise "
        "limits.max_steps, or narrow the question",
        field="start_turn.limits.max_steps",
        metadata={"limit": str(limit)},
    )


def too_many_tokens(limit: int) -> ServiceError:
    """The turn reached its token limit."""
    return ServiceError(
        Reason.LIMIT_REACHED,
        f"the turn has generated {limit} tokens, which is its limit: raise limits.max_turn_tokens",
        field="start_turn.limits.max_turn_tokens",
        metadata={"limit": str(limit)},
    )


def step_cut(limit: int) -> ServiceError:
    """A step reached its token limit before its message ended."""
    return ServiceError(
        Reason.LIMIT_REACHED,
        f"the step was cut after {limit} tokens, which is its limit: raise "
        "generation.max_step_tokens",
        field="start_turn.generation.max_step_tokens",
        metadata={"limit": str(limit)},
    )


def context_full(model: str, limit: int | None) -> ServiceError:
    """A step filled the context window, of `limit` tokens if known, before its message ended."""
    window = "" if limit is None else f", which has {limit} tokens"
    return ServiceError(
        Reason.LIMIT_REACHED,
        f"the answer was cut because the conversation fills the context window of {model}{window}: "
        "continue in a new conversation with a shorter history",
        metadata={} if limit is None else {"limit": str(limit)},
    )


def step_given_up() -> ServiceError:
    """The engine cancelled a step by itself, as it may when it shuts down."""
    return ServiceError(
        Reason.ENGINE_FAILED,
        "the engine cancelled the turn's step: send the turn again with a new turn id",
    )


def call_of_unknown_tool(name: str, known: Collection[str]) -> InvocationEnding:
    """The model called a tool that is not registered."""
    names = ", ".join(sorted(known)) or "none"
    return InvocationEnding(
        outcome=ToolCallOutcome.ERROR,
        error=ServiceError(
            Reason.TOOL_UNKNOWN, f"no tool {name!r} is registered; registered tools: {names}"
        ),
    )


def call_unreadable(problem: str) -> InvocationEnding:
    """What the model wrote does not say for certain which call it meant."""
    return InvocationEnding(
        outcome=ToolCallOutcome.ERROR,
        error=ServiceError(Reason.ARGUMENTS_INVALID, f"the call was not run: {problem}"),
    )


def call_stopped(stop_text: str) -> ServiceError:
    """A stop text of the client ended a step inside a call, or before one that was required."""
    return ServiceError(
        Reason.CALL_STOPPED,
        f"the stop text {shorten(stop_text, 80)!r} ended the step before its call was complete, so "
        "no call of it was run: leave out stop texts that a call may contain, and send the turn "
        "again with a new turn id",
        field="start_turn.generation.stop",
        metadata={"stop_text": stop_text},
    )


def call_lost(stray: StrayCall) -> ServiceError:
    """The model meant to make a call, but none could be read from its message."""
    return ServiceError(
        Reason.CALL_LOST,
        f"the model meant to make a call that could not be read: {stray.value}. Send the turn "
        "again with a new turn id",
        metadata={"stray_call": stray.name.lower()},
    )


def call_missing(choice: ToolChoice) -> ServiceError:
    """The tool choice requires a call that the model did not make."""
    which = f"a call of {choice.tool_name!r}" if choice.tool_name else "a call"
    return ServiceError(
        Reason.CALL_MISSING,
        f"{which} was required, but the model made none: send the turn again with a new turn id, "
        "with another message or tool choice",
        metadata={"tool_name": choice.tool_name} if choice.tool_name else {},
    )


def call_not_made(stop_text: str) -> InvocationEnding:
    """The stop text, or a limit if it is empty, cut the step before its message was complete."""
    error = (
        call_stopped(stop_text)
        if stop_text
        else ServiceError(
            Reason.LIMIT_REACHED, "a limit cut the step before its message ended: no call was made"
        )
    )
    return InvocationEnding(outcome=ToolCallOutcome.CANCELLED, error=error)


def waited_too_long(limit_s: float, retry_after_s: float) -> ServiceError:
    """The turn was never admitted."""
    return ServiceError(
        Reason.OVERLOADED,
        f"the turn waited {limit_s:g} s to start, which is the limit: try again in "
        f"{retry_after_s:g} s, or on another replica",
        retry_after_s=retry_after_s,
        metadata={"limit_s": f"{limit_s:g}"},
    )


def failed_after_effects(cause: ServiceError, tools: Iterable[str]) -> ServiceError:
    """The turn failed after calls that may have had effects.

    There is no RetryInfo, because a retry could repeat the effects.
    """
    names = ", ".join(tools)
    return ServiceError(
        cause.reason,
        f"the turn failed after calls that may have had effects ({names}). The conversation keeps "
        "its finished steps: continue from there, since the same turn again could repeat the "
        f"effects. Why it failed: {cause.message}",
        field=cause.field,
        metadata={**cause.metadata, "called": names},
    )


def answer_too_long() -> InvocationEnding:
    """Replaces results that left no room in the context window, so that later turns fit."""
    return InvocationEnding(
        outcome=ToolCallOutcome.ERROR,
        error=ServiceError(
            Reason.TOO_LARGE, "the result left no room in the context window and was dropped"
        ),
    )


def call_outlived(*, in_doubt: bool) -> InvocationEnding:
    """The turn ended before the call did. `in_doubt`: the call may have had effects.

    The model reads this in the next turn, so it does not say what the client could do.
    """
    message = "the turn ended before the call did"
    if in_doubt:
        message += "; whether it took effect is not known"
    return InvocationEnding(
        outcome=ToolCallOutcome.CANCELLED, error=ServiceError(Reason.CANCELLED, message)
    )
