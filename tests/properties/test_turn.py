"""For any output of a model, a prompt is the previous one, the sampled tokens and the answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from precall_service.domain.events import Invoke, TurnOutcome
from precall_service.domain.messages import Message, Transcript
from precall_service.domain.turn import GenerationSettings, TurnLimits
from precall_service.engine.base import Finish, Prompt, StepEnd, StepSpec
from precall_service.engine.vllm.token_prompt import TokenPrompt
from precall_service.tools.link import HandlerResult
from tests.support import scripted_template as template
from tests.support.agent import WEATHER, Client, agent_on
from tests.support.client_events import text_of
from tests.support.clock import settle
from tests.support.scripted_engine import ScriptedEngine
from tests.support.scripts import Item, Piece, StepWriter, calls, says, thinks

LIMITS = TurnLimits(max_steps=20, max_turn_tokens=100_000, max_duration_s=60.0)
TEXT = st.text("ab é\n{}<", max_size=6)


@dataclass(frozen=True)
class Said:
    """The output of one step: reasoning, text and calls, in this order."""

    thought: str
    text: str
    cities: tuple[str, ...]

    @property
    def items(self) -> list[Item]:
        arguments = [("weather", json.dumps({"city": city})) for city in self.cities]
        thought = thinks(self.thought) if self.thought else []
        return thought + (says(self.text) if self.text else []) + calls(*arguments)

    def written(self, max_tokens: int) -> StepWriter:
        """The part of the step that the engine writes under a limit."""
        writer = StepWriter(max_tokens)
        for item in self.items:
            assert isinstance(item, Piece)
            if not writer.full:
                writer.write(item)
        return writer


@dataclass(frozen=True)
class Asked:
    """One turn: its text, its steps (the last step makes no calls), and a limit for each step."""

    text: str
    steps: tuple[Said, ...]
    max_tokens: int


ANSWER = st.builds(Said, TEXT, TEXT, st.just(()))
CALLING = st.builds(Said, TEXT, TEXT, st.lists(TEXT, min_size=1, max_size=3).map(tuple))
STEPS = st.tuples(st.lists(CALLING, max_size=3), ANSWER).map(lambda steps: (*steps[0], steps[1]))
MAX_TOKENS = st.one_of(st.just(1000), st.integers(1, 120))
TURN = st.builds(Asked, TEXT, STEPS, MAX_TOKENS)


class CheckedEngine(ScriptedEngine):
    """Checks that each appended prompt equals the rendering of its whole transcript.

    The check is skipped if the model did not write the template's form: for example, a limit can
    cut a thought, which then stays open.
    """

    def __init__(self) -> None:
        super().__init__(self._next_step)
        self.steps: list[Said] = []
        self.appended = 0
        self.canonical = True

    def _next_step(self, prompt: TokenPrompt, spec: StepSpec) -> list[Item]:
        return self.steps.pop(0).items

    async def append(
        self,
        prompt: Prompt,
        end: StepEnd,
        transcript: Transcript,
        following: Sequence[Message],
    ) -> TokenPrompt:
        appended = await super().append(prompt, end, transcript, following)
        whole = replace(transcript, messages=(*transcript.messages, *following))
        said = template.messages_text(transcript.messages[-1:])
        sampled = f"{template.MODEL}{end.raw_text}{template.END}"
        self.canonical = self.canonical and said == sampled
        if self.canonical:
            assert appended == await self.render(whole)
        self.appended += 1
        return appended


class Oracle:
    """The expected prompts as text, built only from the texts of the conversation."""

    def __init__(self, system: str) -> None:
        self.so_far = system
        self.prompts: list[str] = []
        self._results = 0

    def turn(self, asked: Asked) -> tuple[TurnOutcome, str]:
        """Adds a turn; returns its outcome, and the text that the client sees."""
        self.so_far += f"<user>{asked.text}\n"
        streamed = ""
        for said in asked.steps:
            self.so_far += "<model>"
            self.prompts.append(self.so_far)
            writer = said.written(asked.max_tokens)
            self.so_far += template.prompt_text(TokenPrompt(template.tokens(writer.text))) + "\n"
            streamed += said.text[: _room_for_text(said, asked.max_tokens)]
            if writer.finish is Finish.LENGTH:
                return TurnOutcome.LIMIT, streamed
            for _ in said.cities:
                self.so_far += f"<tool>weather: {self._results}\n"
                self._results += 1
        return TurnOutcome.ANSWERED, streamed


def _room_for_text(said: Said, max_tokens: int) -> int:
    thought = f"{template.THINK}{said.thought}{template.THINK_END}" if said.thought else ""
    return max(0, max_tokens - len(thought))


async def _answer_all(client: Client, order: st.DataObject, answered: int) -> int:
    """Answers the client's open invocations in any order; returns the number answered so far."""
    while len(invocations := client.of(Invoke)) > answered:
        waiting = list(enumerate(invocations))[answered:]
        for index, invocation in order.draw(st.permutations(waiting)):
            await client.conversation.deliver(invocation.invocation_id, HandlerResult(str(index)))
            await settle()
        answered = len(invocations)
    return answered


@settings(max_examples=60)
@given(st.lists(TURN, min_size=1, max_size=4), st.sampled_from(["", "Be brief."]), st.data())
def test_prompts_are_exact_to_the_token(
    turns: list[Asked], system: str, order: st.DataObject
) -> None:
    async def converse() -> None:
        engine = CheckedEngine()
        oracle = Oracle(f"<system>{system} tools: weather\n")
        async with agent_on(engine) as there:
            client = there.open(WEATHER, system_prompt=system)
            answered = 0
            for number, asked in enumerate(turns):
                engine.steps = list(asked.steps)
                told = len(client.events)
                await client.send(
                    asked.text,
                    turn_id=f"turn-{number}",
                    generation=GenerationSettings(max_step_tokens=asked.max_tokens),
                    limits=LIMITS,
                )
                answered = await _answer_all(client, order, answered)
                outcome, streamed = oracle.turn(asked)
                assert client.ending(f"turn-{number}").outcome is outcome
                assert text_of(client.events[told:]) == streamed
            assert [template.prompt_text(prompt) for prompt in engine.prompts] == oracle.prompts
            assert engine.appended == len(engine.prompts) - 1, "only the first is rendered"

    asyncio.run(converse())
