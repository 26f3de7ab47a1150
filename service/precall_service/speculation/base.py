"""What a predictor sees of a turn, and what it proposes.

Owns: the protocol between the agent, which knows the turn, and the predictors.
Never: decides whether a proposed call runs early (`policy` does), or runs it (the agent does).
"""

from __future__ import annotations

import enum
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from precall_service.domain.events import Predictor as PredictorName
from precall_service.domain.json import JsonObject
from precall_service.domain.tools import ToolDeclaration


class Moment(enum.Enum):
    """When predictors are asked."""

    STEP_BEGAN = "step began"
    """A step begins, and the model has not written anything yet."""
    REASONED = "reasoned"
    """The model has reasoned further."""
    CALL_WRITTEN = "call written"
    """The model has written a whole call, but not yet the whole message."""
    RESULT_READY = "result ready"
    """The result of a predicted call is ready: which call would follow it?"""


@dataclass(frozen=True, slots=True, kw_only=True)
class PastCall:
    """A call and its result. `result_json` is None if there is no result (yet), or an error."""

    tool_name: str
    arguments: JsonObject
    result_json: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A call that a branch of the model wrote, with the probability of exactly this call."""

    tool_name: str
    arguments_json: str
    probability: float


Branch = Callable[[float, int], AsyncGenerator[Candidate, None]]
"""Branches off the running step, skips the rest of the reasoning, and yields the calls that the
model then writes. Its arguments are the temperature and the most calls to write. It yields nothing
if the engine has no room. When it is closed or cancelled, the engine aborts the branch."""


@dataclass(frozen=True, slots=True)
class SampledCall:
    """A call in a message of the draft model, as the name of a tool and a JSON object.

    `sample` is the number of the message. `call` is None when that message has no more of them.
    """

    sample: int
    call: tuple[str, str] | None


Samples = Callable[[int], AsyncGenerator[SampledCall, None]]
"""Has the draft model write the step's message so many times, side by side. Yields each call when
it is complete, and the end of each message, also of one that failed or took too long. There are
fewer messages if the draft model is busy. When it is closed or cancelled, the draft model stops."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """Where a turn stands at one moment.

    Attributes:
        text: The user's message.
        tools: The tools of the turn by name, with their current declarations.
        calls: The turn's calls until now, oldest first. With RESULT_READY, they are followed by the
            predicted calls that lead to the one whose result is ready.
        earlier: The calls of the conversation's earlier turns, oldest first; bounded.
        written: The calls that the model has written in this step, in order.
        depth: How many calls ahead of the model a proposal is; 1 is its next call.
        reasoning_tokens: The number of tokens that the model has reasoned in this step.
        confidence: The highest confidence of the predictor's proposals for this step so far.
        branch: Branches off the step; None if this is not possible at this moment.
        samples: Asks the draft model for the step's message; None if this is not possible.
    """

    tenant: str
    conversation_id: str
    turn_id: str
    moment: Moment
    step: int
    text: str
    tools: Mapping[str, ToolDeclaration]
    calls: tuple[PastCall, ...] = ()
    earlier: tuple[PastCall, ...] = ()
    written: tuple[PastCall, ...] = ()
    depth: int = 1
    reasoning_tokens: int = 0
    confidence: float = 0.0
    branch: Branch | None = field(default=None, compare=False)
    samples: Samples | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A call that the model is expected to make.

    `confidence` is the predictor's own estimate of its probability, from 0 to 1.
    """

    tool_name: str
    arguments_json: str
    confidence: float


class Predictor(Protocol):
    """Proposes calls. One predictor serves all turns of the process, on one event loop.

    Whatever it does, it cannot hurt a turn: exceptions are logged and counted, proposals above the
    budget are ignored, and slow proposals come to nothing.
    """

    @property
    def name(self) -> PredictorName:
        """The name that settings, events and statistics use."""
        ...

    @property
    def moments(self) -> frozenset[Moment]:
        """The moments at which it wants to be asked."""
        ...

    def propose(self, situation: Situation) -> AsyncGenerator[Proposal, None]:
        """Yields proposals, the most probable one first.

        It must not block the event loop: a proposal that needs no engine takes at most a
        millisecond. On cancel, or if the generator is closed: everything that it started ends.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """What the model has done in a step, and what came before it.

    `calls` are the calls of the step, in order, each with its result if it has one. Without calls,
    the model has answered. `before` is the situation in which the step began.
    """

    before: Situation
    calls: tuple[PastCall, ...]


class Learner(Protocol):
    """A predictor that learns from the calls that the model makes."""

    def learn(self, lesson: Lesson) -> None:
        """Learns from a step. Must not raise or wait."""
        ...
