"""Turns a client's generation settings into values; checks each field's range."""

from __future__ import annotations

from precall.v1 import generation_pb2
from precall_service.agent.limits import AgentLimits
from precall_service.domain.tools import TOOL_NAME
from precall_service.domain.turn import GenerationSettings, ToolChoice, ToolChoiceMode
from precall_service.tools.text import shorten
from precall_service.transport.fields import check_count, invalid
from precall_service.transport.statuses import not_served

STOP_TEXTS_MAX = 16
STOP_BYTES_MAX = 256
SEED_MAX = 2**63 - 1

_PATH = "start_turn.generation"


def generation_settings(
    frame: generation_pb2.GenerationSettings, limits: AgentLimits
) -> GenerationSettings:
    """Returns the settings; a field is None if the client leaves it to the model.

    Raises:
        ServiceError: FIELD_INVALID, TOO_LARGE or NOT_SERVED, naming the field.
    """
    if frame.HasField("answer_format"):
        raise not_served(f"{_PATH}.answer_format", "CAPABILITY_ANSWER_FORMAT")
    if frame.HasField("log_probabilities"):
        raise not_served(f"{_PATH}.log_probabilities", "CAPABILITY_LOG_PROBABILITIES")
    top_p = frame.top_p if frame.HasField("top_p") else None
    top_k = frame.top_k if frame.HasField("top_k") else None
    seed = frame.seed if frame.HasField("seed") else None
    max_step_tokens = frame.max_step_tokens if frame.HasField("max_step_tokens") else None
    most = limits.turn.max_turn_tokens
    if top_p is not None and not 0 < top_p <= 1:
        raise invalid(f"{_PATH}.top_p", f"it must be above 0 and at most 1, not {top_p:g}")
    if top_k is not None and top_k != -1 and top_k < 1:
        raise invalid(f"{_PATH}.top_k", f"it must be -1 (all tokens) or at least 1, not {top_k}")
    if seed is not None and not 0 <= seed <= SEED_MAX:
        raise invalid(f"{_PATH}.seed", f"it must be from 0 to {SEED_MAX}, not {seed}")
    if max_step_tokens is not None and not 1 <= max_step_tokens <= most:
        raise invalid(
            f"{_PATH}.max_step_tokens", f"it must be from 1 to {most}, not {max_step_tokens}"
        )
    return GenerationSettings(
        temperature=_number(frame, "temperature", 0, 2),
        top_p=top_p,
        top_k=top_k,
        seed=seed,
        presence_penalty=_number(frame, "presence_penalty", -2, 2),
        frequency_penalty=_number(frame, "frequency_penalty", -2, 2),
        max_step_tokens=max_step_tokens,
        stop=_stop_texts(frame),
        tool_choice=_tool_choice(frame.tool_choice),
    )


def _number(
    frame: generation_pb2.GenerationSettings, field: str, least: float, most: float
) -> float | None:
    if not frame.HasField(field):  # pyright: ignore[reportArgumentType] - named by its caller
        return None
    value: float = getattr(frame, field)
    if not least <= value <= most:  # true for NaN, too
        raise invalid(f"{_PATH}.{field}", f"it must be from {least:g} to {most:g}, not {value:g}")
    return value


def _stop_texts(frame: generation_pb2.GenerationSettings) -> tuple[str, ...]:
    stop = tuple(frame.stop)
    check_count(f"{_PATH}.stop", len(stop), STOP_TEXTS_MAX, "texts")
    for index, text in enumerate(stop):
        size = len(text.encode())
        if not 1 <= size <= STOP_BYTES_MAX:
            raise invalid(
                f"{_PATH}.stop[{index}]", f"it must have 1 to {STOP_BYTES_MAX} bytes, not {size}"
            )
    return stop


_MODES = {
    generation_pb2.TOOL_CHOICE_MODE_UNSPECIFIED: ToolChoiceMode.AUTO,
    generation_pb2.TOOL_CHOICE_MODE_AUTO: ToolChoiceMode.AUTO,
    generation_pb2.TOOL_CHOICE_MODE_NONE: ToolChoiceMode.NONE,
    generation_pb2.TOOL_CHOICE_MODE_REQUIRED: ToolChoiceMode.REQUIRED,
    generation_pb2.TOOL_CHOICE_MODE_NAMED: ToolChoiceMode.NAMED,
}


def _tool_choice(frame: generation_pb2.ToolChoice) -> ToolChoice:
    path = f"{_PATH}.tool_choice"
    if frame.allowed_tool_names:
        raise not_served(f"{path}.allowed_tool_names", "CAPABILITY_TOOL_SELECTION")
    if frame.HasField("max_parallel_calls"):
        raise not_served(f"{path}.max_parallel_calls", "CAPABILITY_TOOL_SELECTION")
    mode = _MODES.get(frame.mode)
    if mode is None:
        raise invalid(f"{path}.mode", f"this server does not know the mode {frame.mode}")
    if (mode is ToolChoiceMode.NAMED) != bool(frame.tool_name):
        raise invalid(f"{path}.tool_name", "it must be set if the mode is NAMED, and only then")
    if frame.tool_name and not TOOL_NAME.fullmatch(frame.tool_name):
        name = shorten(frame.tool_name, 80)
        raise invalid(f"{path}.tool_name", f"{name!r} is not a valid tool name")
    return ToolChoice(mode=mode, tool_name=frame.tool_name)
