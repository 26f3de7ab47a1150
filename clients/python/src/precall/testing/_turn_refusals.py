"""Refuses turns as a precall server does."""

from __future__ import annotations

from collections.abc import Sequence

from precall import _frames
from precall.testing._fields import (
    TOOL_NAME,
    check_count,
    check_text,
    content_text,
    invalid,
    not_served,
)
from precall.testing._status import RefusedError
from precall.v1 import agent_pb2, generation_pb2, turn_pb2

TURN_ID_BYTES_MAX = 128
STOP_TEXTS_MAX = 16
STOP_BYTES_MAX = 256

_PATH = "start_turn.generation"
_RANGES = {"temperature": (0, 2), "presence_penalty": (-2, 2), "frequency_penalty": (-2, 2)}


def check_turn(start: turn_pb2.StartTurn, limits: agent_pb2.ServerLimits) -> None:
    """Raises RefusedError if no server with these limits takes the fields of the turn."""
    size = len(start.turn_id.encode())
    if not 1 <= size <= TURN_ID_BYTES_MAX:
        problem = f"it must have 1 to {TURN_ID_BYTES_MAX} bytes, not {size}"
        raise invalid("start_turn.turn_id", problem)
    text = content_text("start_turn.content", start.content)
    check_text("start_turn.content", text, limits.text_bytes_max)
    if not text.strip():
        raise invalid("start_turn.content", "the user's message is empty")
    if start.while_running not in {
        turn_pb2.WHILE_RUNNING_UNSPECIFIED,
        turn_pb2.WHILE_RUNNING_REJECT,
    }:
        raise not_served("start_turn.while_running")
    _check_generation(start.generation, limits.turn_limits_max.max_turn_tokens)
    _check_limits(start.limits, limits.turn_limits_max)


def check_choice(choice: generation_pb2.ToolChoice, names: Sequence[str]) -> None:
    """Raises RefusedError if the turn has to call a tool that there is not."""
    path = f"{_PATH}.tool_choice"
    if choice.mode == generation_pb2.TOOL_CHOICE_MODE_NAMED and choice.tool_name not in names:
        text = f"no tool {choice.tool_name!r} is registered; tools: {', '.join(names) or 'none'}"
        raise RefusedError("TOOL_CHOICE_INVALID", text, f"{path}.tool_name")
    if choice.mode == generation_pb2.TOOL_CHOICE_MODE_REQUIRED and not names:
        text = "a call is required, but no tool is registered: register a tool first"
        raise RefusedError("TOOL_CHOICE_INVALID", text, f"{path}.mode")


def _check_generation(frame: generation_pb2.GenerationSettings, tokens_max: int) -> None:
    if frame.HasField("answer_format"):
        raise not_served(f"{_PATH}.answer_format")
    if frame.HasField("log_probabilities"):
        raise not_served(f"{_PATH}.log_probabilities")
    if frame.HasField("top_p") and not 0 < frame.top_p <= 1:
        raise invalid(f"{_PATH}.top_p", f"it must be above 0 and at most 1, not {frame.top_p:g}")
    if frame.HasField("top_k") and frame.top_k != -1 and frame.top_k < 1:
        raise invalid(f"{_PATH}.top_k", f"it must be -1 or at least 1, not {frame.top_k}")
    if frame.HasField("seed") and frame.seed < 0:
        raise invalid(f"{_PATH}.seed", f"it must be at least 0, not {frame.seed}")
    if frame.HasField("max_step_tokens"):
        _check_number(f"{_PATH}.max_step_tokens", frame.max_step_tokens, tokens_max)
    for name, (least, most) in _RANGES.items():
        value: float = getattr(frame, name)
        if frame.HasField(name) and not least <= value <= most:  # pyright: ignore[reportArgumentType]
            raise invalid(f"{_PATH}.{name}", f"it must be from {least} to {most}, not {value:g}")
    check_count(f"{_PATH}.stop", len(frame.stop), STOP_TEXTS_MAX, "texts")
    for index, text in enumerate(frame.stop):
        if not 1 <= len(text.encode()) <= STOP_BYTES_MAX:
            raise invalid(f"{_PATH}.stop[{index}]", f"it must have 1 to {STOP_BYTES_MAX} bytes")
    _check_choice_fields(frame.tool_choice)


def _check_choice_fields(choice: generation_pb2.ToolChoice) -> None:
    path = f"{_PATH}.tool_choice"
    if choice.allowed_tool_names:
        raise not_served(f"{path}.allowed_tool_names")
    if choice.HasField("max_parallel_calls"):
        raise not_served(f"{path}.max_parallel_calls")
    if choice.mode not in generation_pb2.ToolChoiceMode.values():
        raise invalid(f"{path}.mode", f"this server does not know the mode {choice.mode}")
    named = choice.mode == generation_pb2.TOOL_CHOICE_MODE_NAMED
    if named != bool(choice.tool_name):
        raise invalid(f"{path}.tool_name", "it must be set if the mode is NAMED, and only then")
    if choice.tool_name and not TOOL_NAME.fullmatch(choice.tool_name):
        raise invalid(f"{path}.tool_name", f"{choice.tool_name[:80]!r} is not a valid tool name")


def _check_limits(asked: turn_pb2.TurnLimits, most: turn_pb2.TurnLimits) -> None:
    path = "start_turn.limits"
    if asked.HasField("max_steps"):
        _check_number(f"{path}.max_steps", asked.max_steps, most.max_steps)
    if asked.HasField("max_turn_tokens"):
        _check_number(f"{path}.max_turn_tokens", asked.max_turn_tokens, most.max_turn_tokens)
    if asked.HasField("max_duration"):
        wanted_s, most_s = _frames.seconds(asked.max_duration), _frames.seconds(most.max_duration)
        if wanted_s <= 0 or (most_s and wanted_s > most_s):
            problem = f"it must be above 0 s and at most {most_s:g} s, not {wanted_s:g} s"
            raise invalid(f"{path}.max_duration", problem)


def _check_number(field: str, number: int, most: int) -> None:
    """Raises an error for a number below 1 or above a limit; a limit of 0 is none."""
    if number < 1 or (most and number > most):
        raise invalid(field, f"it must be from 1 to {most}, not {number}")
