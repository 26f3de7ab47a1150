"""The chat template and the tokenizer of the scripted engine. Each character is a token."""

from __future__ import annotations

from collections.abc import Iterable

from precall_service.domain.messages import (
    AssistantMessage,
    Message,
    ToolMessage,
    Transcript,
    UserMessage,
)
from precall_service.engine.vllm.token_prompt import TokenPrompt

# Special tokens: characters of Unicode's private use area, which no test text contains.
END = "\U000f0000"
_SYSTEM, _USER, MODEL, _TOOL = (chr(0xF0001 + number) for number in range(4))
_READABLE = str.maketrans(
    {END: "\n", _SYSTEM: "<system>", _USER: "<user>", MODEL: "<model>", _TOOL: "<tool>"}
)

THINK, THINK_END = "<think>", "</think>"
CALL_END = "</call>"


def call_head(tool_name: str) -> str:
    """The text before a call's arguments."""
    return f"<call {tool_name}>"


def tokens(text: str) -> tuple[int, ...]:
    """The tokens of a text."""
    return tuple(map(ord, text))


def prompt_text(prompt: TokenPrompt) -> str:
    """A prompt as readable text, one line for each message."""
    return "".join(map(chr, prompt.token_ids)).translate(_READABLE)


def end_of_reasoning(text: str) -> str | None:
    """The text that ends the reasoning of a step that has written `text`; None if none is open."""
    if not text:
        return f"{THINK}{THINK_END}"
    return THINK_END if text.startswith(THINK) and THINK_END not in text else None


def transcript_text(transcript: Transcript) -> str:
    """The rendering of a transcript, ready for the model's next message."""
    head = ""
    if transcript.system_prompt or transcript.tools:
        names = ", ".join(tool.name for tool in transcript.tools)
        head = f"{_SYSTEM}{transcript.system_prompt} tools: {names}{END}"
    return f"{head}{messages_text(transcript.messages)}{MODEL}"


def messages_text(messages: Iterable[Message]) -> str:
    """The rendering of messages."""
    return "".join(map(_message_text, messages))


def _message_text(message: Message) -> str:
    match message:
        case UserMessage():
            return f"{_USER}{message.text}{END}"
        case ToolMessage():
            return f"{_TOOL}{message.tool_name}: {message.text}{END}"
        case AssistantMessage():
            return f"{MODEL}{_assistant_text(message)}{END}"


def _assistant_text(message: AssistantMessage) -> str:
    reasoning = f"{THINK}{message.reasoning}{THINK_END}" if message.reasoning else ""
    calls = (
        f"{call_head(call.tool_name)}{call.arguments_json}{CALL_END}" for call in message.tool_calls
    )
    return f"{reasoning}{message.text}{''.join(calls)}"
