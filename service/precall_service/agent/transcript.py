"""The transcript of a conversation while a turn adds to it: messages, and their exact tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from precall_service.agent.held_bytes import (
    TOKEN_BYTES,
    Holding,
    Part,
    message_size,
    messages_size,
)
from precall_service.agent.step import Step
from precall_service.domain.messages import (
    AssistantMessage,
    Message,
    ToolCall,
    ToolMessage,
    Transcript,
    UserMessage,
    characters,
)
from precall_service.engine.base import Engine, Prompt, StepEnd
from precall_service.engine.prompt_length import PromptTooLongError


@dataclass(frozen=True, slots=True, kw_only=True)
class Tail:
    """A transcript with its exact tokens, to which the next prompt can be appended."""

    transcript: Transcript
    prompt: Prompt
    end: StepEnd

    @property
    def size(self) -> int:
        """The bytes of the tokens."""
        return TOKEN_BYTES * ((self.prompt.tokens or 0) + len(self.end.token_ids))


class TurnTranscript:
    """The transcript of a conversation while a turn adds to it."""

    def __init__(self, before: Transcript, tail: Tail | None, text: str, holding: Holding) -> None:
        self._before = before
        self._tail = tail
        self._holding = holding
        self._messages: list[Message] = [UserMessage(text=text)]
        holding.set(Part.TURN, messages_size(self._messages))
        self._answers: dict[str, ToolMessage] = {}
        self.text = ""
        """The text of the last step, as far as it was sent to the client."""

    @property
    def tail(self) -> Tail | None:
        """The tokens up to the last step's end; None if the next prompt must be rendered whole."""
        return self._tail

    @property
    def unanswered(self) -> tuple[ToolCall, ...]:
        """The calls of the last step that have no answer yet."""
        return tuple(call for call in self._calls() if call.call_id not in self._answers)

    def current(self) -> Transcript:
        """Returns the whole transcript so far."""
        return replace(self._before, messages=self._before.messages + tuple(self._messages))

    def characters(self) -> int:
        """Returns how long the text is that the next prompt is made of, as far as is known.

        The first prompt of a turn is made of the whole transcript, unless its engine can append to
        the last one. A further prompt is made of the answers to the last step's calls.
        """
        if self._answers:
            return characters(self._answers.values())
        before = len(self._before.system_prompt) + characters(self._before.messages)
        return before + characters(self._messages)

    async def first_prompt(self, engine: Engine) -> Prompt:
        """Returns the turn's first prompt.

        It is appended to the last turn's tokens if they still match the transcript; otherwise the
        whole transcript is rendered.
        """
        tail = self._tail
        if tail is not None and tail.transcript.tools == self._before.tools:
            return await engine.append(tail.prompt, tail.end, tail.transcript, self._messages)
        return await engine.render(self.current())

    def keep_step(self, prompt: Prompt, step: Step) -> None:
        """Adds a step that was not aborted."""
        self._messages.append(step.message)
        self._answers.clear()
        self.text = step.text
        self._tail = Tail(transcript=self.current(), prompt=prompt, end=step.end)
        self._holding.add(Part.TURN, message_size(step.message))
        self._holding.set(Part.TOKENS, self._tail.size)

    def keep_cut_step(self, text: str) -> None:
        """Adds an aborted step: its text, but not its calls."""
        self.text = text
        self._messages.append(AssistantMessage(text=text))
        self._answers.clear()
        self._tail = None

    def keep_answer(self, call: ToolCall, text: str) -> None:
        """Keeps the answer to a call of the last step."""
        answer = ToolMessage(call_id=call.call_id, tool_name=call.tool_name, text=text)
        self._answers[call.call_id] = answer
        self._holding.add(Part.TURN, message_size(answer))

    async def continued_prompt(self, engine: Engine) -> Prompt:
        """Adds the answers to the last step's calls in call order; returns the prompt with them.

        Raises:
            PromptTooLongError: the engine refuses the prompt. The answers were added.
        """
        assert self._tail is not None
        answers = self._answers_in_order()
        try:
            prompt = await engine.append(
                self._tail.prompt, self._tail.end, self._tail.transcript, answers
            )
        except PromptTooLongError:
            self._add(answers)
            raise
        self._add(answers)
        return prompt

    def replace_answers(self, text: str) -> None:
        """Replaces the text of the answers that `continued_prompt` added last."""
        for index in range(len(self._messages) - 1, 0, -1):
            message = self._messages[index]
            if not isinstance(message, ToolMessage):
                return
            self._messages[index] = replace(message, text=text)

    def close(self) -> tuple[Message, ...]:
        """Returns the messages that the turn adds to the conversation; all calls are answered.

        They end with an assistant message even if the turn ended early, because many templates
        require that user and assistant alternate.
        """
        self._messages += self._answers_in_order()
        if not isinstance(self._messages[-1], AssistantMessage):
            self._messages.append(AssistantMessage(text=""))
            self._tail = None
        return tuple(self._messages)

    def _add(self, answers: Sequence[ToolMessage]) -> None:
        self._messages += answers
        self._answers.clear()

    def _calls(self) -> tuple[ToolCall, ...]:
        last = self._messages[-1]
        return last.tool_calls if isinstance(last, AssistantMessage) else ()

    def _answers_in_order(self) -> Sequence[ToolMessage]:
        return [self._answers[call.call_id] for call in self._calls()]
