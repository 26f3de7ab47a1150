"""Turns of a client with tools that only wait, and their times as the client sees them.

Owns: the tools of the leaderboard's prompts, and what is noted of a turn.
Times are read from the clock of the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

import pydantic

import precall
from bench.bfcl_prompts import TOOL_TIMEOUT_S, ToolPrompt
from bench.tool_calls import Call
from precall._signature import Signature
from precall_service.domain.tools import ToolDeclaration

THINKS: Mapping[str, pydantic.JsonValue] = {"enable_thinking": True}
FORK = precall.Speculation("on", predictors=["fork"], events=True)
"""Early runs, and drafts if the engine verifies any."""
EARLY_RUNS = precall.Speculation("on", predictors=["fork"], events=True, verify_drafts=False)
OFF = precall.Speculation("off")


class _AnyArguments(pydantic.BaseModel):
    """The server has checked the arguments already."""


@dataclass(slots=True)
class TurnTimes:
    """What the client saw of a turn. The first step is the one whose calls are predicted."""

    began_at: float = 0.0
    """The first step began."""
    written_at: float = 0.0
    """The first step was complete, so its calls are known."""
    next_at: float = 0.0
    """The second step began, so the results of the calls were there."""
    ended_at: float = 0.0
    calls_by_step: list[list[Call]] = field(default_factory=list[list[Call]])
    started_at: dict[str, float] = field(default_factory=dict[str, float])
    """When the handler of each confirmed prediction of the first step was started."""
    tokens: int = 0
    """The tokens that the model generated, without branches."""
    texts: list[str] = field(default_factory=list[str])
    """What the model wrote."""
    predictions: int = 0
    late: int = 0
    """The predictions of calls that the model made, but for which nothing ran early."""
    waits_s: float = 0.0
    """How long the turn waited for the results of all steps."""
    _written_at: float = 0.0
    _launched_at: dict[str, float] = field(default_factory=dict[str, float])

    @property
    def calls(self) -> list[Call]:
        """The calls of the first step."""
        return self.calls_by_step[0] if self.calls_by_step else []

    @property
    def generation_s(self) -> float:
        return self.written_at - self.began_at

    @property
    def waited_s(self) -> float:
        """How long the turn waited for the results of the first step's calls."""
        return self.next_at - self.written_at

    @property
    def to_next_step_s(self) -> float:
        """The time from the first step to the second: a step and its tools."""
        return self.next_at - self.began_at

    @property
    def generated_s(self) -> float:
        """The time from the start of the first step to the end of the turn, without the waits."""
        return self.ended_at - self.began_at - self.waits_s

    @property
    def hits(self) -> int:
        """How many calls of the first step were answered by an early run."""
        return len(self.started_at)

    @property
    def prediction_s(self) -> float | None:
        """From the start of the first step to the last of its confirmed early runs, if any."""
        return max(self.started_at.values()) - self.began_at if self.started_at else None

    def note(self, event: precall.Event, now: float) -> None:
        """Notes an event of the turn."""
        match event:
            case precall.StepStarted(step):
                self.calls_by_step.append([])
                if step == 0:
                    self.began_at = now
                else:
                    self.waits_s += now - self._written_at
                    self.next_at = self.next_at or now
            case precall.StepCompleted(step, _, usage):
                self.tokens += usage.output_tokens
                self._written_at = now
                if step == 0:
                    self.written_at = now
            case precall.ReasoningDelta(text) | precall.TextDelta(text):
                self.texts.append(text)
            case precall.ToolCallReady(_, tool_name, arguments_json):
                self.texts.append(arguments_json)
                self.calls_by_step[-1].append(Call.read(tool_name, arguments_json))
            case precall.TurnCompleted():
                self.ended_at = now
            case _:
                self._note_prediction(event, now)

    def _note_prediction(self, event: precall.Event, now: float) -> None:
        match event:
            case precall.PredictionProposed():
                self.predictions += 1
            case precall.PredictionLaunched(prediction_id):
                self._launched_at[prediction_id] = now
            case precall.PredictionConfirmed(prediction_id, call_id) if not self.next_at:
                if prediction_id in self._launched_at:
                    self.started_at[call_id] = self._launched_at[prediction_id]
            case precall.PredictionDiscarded(call_id=call_id) if call_id and not self.next_at:
                self.late += 1
            case _:
                pass


async def run_turn(
    client: precall.Client,
    prompt: ToolPrompt,
    *,
    tool_s: float,
    speculation: precall.Speculation,
    whole: bool = False,
    step_tokens_max: int = 256,
) -> TurnTimes:
    """Runs a turn in a new conversation; if not `whole`, only until its second step begins.

    The model must call a tool in the first step.
    """
    times = TurnTimes()
    loop = asyncio.get_running_loop()
    conversation = client.conversation(
        tools=[waiting_tool(tool, tool_s) for tool in prompt.tools],
        template_variables=THINKS,
        speculation=speculation,
    )
    async with conversation:
        turn = conversation.send(
            prompt.text,
            temperature=0.0,
            tool_choice="required",
            max_steps=4,
            max_step_tokens=step_tokens_max,
        )
        async for event in turn:
            times.note(event, loop.time())
            if times.next_at and not whole:
                break
    return times


def waiting_tool(declared: ToolDeclaration, tool_s: float) -> precall.Tool:
    """Returns a tool that takes a time, and may run early."""

    async def wait() -> str:
        await asyncio.sleep(tool_s)
        return f"{declared.name} has been done."

    return precall.Tool(
        name=declared.name,
        description=declared.description,
        input_schema=cast("dict[str, pydantic.JsonValue]", declared.input_schema),
        options={"read_only": True, "speculation_safe": True, "timeout_s": TOOL_TIMEOUT_S},
        function=wait,
        signature=Signature(
            description="",
            input_schema={},
            arguments=_AnyArguments,
            python_defaults=frozenset(),
            context_parameter=None,
        ),
    )
