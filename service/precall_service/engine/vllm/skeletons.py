"""Makes the short conversations from which precall learns what a template writes around messages.

A skeleton has the form of a conversation, and texts of its own that all differ: some templates
compare messages with each other. What a template writes can be taken from a skeleton only if it
contains none of these texts and does not depend on what came before.

Never: renders.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from precall_service.domain.json import dump
from precall_service.domain.messages import (
    AssistantMessage,
    Message,
    ToolCall,
    ToolMessage,
    Transcript,
    UserMessage,
)
from precall_service.engine.vllm.probes import CALL_ID, EARLIER_CALL_ID, MARKER, probe_text

FormatT = TypeVar("FormatT")

THOUGHT = probe_text("thought")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The features of a transcript that decide what its template writes around a message."""

    variables: str
    system: bool
    tools: bool
    calls: bool
    text: bool
    reasoning: bool


def with_messages(transcript: Transcript, following: Sequence[Message]) -> Transcript:
    """The transcript followed by these messages."""
    return replace(transcript, messages=(*transcript.messages, *following))


def shape(transcript: Transcript) -> Shape:
    """The shape of a transcript that ends with a step."""
    last = _last(transcript)
    return Shape(
        variables=dump(dict(transcript.template_variables)),
        system=bool(transcript.system_prompt),
        tools=bool(transcript.tools),
        calls=bool(last.tool_calls),
        text=bool(last.text),
        reasoning=bool(last.reasoning),
    )


def skeleton(transcript: Transcript) -> Transcript:
    """The same situation with texts of its own: the same roles, and the calls of the last step.

    `MARKER` stands where the text or the arguments of the last message end.
    """
    last = _last(transcript)
    called = {call.tool_name for call in last.tool_calls}
    tools = [tool for tool in transcript.tools if tool.name in called] or transcript.tools[:1]
    calls = [replace(call, arguments_json="{}") for call in last.tool_calls]
    if calls:
        calls[-1] = replace(calls[-1], arguments_json=dump({"value": MARKER}))
    text = probe_text("said") if last.text else ""
    said = AssistantMessage(
        text=text if calls else MARKER,
        reasoning=THOUGHT if last.reasoning else "",
        tool_calls=tuple(calls),
    )
    return replace(
        transcript,
        messages=(UserMessage(text=probe_text("question")), said),
        system_prompt=probe_text("system") if transcript.system_prompt else "",
        tools=tuple(replace(tool, description=probe_text(tool.name)) for tool in tools),
    )


def with_past(skeleton: Transcript) -> Transcript:
    """The skeleton after an earlier turn and, if there are tools, an earlier step of this turn."""
    past: list[Message] = [
        UserMessage(text=probe_text("first question")),
        *_round(skeleton, EARLIER_CALL_ID, reasoning=False),
        AssistantMessage(text=probe_text("first answer")),
    ]
    question, said = skeleton.messages
    before = _round(skeleton, CALL_ID, reasoning=bool(_last(skeleton).reasoning))
    return replace(skeleton, messages=(*past, question, *before, said))


def probe_answers(skeleton: Transcript, letter: str) -> list[Message]:
    """Messages that may follow, each beginning with `letter`."""
    answers: list[Message] = [
        ToolMessage(call_id=call.call_id, tool_name=call.tool_name, text=letter)
        for call in _last(skeleton).tool_calls
    ]
    return answers or [UserMessage(text=letter)]


def finished_turn(skeleton: Transcript, *, reasoning: bool) -> Transcript:
    """A finished turn, with a call and its answer if there are tools."""
    messages = (
        UserMessage(text=probe_text("question")),
        *_round(skeleton, CALL_ID, reasoning=reasoning),
        AssistantMessage(text=MARKER, reasoning=THOUGHT if reasoning else ""),
    )
    return replace(skeleton, messages=messages)


def reasoned(transcript: Transcript) -> bool:
    """Whether the model has reasoned since the user last spoke."""
    for message in reversed(transcript.messages):
        match message:
            case UserMessage():
                return False
            case AssistantMessage() if message.reasoning:
                return True
            case _:
                continue
    return False


def continues(before: str | list[int], after: str | list[int], *, reasoning: bool) -> bool:
    """Whether `after` begins with `before` up to the end of its last message's text."""
    if not isinstance(before, str) or not isinstance(after, str) or MARKER not in before:
        return False
    said = before[: before.find(MARKER) + len(MARKER)]
    return after.startswith(said) and (not reasoning or THOUGHT in said)


def chats(formats: Sequence[FormatT]) -> list[tuple[Transcript, FormatT]]:
    """A chat with each format in turn, then one without a system prompt, since some refuse one."""
    messages = (
        UserMessage(text=probe_text("question")),
        AssistantMessage(text=probe_text("said")),
        UserMessage(text=probe_text("next question")),
    )
    return [
        (Transcript(messages=messages, system_prompt=system), format_)
        for system in (probe_text("system"), "")
        for format_ in formats
    ]


def says_all(rendered: str, transcript: Transcript) -> bool:
    """Whether a rendering has each text, none of them as a printed list of parts."""
    texts = [transcript.system_prompt, *(message.text for message in transcript.messages)]
    return all(text in rendered and f"'text': '{text}" not in rendered for text in texts)


def _last(transcript: Transcript) -> AssistantMessage:
    last = transcript.messages[-1]
    assert isinstance(last, AssistantMessage), "a step ends with an assistant message"
    return last


def _round(skeleton: Transcript, call_id: str, *, reasoning: bool) -> list[Message]:
    """A call and its answer; nothing if there are no tools."""
    if not skeleton.tools:
        return []
    name = skeleton.tools[0].name
    call = ToolCall(call_id=call_id, tool_name=name, arguments_json="{}")
    thought = THOUGHT if reasoning else ""
    return [
        AssistantMessage(text="", reasoning=thought, tool_calls=(call,)),
        ToolMessage(call_id=call_id, tool_name=name, text=probe_text(f"answer {call_id}")),
    ]
