"""The service on the real engine, and direct use of that engine's AsyncLLM in the same process.

Owns: what only a bench may ask for: bare generations, times, forced calls.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, cast

from bench.process import Link, run_child
from precall_service import app
from precall_service.agent.account import Happening, Sampled, TurnAccount
from precall_service.agent.conversation import Conversation
from precall_service.cli.launch import engine_config
from precall_service.domain.events import LoosenedKeyword
from precall_service.domain.json import JsonObject
from precall_service.domain.messages import Message, Transcript
from precall_service.domain.tools import ToolDeclaration
from precall_service.domain.turn import ToolChoice, ToolChoiceMode
from precall_service.engine.base import (
    Engine,
    EngineInfo,
    EngineLoad,
    Progress,
    Prompt,
    StepEnd,
    StepSpec,
    StepStream,
)
from precall_service.engine.drafts import Draft
from precall_service.engine.models import resolve_model
from precall_service.engine.vllm.factory import VllmEngineFactory
from precall_service.settings import load_settings
from precall_service.tools.link import HandlerAnswer

TICK_S = 0.001
"""How often the event loop is watched."""


class ForcedCalls:
    """An engine whose turns make a fixed number of calls: one in each step, none in the last step.

    A model of 135M parameters stops calling at unpredictable steps, which would make the two arms
    incomparable. In the other arm the client fixes the calls with `tool_choice` in each request.
    """

    def __init__(self, engine: Engine, calls: int) -> None:
        self._engine = engine
        self._calls = calls
        self._made: dict[str, int] = {}

    @property
    def info(self) -> EngineInfo:
        return self._engine.info

    @property
    def progress(self) -> int:
        return self._engine.progress

    async def judge(
        self, tools: Sequence[ToolDeclaration], tenant: str
    ) -> Sequence[Sequence[LoosenedKeyword]]:
        return await self._engine.judge(tools, tenant)

    async def render(self, transcript: Transcript) -> Prompt:
        return await self._engine.render(transcript)

    async def append(
        self, prompt: Prompt, end: StepEnd, transcript: Transcript, following: Sequence[Message]
    ) -> Prompt:
        return await self._engine.append(prompt, end, transcript, following)

    async def branch(
        self, prompt: Prompt, token_ids: Sequence[int], spec: StepSpec
    ) -> Prompt | None:
        return await self._engine.branch(prompt, token_ids, spec)

    async def draft(self, spec: StepSpec, drafts: Sequence[Draft]) -> None:
        await self._engine.draft(spec, drafts)

    def generate(self, prompt: Prompt, spec: StepSpec) -> StepStream:
        conversation_id = spec.step_id.rpartition("-")[0]
        made = self._made.get(conversation_id, 0)
        if made < self._calls and spec.tools:
            self._made[conversation_id] = made + 1
            choice = ToolChoice(mode=ToolChoiceMode.NAMED, tool_name=spec.tools[0].name)
        else:
            self._made.pop(conversation_id, None)
            choice = ToolChoice(mode=ToolChoiceMode.NONE)
        return self._engine.generate(prompt, replace(spec, tool_choice=choice))

    async def load(self) -> EngineLoad:
        return await self._engine.load()

    async def wait_dead(self) -> None:
        await self._engine.wait_dead()

    async def cause_of_death(self) -> str:
        return await self._engine.cause_of_death()

    async def kill(self) -> None:
        await self._engine.kill()

    async def close(self) -> None:
        await self._engine.close()


class Bare:
    """Direct use of the AsyncLLM of the service's engine."""

    def __init__(self, llm: Any) -> None:
        from bench.arms.recorder import Generation, Recorder

        self._llm = llm
        self._recorder = Recorder()
        self._kept: list[Generation] = []
        self._ids = itertools.count()

    async def generations(self, _fields: JsonObject) -> JsonObject:
        """The service's generations since the last call; kept for `repeat` and `continued`."""
        self._kept = self._recorder.take()
        return {"generations": [note.as_json() for note in self._kept]}

    async def record(self, fields: JsonObject) -> JsonObject:
        """Switches the recording of generations on or off."""
        self._recorder.recording = bool(fields["on"])
        return {}

    async def repeat(self, _fields: JsonObject) -> JsonObject:
        """Repeats the kept generations, all at once; returns the seconds and the token count."""
        gc.collect()
        began = time.perf_counter()
        counts = await asyncio.gather(
            *(self._generate(note.prompt_token_ids, note.params) for note in self._kept)
        )
        return {"seconds": time.perf_counter() - began, "tokens": sum(n for n, _, _ in counts)}

    async def continued(self, _fields: JsonObject) -> JsonObject:
        """Repeats the last kept step as a bare request; returns the seconds to its first token.

        First puts the prefix that the service had in the cache there again, under a new salt, so
        that the request shares no cached block with the service.
        """
        first, second = self._kept[-2:]
        salt = f"bare-{next(self._ids)}"
        before = first.prompt_token_ids + first.token_ids[:-1]
        brief = second.params.clone()
        brief.max_tokens, brief.structured_outputs = 1, None
        await self._generate(before, brief, salt)
        _, first_s, cached = await self._generate(second.prompt_token_ids, second.params, salt)
        return {"first_token_s": first_s, "cached_tokens": cached}

    async def generate(self, fields: JsonObject) -> JsonObject:
        """Generates greedily from these prompts, all at once, each to a fixed length."""
        from vllm.sampling_params import RequestOutputKind, SamplingParams

        params = SamplingParams(
            temperature=0.0,
            max_tokens=int(str(fields["tokens"])),
            ignore_eos=True,
            output_kind=RequestOutputKind.DELTA,
        )
        prompts = cast(list[list[int]], fields["prompts"])
        began = time.perf_counter()
        ended = await asyncio.gather(*(self._generate(ids, params) for ids in prompts))
        return {
            "seconds": time.perf_counter() - began,
            "first_token_s": [first_s for _, first_s, _ in ended],
            "cached_tokens": [cached for _, _, cached in ended],
        }

    async def _generate(
        self, token_ids: list[int], params: Any, salt: str | None = None
    ) -> tuple[int, float, int]:
        """Returns the number of tokens, the seconds to the first, and the cached prompt tokens."""
        from vllm.inputs.engine import tokens_input

        began, first_s, tokens, cached = time.perf_counter(), 0.0, 0, 0
        outputs = self._recorder.generate(
            self._llm, tokens_input(token_ids, cache_salt=salt), params, f"bare-{next(self._ids)}"
        )
        async with contextlib.aclosing(outputs):
            async for output in outputs:
                first_s = first_s or time.perf_counter() - began
                tokens += len(output.outputs[0].token_ids)
                cached = max(cached, output.num_cached_tokens or 0)
        return tokens, first_s, cached


class Gaps:
    """Times from a handler's answer in the agent loop to the next piece from the model.

    Only one turn may run at a time.
    """

    def __init__(self) -> None:
        self._answered_at: float | None = None
        self._gaps: list[float] = []
        deliver, note = Conversation.deliver, TurnAccount.note
        gaps = self

        async def noted_deliver(
            self: Conversation, invocation_id: str, answer: HandlerAnswer
        ) -> None:
            gaps._answered_at = time.perf_counter()
            await deliver(self, invocation_id, answer)

        def noted_note(self: TurnAccount, happening: Happening) -> None:
            piece = isinstance(happening, Sampled) and bool(happening.pieces)
            if piece and gaps._answered_at is not None:
                gaps._gaps.append(time.perf_counter() - gaps._answered_at)
                gaps._answered_at = None
            note(self, happening)

        Conversation.deliver = noted_deliver
        TurnAccount.note = noted_note

    async def take(self, _fields: JsonObject) -> JsonObject:
        """Removes and returns the times that were measured since the last call."""
        taken, self._gaps = self._gaps, []
        return {"gaps_s": taken}


class Pauses:
    """How long the event loop lets nothing else run."""

    def __init__(self) -> None:
        self._longest_s = 0.0
        self._watching: asyncio.Task[None] | None = None

    async def take(self, _fields: JsonObject) -> JsonObject:
        """Returns the longest pause since the last call; the first call begins to watch."""
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch())
        longest_s, self._longest_s = self._longest_s, 0.0
        return {"longest_s": longest_s}

    async def _watch(self) -> None:
        last = time.perf_counter()
        while True:
            await asyncio.sleep(TICK_S)
            now = time.perf_counter()
            self._longest_s = max(self._longest_s, now - last - TICK_S)
            last = now


async def main(config: JsonObject, link: Link) -> None:
    """Serves until the bench ends."""
    engine_section = {name: config[name] for name in ("model", "device", "vllm")}
    settings = load_settings(
        None, cast(Any, {"server": {"port": 0, "drain_s": 0}, "engine": engine_section})
    )
    model = await asyncio.to_thread(resolve_model, settings.engine.model)
    inner = VllmEngineFactory(engine_config(settings, model))
    forced_calls = int(str(config["forced_calls"]))
    bare: list[Bare] = []

    async def factory(on_progress: Progress) -> Engine:
        engine = await inner(on_progress)
        bare.append(Bare(cast(Any, engine)._llm))
        return ForcedCalls(engine, forced_calls) if forced_calls else engine

    gaps, pauses = Gaps(), Pauses()
    async with app.serve(
        settings, factory, model=model.display_name, on_progress=lambda _stage, _fraction: None
    ) as service:
        commands: dict[str, Callable[[JsonObject], Awaitable[JsonObject]]] = {
            "generations": bare[0].generations,
            "record": bare[0].record,
            "repeat": bare[0].repeat,
            "continued": bare[0].continued,
            "generate": bare[0].generate,
            "gaps": gaps.take,
            "pauses": pauses.take,
        }
        await link.answer({"address": service.address}, commands)


if __name__ == "__main__":
    run_child(main)
