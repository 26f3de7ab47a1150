"""Starts the service for the benches of speculation, and runs a turn with speculation off and on.

Owns: the flags that these benches share, and the pairs of turns.
"""

from __future__ import annotations

import argparse
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import precall
from bench import served
from bench.bfcl_prompts import ToolPrompt
from bench.process import Child, started
from bench.step_times import StepTimes, steps_of
from bench.theory import Timing
from bench.tool_turns import FORK, OFF, TurnTimes, run_turn
from precall_service.domain.json import JsonObject

ENGINE = {"max_num_seqs": 16, "max_model_len": 4096, "block_size": 32}
"""The sizes of the engine on a CPU."""

ENGINE_ON_GPU = {"max_num_seqs": 16, "max_model_len": 4096, "block_size": 16}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """The same turn with speculation off and on, and its first step as the service sees it."""

    off: TurnTimes
    on: TurnTimes
    off_step: StepTimes
    on_step: StepTimes

    @property
    def complete(self) -> bool:
        """Whether both turns made calls and came to a second step, so that all can be compared."""
        return all(turn.calls and turn.next_at for turn in (self.off, self.on))

    @property
    def acceptance(self) -> float:
        """Which fraction of the calls was answered by early runs."""
        return self.on.hits / len(self.on.calls)

    @property
    def timing(self) -> Timing:
        """The times that the formulas need. Without a hit, there is no lead."""
        prediction_s = self.on.prediction_s
        return Timing(
            generation_s=self.on.generation_s,
            prediction_s=self.on.generation_s if prediction_s is None else prediction_s,
            tool_s=self.off.waited_s,
        )

    @property
    def allowed_s(self) -> float:
        """What the formula allows to save: nothing if a call of the step was not predicted."""
        return self.timing.saved_s(1.0) if self.on.hits == len(self.on.calls) else 0.0

    @property
    def hidden_s(self) -> float:
        """How much less the turn waited for its tools."""
        return self.off.waited_s - self.on.waited_s

    @property
    def slowed_s(self) -> float:
        """How much longer the model took to write the calls than at its pace without speculation.

        The engine's results depend a little on what else it computes, so the message may differ in
        its length.
        """
        return self.on.generation_s - self.off.generation_s * self.on.tokens / self.off.tokens

    @property
    def saved_s(self) -> float:
        """How much earlier the second step began."""
        return self.hidden_s - self.slowed_s

    @property
    def branched_s(self) -> float:
        """How much longer the model took until it began to call, since branches ran beside it."""
        off, on = self.off_step, self.on_step
        return on.thought_s - off.thought_s * on.thought_tokens / off.thought_tokens

    @property
    def generated_calls_s(self) -> float:
        """How long the calls of the turn with speculation would have taken without drafts."""
        off, on = self.off_step, self.on_step
        return off.calls_s * on.call_tokens / off.call_tokens

    @property
    def drafted_s(self) -> float:
        """How much sooner the calls were written."""
        return self.generated_calls_s - self.on_step.calls_s

    def allowed_with_drafts_s(self, verified_s: float) -> float:
        """Returns what the formula allows if the calls are verified, each in this time.

        Nothing is allowed if a call of the step was not predicted.
        """
        if self.on.hits < len(self.on.calls):
            return 0.0
        timing = replace(
            self.timing,
            generation_s=self.on.generation_s + self.drafted_s,
            drafted_s=max(0.0, self.generated_calls_s - self.on_step.calls * verified_s),
        )
        return timing.saved_s(1.0)

    @property
    def off_s(self) -> float:
        """The time from the first step to the second, without speculation."""
        return self.off.to_next_step_s


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of every bench of speculation that needs an engine."""
    served.add_arguments(parser)
    served.add_block_size(parser)


@asynccontextmanager
async def speculating(
    options: argparse.Namespace,
    predictor: str,
    speculation: JsonObject | None = None,
    admission: JsonObject | None = None,
) -> AsyncGenerator[Child]:
    """Runs the service with the fork, or with "oracle" or "wrong" in its place."""
    how = served.served(options, block_size=options.block_size)
    config: JsonObject = {
        "model": None if how.model.embedded else how.model.path_or_name,
        "device": how.device,
        "vllm": how.vllm,
        "speculation": speculation or {},
        "admission": admission or {},
        "predictor": predictor,
    }
    print(f"starting precall with {predictor}", flush=True)
    async with started("bench.arms.speculating", config) as child:
        yield child


async def run_pair(
    client: precall.Client,
    server: Child,
    prompt: ToolPrompt,
    *,
    tool_s: float,
    on_first: bool,
    speculation: precall.Speculation = FORK,
    whole: bool = False,
) -> Pair:
    """Runs the turn once with speculation, once without."""

    async def one(how: precall.Speculation) -> tuple[TurnTimes, StepTimes]:
        await steps_of(server)  # forgets those before
        times = await run_turn(client, prompt, tool_s=tool_s, speculation=how, whole=whole)
        return times, (await steps_of(server))[0]

    first = await one(speculation if on_first else OFF)
    second = await one(OFF if on_first else speculation)
    off, on = (second, first) if on_first else (first, second)
    return Pair(off=off[0], on=on[0], off_step=off[1], on_step=on[1])
