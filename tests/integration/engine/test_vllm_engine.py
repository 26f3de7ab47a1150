"""Behaviour that only the real engine has: its queue, its refusals, its start and its end."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import shutil
import threading
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from precall_service.domain.turn import GenerationSettings
from precall_service.engine.base import (
    Engine,
    EngineStartError,
    Feature,
    GenerationRefusedError,
    Priority,
)
from precall_service.engine.findings import Subject
from precall_service.engine.vllm.config import Device, VllmConfig
from precall_service.engine.vllm.environment import describe_environment
from precall_service.engine.vllm.factory import VllmEngineFactory
from tests.support.engine_keeper import EngineKeeper, embedded_config
from tests.support.steps import asked, heard, step_spec, until_idle


@pytest_asyncio.fixture(loop_scope="session")
async def failed_start() -> AsyncGenerator[None]:
    """Waits for the end of a failed start, and collects what it leaves."""
    yield
    for thread in threading.enumerate():
        if thread.name == "precall-engine":
            await asyncio.to_thread(thread.join, 20)
    await asyncio.sleep(0)  # the loop drops the thread's exception
    gc.collect()


leaves_a_context = pytest.mark.filterwarnings("ignore:Unclosed context:ResourceWarning")
"""vLLM leaves a ZeroMQ context open if its constructor fails. It may be collected at any time."""


def silent(_stage: str, _fraction: float | None) -> None:
    pass


def test_the_embedded_model_can_do_everything(vllm_engine: Engine) -> None:
    assert vllm_engine.info.features == frozenset(Feature)
    findings = vllm_engine.info.findings
    assert {finding.subject for finding in findings.each} == set(Subject)
    assert not [finding for finding in findings.each if finding.limits]


async def test_a_start_reports_its_stages(vllm_engine: Engine, engine_keeper: EngineKeeper) -> None:
    stages = engine_keeper.stages
    expected = [
        "importing vLLM",
        "starting the engine and loading the model",
        "generating for the first time",
    ]
    assert [stage for stage in stages if stage in expected] == expected
    assert len(stages) == len(set(stages))


async def test_steps_that_continue_a_turn_go_first(vllm_engine: Engine) -> None:
    """All slots are taken and three steps wait; then one slot is freed."""
    engine = vllm_engine
    prompt = await engine.render(asked("Tell me a story"))
    began: asyncio.Queue[Priority] = asyncio.Queue()

    async def begin(priority: Priority) -> None:
        generation = engine.generate(prompt, step_spec(max_tokens=2, priority=priority))
        async with aclosing(generation):
            await anext(generation)
            began.put_nowait(priority)

    async with AsyncExitStack() as runners, asyncio.TaskGroup() as waiters, asyncio.timeout(60):
        running = [
            await runners.enter_async_context(
                aclosing(engine.generate(prompt, step_spec(max_tokens=400)))
            )
            for _ in range(engine.info.sequences_max)
        ]
        await asyncio.gather(*map(anext, running))
        for waiting, priority in enumerate(
            (Priority.STARTS_TURN, Priority.STARTS_TURN, Priority.CONTINUES_TURN), start=1
        ):
            waiters.create_task(begin(priority))
            while (await engine.load()).waiting < waiting:
                pass
        assert (await engine.load()).running == len(running)
        await running[0].aclose()
        assert await began.get() is Priority.CONTINUES_TURN
        assert (await engine.load()).running >= len(running) - 1, "the other steps must still run"
    await until_idle(engine)


@pytest.mark.parametrize(
    "generation", [GenerationSettings(temperature=-1.0), GenerationSettings(top_p=7.0)]
)
async def test_settings_that_vllm_refuses_are_refused(
    vllm_engine: Engine, generation: GenerationSettings
) -> None:
    prompt = await vllm_engine.render(asked("Hello"))
    with pytest.raises(GenerationRefusedError, match="the engine refuses this step"):
        await heard(vllm_engine.generate(prompt, step_spec(generation=generation)))
    await until_idle(vllm_engine)


async def test_concurrent_loads_are_answered(vllm_engine: Engine) -> None:
    async with asyncio.timeout(20):
        loads = await asyncio.gather(*(vllm_engine.load() for _ in range(50)))
    assert {load.running for load in loads} == {0}


def test_the_environment_describes_itself() -> None:
    environment = describe_environment("WARNING")
    assert environment.vllm_version.startswith("0.32")
    assert environment.torch_version
    assert environment.device in {"cpu", "cuda"}
    assert not environment.problem


async def refusal(config: VllmConfig) -> str:
    with pytest.raises(EngineStartError) as told:
        await VllmEngineFactory(config)(silent)
    return str(told.value)


async def test_a_parser_unknown_to_vllm_is_refused() -> None:
    config = VllmConfig(
        model=embedded_config().model, model_name="model", tool_call_parser="hermeneutics"
    )
    assert "hermes" in await refusal(config)


async def test_a_context_longer_than_the_models_is_refused() -> None:
    config = VllmConfig(
        model=embedded_config().model, model_name="model", arguments=("--max-model-len", "99999999")
    )
    assert "max_model_len" in await refusal(config)


async def test_a_missing_gpu_is_refused() -> None:
    if describe_environment("WARNING").device != "cpu":
        pytest.skip("there is a GPU")
    config = VllmConfig(model=embedded_config().model, model_name="model", device=Device.GPU)
    assert "make setup BACKEND=gpu" in await refusal(config)


@pytest.mark.usefixtures("failed_start")
@leaves_a_context
async def test_a_failure_in_another_process_is_reported(tmp_path: Path) -> None:
    """Only the worker process notices that the weights are missing."""
    shutil.copytree(
        embedded_config().model,
        tmp_path,
        dirs_exist_ok=True,
        ignore=shutil.ignore_patterns("*.saf*"),
    )
    before = set(multiprocessing.active_children())
    with pytest.raises(RuntimeError, match="Cannot find any model weights"):
        await VllmEngineFactory(VllmConfig(model=str(tmp_path), model_name="model"))(silent)
    assert not set(multiprocessing.active_children()) - before


@pytest.mark.usefixtures("failed_start")
@leaves_a_context
async def test_a_cancelled_start_leaves_no_process() -> None:
    before = set(multiprocessing.active_children())

    def started() -> list[psutil.Process]:
        children = [
            psutil.Process(each.pid) for each in set(multiprocessing.active_children()) - before
        ]
        return [each for child in children for each in (child, *child.children())]

    start = asyncio.ensure_future(
        VllmEngineFactory(embedded_config())(lambda _stage, _fraction: None)
    )
    async with asyncio.timeout(120):
        while len(processes := started()) < 2:  # noqa: ASYNC110 - vLLM tells nobody of its processes
            await asyncio.sleep(0.05)
    assert not start.done()
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    _, alive = await asyncio.to_thread(psutil.wait_procs, processes, timeout=10)
    assert not alive
