"""The engine as the rest of precall sees it: prompts are values, and each step is one generation.

Owns: the protocol between the turn loop and the backend that runs the model.
Never: conversations, admission, tool handlers.

A `Prompt` is an immutable value, which only the backend that made it reads: tokens for an engine in
this process, messages for a server elsewhere. Within a turn it only grows: first by what the model
wrote, then by the messages that follow. A prompt belongs to no engine process. It therefore
survives a restart of the engine, and a turn is given up by dropping its prompt.

A backend may know its tokens, its context and its KV cache; what it does not know is None or empty.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol, TypeAlias

from precall_service.domain.errors import Reason, ServiceError
from precall_service.domain.events import LoosenedKeyword, TokenUsage
from precall_service.domain.json import JsonValue
from precall_service.domain.messages import Message, Transcript
from precall_service.domain.tools import ToolDeclaration
from precall_service.domain.turn import GenerationSettings, ToolChoice
from precall_service.engine.drafts import Draft, VerifiedDraft
from precall_service.engine.findings import NOTHING_FOUND, Findings


class Feature(enum.Enum):
    """A capability that a backend may or may not have with the model that it serves."""

    TOOL_CALLS = "tool calls"
    STRUCTURED_CALLS = "calls held to their schemas"
    REASONING = "reasoning told apart from text"
    BRANCHES = "branches off a step that reasons"
    DRAFTS = "predicted calls verified instead of generated"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    """A started engine's identity and capacity; None for a number that it does not know."""

    name: str
    model: str
    context_tokens_max: int | None
    sequences_max: int
    kv_tokens: int | None
    kv_block_tokens: int | None
    features: frozenset[Feature]
    device: str = ""
    """What the model runs on in this process, such as a CPU; empty for a server elsewhere."""
    findings: Findings = NOTHING_FOUND
    """What was proved of the model at the start, where something was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLoad:
    """The engine's load by its own count. `kv_usage` is a fraction from 0 to 1."""

    running: int
    waiting: int
    kv_usage: float


class Prompt(Protocol):
    """What a step starts from. Only the backend that made it reads it."""

    @property
    def tokens(self) -> int | None:
        """Its length in tokens; None if the backend does not know it."""
        ...


class Priority(enum.IntEnum):
    """The order of steps in the engine's own queue: the smaller value goes first."""

    CONTINUES_TURN = 0
    STARTS_TURN = 1
    SPECULATES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSpec:
    """How one step is generated.

    Attributes:
        step_id: Unique; names the step in the engine.
        tenant: The prefix cache of one tenant serves no other, unless the operator allows it.
        template_variables: The variables that the prompt was rendered with. Parsers read them too:
            they decide, for example, whether the model reasons.
        log_probabilities: Whether the chunks have the log probabilities of their tokens.
        drafts: The calls that the model is expected to write, the likeliest first.
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
    log_probabilities: bool = False
    drafts: tuple[Draft, ...] = ()


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
    """The model has begun the call of this index in the step, with an id if it writes ids."""

    index: int
    tool_name: str
    written_id: str = ""


@dataclass(frozen=True, slots=True)
class CallPiece:
    """More of the arguments of the call of this index."""

    index: int
    json_fragment: str


@dataclass(frozen=True, slots=True)
class CallWritten:
    """The call of this index is complete: its pieces concatenate to a JSON object."""

    index: int


@dataclass(frozen=True, slots=True)
class CallUnreadable:
    """The call of this index has ended, but its arguments cannot be told with certainty.

    It must not run. `problem` tells the model what to write otherwise.
    """

    index: int
    problem: str


Piece: TypeAlias = TextPiece | ReasoningPiece | CallBegun | CallPiece | CallWritten | CallUnreadable
"""Something that a parser has read from the sampled tokens."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """One output of the engine: the tokens just sampled, if it knows them, and what they complete.

    A chunk may have no pieces, since the parser holds back the start of a mark or of a character.
    Its pieces may therefore cover tokens of earlier chunks. A last chunk may have pieces only.

    If the step's spec asks for them, `log_probabilities` has the natural logarithm of each token's
    probability among the tokens that the grammar allows. If it allows one token only, that is 0.
    Temperature and the other settings of a generation do not count.
    """

    token_ids: tuple[int, ...]
    pieces: tuple[Piece, ...] = ()
    log_probabilities: tuple[float, ...] = ()


class Finish(enum.Enum):
    """Why a generation ended by itself."""

    STOP = "stop"
    LENGTH = "length"


class StrayCall(enum.Enum):
    """A call that the model meant to make, in a message from which none could be read."""

    OPEN = "the message ended inside a call"
    LOST = "what stood between the marks of a call was none"
    REASONING = "the call stood inside the reasoning"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepEnd:
    """The last item of a generation.

    `token_ids` are all sampled tokens, the end token included: those of the chunks, in order.
    `usage` counts the tokens of the prompt and those that were sampled.
    `drafted_tokens` were verified, whatever proposed them, and `accepted_tokens` of them were kept;
    `drafts` tells of the drafts among them. None of them are known of a step with `cut_after_call`.
    `raw_text` is their text without special tokens, which stands in the transcript if a limit has
    cut the step inside a call. `stop_text` is the stop text that ended it, if one did.
    `cut_after_call` says that the engine ended it, because the model began a second call and its
    template takes one. The tokens then have the beginning of that call, and the pieces have not.
    """

    finish: Finish
    token_ids: tuple[int, ...]
    raw_text: str
    usage: TokenUsage
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    drafts: tuple[VerifiedDraft, ...] = ()
    stop_text: str = ""
    stray_call: StrayCall | None = None
    cut_after_call: bool = False


StepStream: TypeAlias = AsyncGenerator[Chunk | StepEnd, None]
"""Chunks, then one StepEnd."""


class EngineDiedError(Exception):
    """The engine's process has died, and every generation that ran has died with it."""


class TemplateRefusedError(ServiceError):
    """The chat template refuses the client's messages, tools or template variables."""

    def __init__(self, message: str) -> None:
        super().__init__(Reason.TEMPLATE_REFUSED, message)


class GenerationRefusedError(ServiceError):
    """The engine refuses a step's prompt or settings, which the client chose."""

    def __init__(self, message: str, *, field: str = "") -> None:
        super().__init__(Reason.FIELD_INVALID, message, field=field)


class GenerationFailedError(ServiceError):
    """The engine lives but has given this generation up."""

    def __init__(self, message: str) -> None:
        super().__init__(Reason.ENGINE_FAILED, message)


class Engine(Protocol):
    """Runs one model. Every method may be called from any coroutine of one event loop."""

    @property
    def info(self) -> EngineInfo:
        """The engine's identity and capacity."""
        ...

    @property
    def progress(self) -> int:
        """A number that grows with each output and answer of the engine itself."""
        ...

    async def judge(
        self, tools: Sequence[ToolDeclaration], tenant: str
    ) -> Sequence[Sequence[LoosenedKeyword]]:
        """The keywords of each tool's input schema that do not bind the model, with the reasons.

        What costs much to hold is found here, in bounded time and memory, and not held. A
        generation judges its tools first if need be. Tenants take turns, and share no answer. None
        are returned if no schemas are held. On cancel: the engine goes on, and keeps its findings.
        """
        ...

    async def render(self, transcript: Transcript) -> Prompt:
        """The template's own rendering of a transcript, ready for the model's next message.

        On cancel: what is done in a thread goes on to its end, and its result is dropped.

        Raises:
            TemplateRefusedError: the template refuses the transcript.
            PromptTooLongError: it is much too long for the context window.
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
        after it. The tokens of `prompt` and `end` are kept as they are, and the template's delta
        follows them. The whole transcript is rendered afresh only if the model's template
        rewrites history once a user speaks again, for example drops earlier reasoning.

        On cancel: as with `render`.

        Raises:
            TemplateRefusedError: the template refuses the messages.
            PromptTooLongError: as with `render`.
        """
        ...

    async def branch(
        self, prompt: Prompt, token_ids: Sequence[int], spec: StepSpec
    ) -> Prompt | None:
        """The prompt of a branch off a step in progress that skips the rest of its reasoning.

        `token_ids` are the tokens that the step has sampled from `prompt` so far, and `spec` is
        the step's. The branch continues them with the tokens that the template writes from the
        reasoning to where a call may begin, which is only certain if the spec of its generation
        requires one. If no token has been sampled, it skips the reasoning as a whole.

        Returns None if there is no reasoning to skip: the model does not reason with these
        template variables, has ended its reasoning, or has a template whose form is not known.

        Raises:
            GenerationRefusedError: the engine refuses the tools or the template variables.
        """
        ...

    async def draft(self, spec: StepSpec, drafts: Sequence[Draft]) -> None:
        """Has calls verified in a step in progress, as soon as the model begins to write them.

        `spec` is the step's; the likeliest draft comes first. Does nothing if the step has ended,
        or without `Feature.DRAFTS`. On cancel: the drafts may be staged nevertheless.

        Raises:
            EngineDiedError: the engine's process has died.
        """
        ...

    def generate(self, prompt: Prompt, spec: StepSpec) -> StepStream:
        """The model's next message, chunk by chunk, ended by exactly one StepEnd.

        The tokens of the chunks concatenate to `StepEnd.token_ids`. A reader therefore knows at
        any moment the exact tokens that were sampled so far, and may branch off in mid-step.

        On cancel, or if the generator is closed early: the engine aborts the generation.

        Raises:
            EngineDiedError: the engine's process has died.
            GenerationRefusedError: the engine refuses this prompt or these settings.
            GenerationFailedError: the engine lives but has given this generation up.
        """
        ...

    async def load(self) -> EngineLoad:
        """The engine's load, asked of the engine itself.

        Raises:
            EngineDiedError: the engine's process has died.
        """
        ...

    async def wait_dead(self) -> None:
        """Returns once the engine's process has died. On cancel: nothing happens."""
        ...

    async def cause_of_death(self) -> str:
        """How the process of an engine that has died ended, for a log. Bounded in time."""
        ...

    async def kill(self) -> None:
        """Ends an engine that hangs: what waits for it raises EngineDiedError. Idempotent."""
        ...

    async def close(self) -> None:
        """Ends the engine and its processes. Idempotent and bounded in time."""
        ...


Progress = Callable[[str, float | None], None]
"""Receives the stage of a start and how far the stage is: a fraction, or None if unknown."""


class EngineFactory(Protocol):
    """Starts an engine. It is called again after each death."""

    async def __call__(self, on_progress: Progress) -> Engine:
        """Starts an engine and returns it.

        Raises:
            EngineStartError: the engine cannot start as configured.
            Exception: the engine did not start this time.
        """
        ...


class EngineStartError(Exception):
    """The engine cannot start as configured; the message says what to change."""


class EngineNotReachedError(EngineStartError):
    """The engine cannot be reached now. The same start may succeed later."""
