"""A draft model in a second engine beside the first, here with the same weights."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Literal, cast

import pytest

import precall
from precall_service.app import Service, serve
from precall_service.engine.base import (
    Engine,
    EngineFactory,
    Progress,
    Prompt,
    StepSpec,
    StepStream,
)
from precall_service.engine.supervisor import EngineState, EngineSupervisor
from precall_service.engine.vllm.factory import VllmEngineFactory
from precall_service.settings import load_settings
from tests.support.engine_keeper import LentEngine, embedded_config
from tests.support.engine_states import passed

if TYPE_CHECKING:  # it imports vLLM
    from precall_service.engine.vllm.engine import VllmEngine

City = Literal["Oslo", "Rome", "Lima"]
KV_BYTES: Final = 1 << 28
WAIT_S: Final = 120.0


def core() -> int:
    """The core that the draft model's engine has to itself."""
    return max(os.sched_getaffinity(0))


class WaitingEngine(LentEngine):
    """The engine of the turns. It generates only while the gate is open."""

    def __init__(self, lent: Engine) -> None:
        super().__init__(lent)
        self.gate = asyncio.Event()
        self.asked = asyncio.Event()

    async def generate(self, prompt: Prompt, spec: StepSpec) -> StepStream:
        self.asked.set()
        async with asyncio.timeout(WAIT_S):
            await self.gate.wait()
        async with aclosing(super().generate(prompt, spec)) as chunks:
            async for chunk in chunks:
                yield chunk


@asynccontextmanager
async def served(
    factory: EngineFactory,
) -> AsyncGenerator[tuple[Service, precall.Client, WaitingEngine]]:
    """A service on the shared engine, with a draft model in an engine of its own."""
    config = replace(
        embedded_config(max_num_seqs=4, dtype="float32"),
        kv_cache_bytes=KV_BYTES,
        drafts=False,
        cores=frozenset({core()}),
    )
    waiting: list[WaitingEngine] = []

    async def wait(on_progress: Progress) -> Engine:
        waiting.append(WaitingEngine(await factory(on_progress)))
        return waiting[-1]

    settings = load_settings(
        None,
        {
            "server": {"port": 0, "drain_s": 0},
            "speculation": {
                # The handler takes no time, so an early run has hardly any value.
                "margin_s": 0,
                "waste_weight": 0,
                "draft_model": {"model": "embedded", "temperature": 0, "timeout_s": WAIT_S},
            },
        },
    )
    async with (
        serve(
            settings,
            wait,
            model="embedded",
            on_progress=lambda _stage, _fraction: None,
            draft_factory=VllmEngineFactory(config),
        ) as service,
        precall.Client(service.address) as client,
    ):
        assert service.engines.state is EngineState.READY, "it does not wait for the draft model"
        yield service, client, waiting[0]


def processes(engines: EngineSupervisor) -> list[int]:
    engine = cast("VllmEngine", engines.engine())
    return engine._processes.pids  # pyright: ignore[reportPrivateUsage]


async def take_turn(client: precall.Client) -> list[precall.Event]:
    mode = precall.Speculation("on", predictors=["draft_model"], events=True)
    async with client.conversation(
        template_variables={"enable_thinking": True}, speculation=mode
    ) as conversation:
        assert conversation.speculation.predictors == (precall.Predictor.DRAFT_MODEL,)
        turn = conversation.send(
            "What is the weather in Rome?", tool_choice="required", temperature=0.0, max_steps=2
        )
        return [event async for event in turn]


def ending(events: list[precall.Event]) -> precall.TurnCompleted:
    [completed] = [each for each in events if isinstance(each, precall.TurnCompleted)]
    return completed


def proposed(events: list[precall.Event]) -> list[precall.PredictionProposed]:
    return [each for each in events if isinstance(each, precall.PredictionProposed)]


@pytest.mark.timeout(600)
async def test_a_second_engine_predicts_calls_and_may_die(vllm_factory: EngineFactory) -> None:
    ran: list[bool] = []

    async with served(vllm_factory) as (service, client, engine):

        async def get_weather(city: City, context: precall.ToolContext) -> str:
            """The weather in a city."""
            ran.append(context.speculative)
            engine.gate.set()  # the model calls only now
            return f"It is sunny in {city}, 21 degrees."

        client.add_tool(get_weather, read_only=True, speculation_safe=True)
        engines = service.draft_engines
        assert engines is not None
        await passed(engines, EngineState.READY)
        pids = processes(engines)
        assert all(os.sched_getaffinity(each) == {core()} for each in pids)

        events = await take_turn(client)
        [confirmed] = [each for each in events if isinstance(each, precall.PredictionConfirmed)]
        [first, *_] = [each for each in events if isinstance(each, precall.ToolCallReady)]
        assert confirmed.call_id == first.call_id
        assert ran[0]
        assert ending(events).report.predictions_confirmed >= 1
        assert ending(events).report.tool_time_hidden_s > 0

        engine.gate.clear()
        engine.asked.clear()
        turn = asyncio.ensure_future(take_turn(client))
        await engine.asked.wait()
        os.kill(pids[0], signal.SIGKILL)
        await passed(engines, EngineState.RESTARTING)
        engine.gate.set()
        assert ending(await turn).error is None
        assert service.engines.state is EngineState.READY

        await passed(engines, EngineState.READY)
        engine.gate.clear()
        assert proposed(await take_turn(client))
