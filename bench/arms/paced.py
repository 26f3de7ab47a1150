"""The whole service on an engine that samples at a given rate, without a model.

All generations get a token at the same moment, as the sequences of a batch do. Tokens that nobody
has taken in between come as one piece, as AsyncLLM has it. If a user's message is `call NAME`, the
step makes that call instead.

The `crowd` bench also runs this file in a copy of an older commit. So it uses only what both have.
"""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import replace
from types import ModuleType

from bench.process import Commands, Link, run_child
from precall_service import app
from precall_service.domain.events import TokenUsage
from precall_service.domain.json import JsonObject
from precall_service.engine.base import (
    Chunk,
    Engine,
    EngineDiedError,
    Finish,
    Progress,
    Prompt,
    StepEnd,
    StepSpec,
    StepStream,
    TextPiece,
)
from precall_service.engine.vllm.token_prompt import TokenPrompt, own
from precall_service.settings import load_settings
from tests.support.scripted_engine import INFO, ScriptedEngine
from tests.support.scripted_template import prompt_text
from tests.support.scripts import Step, calls

CONTEXT_TOKENS = 4096
ARENAS, HEAP = "precall_service.cli.arenas", "precall_service.cli.heap"
"""What `precall serve` does by now for its memory."""
_CALL = "<user>call "


class Pace:
    """The steps that all engines take together, one every `step_s`."""

    def __init__(self, step_s: float) -> None:
        self._step_s = step_s
        self._next = asyncio.Event()
        self.steps = 0
        """The steps that were taken so far."""

    @asynccontextmanager
    async def kept(self) -> AsyncGenerator[None]:
        """Takes steps until the block ends."""
        task = asyncio.create_task(self._step())
        try:
            yield
        finally:
            task.cancel()

    async def next(self) -> None:
        """Returns when the next step was taken."""
        await self._next.wait()

    async def _step(self) -> None:
        began = time.monotonic()
        while True:
            due = began + (self.steps + 1) * self._step_s
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            self.steps = int((time.monotonic() - began) / self._step_s)
            taken, self._next = self._next, asyncio.Event()
            taken.set()


class PacedEngine(ScriptedEngine):
    """Generates `tokens` tokens, each with the same text, one a step."""

    def __init__(self, pace: Pace, text: str, tokens: int, sequences: int) -> None:
        super().__init__(
            _call,
            replace(
                INFO,
                context_tokens_max=CONTEXT_TOKENS,
                sequences_max=sequences,
                kv_tokens=sequences * CONTEXT_TOKENS,
            ),
        )
        self._pace = pace
        self._text = text
        self._tokens = tokens
        self._died = False

    def die(self) -> None:
        """As `ScriptedEngine.die`."""
        self._died = True
        super().die()

    async def generate(self, prompt: Prompt, spec: StepSpec) -> StepStream:
        """As `Engine.generate`."""
        if _asked(own(prompt)).startswith(_CALL):
            try:
                async with aclosing(super().generate(prompt, spec)) as stream:
                    async for each in stream:
                        yield each
            finally:
                self.specs.clear()  # which it keeps for tests
                self.prompts.clear()
            return
        begin, taken = self._pace.steps, 0
        while taken < self._tokens:
            if self._died:
                raise EngineDiedError("the bench has ended the engine")
            ready = min(self._pace.steps - begin, self._tokens) - taken
            if ready:
                taken += ready
                yield Chunk((0,) * ready, (TextPiece(self._text * ready),))
            else:
                await self._pace.next()
        yield StepEnd(
            finish=Finish.STOP,
            token_ids=(0,) * taken,
            raw_text=self._text * taken,
            usage=TokenUsage(input_tokens=own(prompt).tokens, output_tokens=taken),
        )


def _asked(prompt: TokenPrompt) -> str:
    """Returns the last message of a prompt."""
    return prompt_text(prompt).rsplit("\n", 2)[-2]


def _call(prompt: TokenPrompt, _spec: StepSpec) -> Step:
    """Makes the call that the user asks for."""
    return calls((_asked(prompt).removeprefix(_CALL).strip(), "{}"))


def _imported(name: str) -> ModuleType | None:
    """Returns a module, or None if the service does not have it yet."""
    return None if importlib.util.find_spec(name) is None else importlib.import_module(name)


def _commands(service: app.Service, engines: Sequence[PacedEngine]) -> Commands:
    async def pause(_fields: JsonObject) -> JsonObject:
        return {"longest_s": service.watch.longest_pause_s()}

    async def counts(_fields: JsonObject) -> JsonObject:
        gc.collect()
        vitals = service.watch.vitals()
        return {
            "turns admitted": vitals.turns_admitted,
            "turns waiting": sum(vitals.turns_waiting.values()),
            "conversations": sum(vitals.conversations.values()),
            "calls": vitals.calls,
            "first messages": vitals.first_messages_waiting,
            "frames": vitals.frames_waiting,
            "bytes held": sum(vitals.bytes_held.values()),
            "bytes of schemas": sum(vitals.schema_bytes.values()),
            "runs": vitals.runs,
            "predictions": vitals.predictions,
            "tasks": len(asyncio.all_tasks()),
        }

    async def tasks(_fields: JsonObject) -> JsonObject:
        return {"tasks": sorted(map(repr, asyncio.all_tasks()))}

    async def die(_fields: JsonObject) -> JsonObject:
        engines[0].die()
        return {}

    return {"pause": pause, "counts": counts, "tasks": tasks, "die": die}


async def main(
    config: JsonObject,
    link: Link,
    kind: Callable[[Pace, str, int, int], PacedEngine] = PacedEngine,
    more: Callable[[app.Service], Commands] = lambda _service: {},
) -> None:
    """Serves until the bench ends; answers the commands `more`, too."""
    if (arenas := _imported(ARENAS)) is not None:
        arenas.share_arenas()
    pace = Pace(float(str(config["step_s"])))
    engines: list[PacedEngine] = []

    async def factory(on_progress: Progress) -> Engine:
        engines[:] = [
            kind(
                pace,
                str(config["text"]),
                int(str(config["tokens"])),
                int(str(config.get("sequences", 4096))),
            )
        ]
        return engines[0]

    # The soak ends engines often, and has agents that want to go on.
    sections: dict[str, dict[str, float]] = {
        "server": {"port": 0},
        "engine": {"restart_backoff_first_s": 0.1, "restart_backoff_max_s": 0.5},
    }
    settings = load_settings(None, {name: dict(values) for name, values in sections.items()})
    async with (
        pace.kept(),
        app.serve(
            settings, factory, model="paced", on_progress=lambda _stage, _fraction: None
        ) as service,
        AsyncExitStack() as stack,
    ):
        if (heap := _imported(HEAP)) is not None:
            stack.enter_context(heap.quiet_heap(service))
        commands = {**_commands(service, engines), **more(service)}
        await link.answer({"address": service.address}, commands)


if __name__ == "__main__":
    run_child(main)
