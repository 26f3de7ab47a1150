"""The engine as the rest of precall sees it: prompts are values, every step is one generation.

Owns: the protocol between the turn loop and whatever runs the model.
Never: conversations, admission, tools' handlers.

A `Prompt` is an immutable list of tokens. Within a turn it only grows: by the tokens that the
model sampled, then by what the template writes for the messages that follow. It depends on no
engine process, so it outlives a restart, and giving a turn up is dropping its prompt.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol

from precall_service.domain.json import JsonValue
from precall_service.domain.messages import Message, Transcript
from precall_service.domain.tools import ToolDeclaration
from precall_service.domain.turn import GenerationSettings, ToolChoice


class Feature(enum.Enum):
    """Something that a backend, with the model it serves, may or may not be able to do."""

    TOOL_CALLS = "tool calls"
    STRUCTURED_CALLS = "calls held to their schemas"
    REASONING = "reasoning told apart from text"


class EngineState(enum.Enum):
    """Where the engine stands."""

    STARTING = 1
    READY = 2
    RESTARTING = 3
    FAILED = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    """What a started engine is and how much it holds. Token counts are of one engine."""

    name: str
    model: str
    context_tokens_max: int
    sequences_max: int
    kv_tokens: int
    kv_block_tokens: int
    features: frozenset[Feature]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLoad:
    """What the engine does now, by its own count. `kv_usage` is a share from 0 to 1."""

    running: int
    waiting: int
    kv_usage: float


@dataclass(frozen=True, slots=True)
class Prompt:
    """The exact tokens that a step starts from."""

    token_ids: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.token_ids)


class Priority(enum.IntEnum):
    """Order of steps in the engine's own queue: smaller goes first."""

    CONTINUES_TURN = 0
    STARTS_TURN = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSpec:
    """How one step is generated. `step_id` names it in the engine, and is unique.

    What is cached for one tenant serves no other, unless the operator lets them share.
    `template_variables` are those that the prompt was rendered with: they decide, for one, whether
    there is reasoning to be looked for.
    """

    step_id: str
    max_tokens: int
    generation: GenerationSettings
    tools: tuple[ToolDeclaration, ...]
    tool_choice: ToolChoice
    priority: Priority
    tenant: str
    template_variables: Mapping[str, JsonValue] = field(
        default_factory=lambda: MappingProxyType({})
    )


@dataclass(frozen=True, slots=True)
class TextPiece:
    """Text of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class ReasoningPiece:
    """Text of the reasoning."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegun:
    """The model begins its `index`-th call of the step."""

    index: int
    tool_name: str


@dataclass(frozen=True, slots=True)
class CallPiece:
    """More of the arguments of the `index`-th call."""

    index: int
    json_fragment: str


@dataclass(frozen=True, slots=True)
class CallWritten:
    """The `index`-th call is complete: its pieces concatenate to JSON."""

    index: int


class Finish(enum.Enum):
    """Why a generation ended by itself."""

    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepEnd:
    """The last thing that a generation yields.

    `token_ids` are the sampled tokens, end token included; `raw_text` is their text without
    special tokens, as it stands in a transcript when a cut left a call unfinished.
    """

    finish: Finish
    token_ids: tuple[int, ...]
    raw_text: str
    cached_tokens: int
    reasoning_tokens: int = 0


Delta = TextPiece | ReasoningPiece | CallBegun | CallPiece | CallWritten | StepEnd


class EngineDiedError(Exception):
    """The engine's process is gone, and with it every generation that ran."""


class GenerationRefusedError(Exception):
    """The engine would not generate this; the message says why, in words for the client."""


class Engine(Protocol):
    """Runs one model. Every method may be used from any coroutine of one event loop."""

    @property
    def info(self) -> EngineInfo:
        """What the engine is and holds."""
        ...

    async def render(self, transcript: Transcript) -> Prompt:
        """The template's own rendering of a transcript, ready for the model's next message.

        Raises:
            GenerationRefusedError: the template refuses the transcript.
        """
        ...

    async def append(
        self,
        prompt: Prompt,
        end: StepEnd,
        transcript: Transcript,
        following: Sequence[Message],
    ) -> Prompt:
        """The prompt of the step after `end`, which was generated from `prompt`.

        `transcript` ends with the assistant message of that step; `following` are the messages
        after it. The tokens of `prompt` and `end` are kept as they are, with the template's
        delta after them; only where this model's template rewrites history when a user speaks
        again (drops earlier reasoning) is the whole rendered afresh.

        Raises:
            GenerationRefusedError: the template refuses the messages.
        """
        ...

    def generate(self, prompt: Prompt, spec: StepSpec) -> AsyncGenerator[Delta, None]:
        """The model's next message, piece by piece, ended by exactly one StepEnd.

        On cancel, or when the generator is closed early: the engine aborts the generation.

        Raises:
            EngineDiedError: the engine's process died.
            GenerationRefusedError: the engine refuses this prompt or these settings.
        """
        ...

    async def load(self) -> EngineLoad:
        """What the engine does now, asked of the engine itself.

        Raises:
            EngineDiedError: the engine's process died.
        """
        ...

    async def wait_dead(self) -> None:
        """Returns when the engine's process has died. On cancel: nothing happens."""
        ...

    async def close(self) -> None:
        """Ends the engine and its processes. Idempotent and bounded in time."""
        ...


Progress = Callable[[str, float | None], None]
"""Told what start-up is doing and how far it is (0 to 1, None: unknown)."""


class EngineFactory(Protocol):
    """Starts an engine; called again after a death."""

    async def __call__(self, on_progress: Progress) -> Engine:
        """A running engine.

        Raises:
            EngineStartError: it cannot start as configured.
            Exception: it did not start this time.
        """
        ...


class EngineStartError(Exception):
    """The engine cannot start as configured; the message says what to change."""
