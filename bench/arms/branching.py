"""The real engine without the service: the model's own calls, and those of branches.

For each prompt, the model reasons and then calls. Then branches start from its tokens: before the
first one, after so many, and after fractions of the thought. They are the branches of the service,
which skip the rest of the reasoning, except that nothing limits their number.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, cast

from bench.bfcl_prompts import ToolPrompt, tool_prompts
from bench.process import Link, run_child
from bench.tool_calls import Call
from precall_service.agent.branches import Branches
from precall_service.cli.launch import engine_config
from precall_service.domain.json import JsonObject, JsonValue
from precall_service.domain.messages import Transcript, UserMessage
from precall_service.domain.turn import GenerationSettings, ToolChoice, ToolChoiceMode
from precall_service.engine.base import (
    CallBegun,
    CallPiece,
    Engine,
    Feature,
    Priority,
    Prompt,
    ReasoningPiece,
    StepEnd,
    StepSpec,
)
from precall_service.engine.models import resolve_model
from precall_service.engine.vllm.factory import VllmEngineFactory
from precall_service.settings import load_settings
from precall_service.speculation.base import Branch, Candidate
from precall_service.speculation.predictors.fork import CALLS_MAX, SAMPLES

THINKS: JsonObject = {"enable_thinking": True}
STEP_TOKENS_MAX = 256
BRANCH_TOKENS_MAX = 192


@dataclass(frozen=True, slots=True, kw_only=True)
class _Written:
    """What the model wrote: the tokens of its step, how many of them are thought, its calls."""

    token_ids: tuple[int, ...]
    reasoning_tokens: int
    reasoning: str
    calls: tuple[Call, ...]
    seconds: float


class _Unlimited:
    """Stands for the load of the engine and the admission, and allows everything."""

    admitted = 0
    speculation_width = 1.0

    def allowance(self) -> float:
        return 1.0


class Forker:
    """Generates answers and branches."""

    def __init__(self, engine: Engine, tool_choice: str) -> None:
        self._engine = engine
        self._choice = ToolChoice(mode=ToolChoiceMode(tool_choice))
        free = cast(Any, _Unlimited())
        self._branches = Branches(free, free, branches_max=1 << 20, tokens_max=BRANCH_TOKENS_MAX)

    async def measured(
        self, asked: ToolPrompt, after: list[int], fractions: list[float]
    ) -> JsonObject:
        """Returns the model's calls, and the candidates of branches by where they started."""
        prompt = await self._engine.render(
            Transcript(
                messages=(UserMessage(text=asked.text),),
                tools=asked.tools,
                system_prompt="",
                template_variables=THINKS,
            )
        )
        spec = self._spec(asked)
        written = await self._generated(prompt, spec)
        starts: dict[str, int] = {"start": 0}
        starts |= {f"{count} tokens": count for count in after if count < written.reasoning_tokens}
        starts |= {
            f"{fraction:g} of the thought": round(fraction * written.reasoning_tokens)
            for fraction in fractions
        }
        found: dict[str, JsonValue] = {}
        for name, count in starts.items():
            branch = self._off(prompt, written.token_ids[:count], spec)
            found[name] = await self._first(branch)
        branch = self._off(prompt, (), spec)
        samples = [await self._sampled(branch) for _ in range(SAMPLES)]
        return {
            "id": asked.id,
            "tools": len(asked.tools),
            "reasoning_tokens": written.reasoning_tokens,
            "output_tokens": len(written.token_ids),
            "reasoning": written.reasoning,
            "seconds": written.seconds,
            "calls": [list(call) for call in written.calls],
            "branches": found,
            "samples": cast(JsonValue, samples),
        }

    async def _generated(self, prompt: Prompt, spec: StepSpec) -> _Written:
        names: dict[int, str] = {}
        arguments: dict[int, str] = {}
        reasoning = ""
        end: StepEnd | None = None
        began = time.perf_counter()
        async with aclosing(self._engine.generate(prompt, spec)) as chunks:
            async for chunk in chunks:
                if isinstance(chunk, StepEnd):
                    end = chunk
                    continue
                for piece in chunk.pieces:
                    match piece:
                        case ReasoningPiece(text):
                            reasoning += text
                        case CallBegun(index, tool_name):
                            names[index], arguments[index] = tool_name, ""
                        case CallPiece(index, fragment):
                            arguments[index] += fragment
                        case _:
                            pass
        assert end is not None
        return _Written(
            token_ids=end.token_ids,
            reasoning_tokens=end.usage.reasoning_tokens,
            reasoning=reasoning,
            calls=tuple(Call.read(names[index], arguments[index]) for index in names),
            seconds=time.perf_counter() - began,
        )

    def _off(self, prompt: Prompt, token_ids: tuple[int, ...], spec: StepSpec) -> Branch:
        branch = self._branches.off(self._engine, prompt, token_ids, spec, lambda: None)
        assert branch is not None
        return branch

    async def _first(self, branch: Branch) -> list[JsonValue]:
        """Returns the calls that a greedy branch writes, with the time that each took."""
        began = time.perf_counter()
        async with aclosing(branch(0.0, CALLS_MAX)) as candidates:
            return [_told(each, time.perf_counter() - began) async for each in candidates]

    async def _sampled(self, branch: Branch) -> JsonValue:
        async with aclosing(branch(1.0, 1)) as candidates:
            async for each in candidates:
                return _told(each, 0.0)
        return None

    def _spec(self, asked: ToolPrompt) -> StepSpec:
        return StepSpec(
            step_id=f"{asked.id}-{time.monotonic_ns()}",
            max_tokens=STEP_TOKENS_MAX,
            generation=GenerationSettings(temperature=0.0, tool_choice=self._choice),
            tools=asked.tools,
            tool_choice=self._choice,
            priority=Priority.STARTS_TURN,
            tenant="bench",
            template_variables=THINKS,
        )


def _told(candidate: Candidate, seconds: float) -> JsonObject:
    call = Call.read(candidate.tool_name, candidate.arguments_json)
    return {"call": list(call), "probability": candidate.probability, "seconds": seconds}


async def main(config: JsonObject, link: Link) -> None:
    """Answers for as many prompts as the bench asks for, some at once."""
    section = {name: config[name] for name in ("model", "device", "vllm")}
    settings = load_settings(None, cast(Any, {"engine": section}))
    model = await asyncio.to_thread(resolve_model, settings.engine.model)
    engine = await VllmEngineFactory(engine_config(settings, model))(lambda _stage, _done: None)
    try:
        if Feature.BRANCHES not in engine.info.features:
            raise ValueError(f"{engine.info.model} cannot branch off its reasoning")
        forker = Forker(engine, str(config["tool_choice"]))

        async def measure(fields: JsonObject) -> JsonObject:
            """Returns what was measured for the prompts from one position to another."""
            prompts = tool_prompts(int(str(fields["last"])))[int(str(fields["first"])) :]
            places = asyncio.Semaphore(int(str(fields["at_once"])))
            after = cast(list[int], fields["after"])
            fractions = cast(list[float], fields["fractions"])

            async def one(asked: ToolPrompt) -> JsonObject:
                async with places:
                    return await forker.measured(asked, after, fractions)

            return {"prompts": list(await asyncio.gather(*map(one, prompts)))}

        await link.answer({}, {"measure": measure})
    finally:
        await engine.close()


if __name__ == "__main__":
    run_child(main)
