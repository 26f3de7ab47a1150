"""`precall serve` from its start to its end, on a scripted engine."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

import precall
from precall_service.app import Service
from precall_service.app import serve as serve_app
from precall_service.cli import app, launch
from precall_service.cli.configuration import load
from precall_service.cli.errors import CommandError
from precall_service.cli.launch import engine_config
from precall_service.cli.serve import _serve  # pyright: ignore[reportPrivateUsage]
from precall_service.engine.base import EngineFactory, EngineStartError, Progress
from precall_service.engine.models import ResolvedModel
from precall_service.engine.supervisor import EngineSupervisor
from precall_service.engine.vllm.config import Device, VllmConfig
from precall_service.settings import Settings
from tests.support.scripted_engine import ScriptedEngine, ScriptedFactory
from tests.support.scripts import Pause, Step, always, says

LOCAL = load(None, port=0, drain=20.0)
MODEL = ResolvedModel(
    path_or_name="folder",
    display_name="tiny",
    embedded=False,
    local=True,
    tool_parser="hermes",
    reasoning_parser=None,
    chat_template=None,
    parser_reason="",
)


def resolved(_name: str | None, *, cache_dir: Path, on_progress: Progress) -> ResolvedModel:
    return MODEL


Running = Callable[..., Awaitable[tuple[asyncio.Task[None], str]]]


def address_in(told: str) -> str:
    found = re.search(r"precall chat --address (\S+)", told)
    assert found, told
    return found[1]


async def last(events: AsyncIterator[precall.Event]) -> None:
    async for _ in events:
        pass


async def told(capsys: pytest.CaptureFixture[str], text: str) -> None:
    """Returns when the command has written `text` to stderr."""
    shown = ""
    async with asyncio.timeout(10):
        while text not in shown:
            shown += capsys.readouterr().err
            await asyncio.sleep(0.01)


def press_ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Running:
    """Starts the command with a script; returns its task and its output when it is ready."""

    async def start(script: Step) -> tuple[asyncio.Task[None], str]:
        ready = asyncio.Event()

        @asynccontextmanager
        async def launched(
            settings: Settings, _arguments: tuple[str, ...], on_progress: Progress
        ) -> AsyncGenerator[Service]:
            factory = ScriptedFactory(lambda: ScriptedEngine(always(script)))
            async with serve_app(
                settings, factory, model="tiny", on_progress=on_progress
            ) as service:
                asyncio.get_running_loop().call_soon(ready.set)
                yield service

        monkeypatch.setattr(launch, "launched", launched)
        command = asyncio.create_task(_serve(LOCAL, ()))
        await asyncio.wait_for(ready.wait(), 10)
        shown = capsys.readouterr()
        assert shown.err == "starting the scripted engine ...\n"
        return command, shown.out

    return start


async def test_ready_says_what_runs_and_what_to_try(running: Running) -> None:
    command, shown = await running(says("hi"))
    press_ctrl_c()
    await asyncio.wait_for(command, 10)
    assert [line.split(maxsplit=1)[0] for line in shown.splitlines()] == [
        "precall", "address", "model", "engine", "device", "holds", "try",
    ]  # fmt: skip
    assert f"  address  {address_in(shown)}\n" in shown
    assert "64 turns at once, 1,048,576 tokens of KV cache, 8,192 tokens of context" in shown


async def test_it_ends_when_its_background_work_fails(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run(_engines: EngineSupervisor) -> None:
        raise LookupError("a defect")

    monkeypatch.setattr(EngineSupervisor, "run", run)
    command, _ = await running(says("hi"))
    with pytest.raises(ExceptionGroup) as ended:
        await asyncio.wait_for(command, 10)
    assert ended.group_contains(LookupError, match="a defect")


async def test_ctrl_c_lets_running_turns_finish(
    running: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    go_on = asyncio.Event()
    command, shown = await running([*says("one"), Pause(go_on), *says(" two")])
    async with precall.Client(address_in(shown)) as client, client.conversation() as conversation:
        async for event in conversation.send("count"):
            if event == precall.TextDelta("one"):
                press_ctrl_c()
                await told(capsys, "1 turn runs and may take 20 s")
                go_on.set()
            if isinstance(event, precall.TurnCompleted):
                assert event.text == "one two"
    await asyncio.wait_for(command, 10)
    assert capsys.readouterr().err.endswith("stopped\n")


async def test_second_ctrl_c_ends_them_at_once(
    running: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    command, shown = await running([*says("one"), Pause(asyncio.Event())])
    async with precall.Client(address_in(shown)) as client, client.conversation() as conversation:
        events = aiter(conversation.send("count"))
        while await anext(events) != precall.TextDelta("one"):
            pass
        press_ctrl_c()
        await told(capsys, "1 turn runs")
        press_ctrl_c()
        with pytest.raises(precall.PrecallError):
            await last(events)
    with pytest.raises(asyncio.CancelledError):
        await command
    assert capsys.readouterr().err.endswith("stopped at once\n")


async def test_without_turns_it_stops_at_once(
    running: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    command, _ = await running(says("hi"))
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(command, 10)
    assert capsys.readouterr().err == "\nno turn runs; stopping\nstopped\n"


def test_engine_that_cannot_start(monkeypatch: pytest.MonkeyPatch) -> None:
    async def factory(on_progress: Progress) -> ScriptedEngine:
        raise EngineStartError("the weights do not fit: take fewer")

    def configured(_config: VllmConfig) -> EngineFactory:
        return factory

    monkeypatch.setattr(launch, "VllmEngineFactory", configured)
    monkeypatch.setattr(launch, "resolve_model", resolved)
    result = CliRunner().invoke(app, ["serve", "--port", "0"])
    assert result.exit_code == 1
    assert result.stderr.endswith("precall: the weights do not fit: take fewer\n")


def test_port_that_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "resolve_model", resolved)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = CliRunner().invoke(app, ["serve", "--port", port])
    assert result.exit_code == 1
    assert f"cannot listen at 127.0.0.1:{port}" in result.stderr
    assert "--port" in result.stderr


@pytest.mark.parametrize("host", ["0.0.0.0", "[/]"])  # the second one would be markup
def test_host_open_to_the_network_is_warned_about(host: str) -> None:
    result = CliRunner().invoke(app, ["serve", "--host", host, "--model", "./nothing"])
    assert result.exit_code == 1
    assert f"warning: host {host} admits every client that reaches this machine" in result.stderr
    assert "--model ./nothing: there is no such folder" in result.stderr


def test_what_the_engine_is_configured_with(tmp_path: Path) -> None:
    template = tmp_path / "t.jinja"
    template.write_text("{{ messages }}")
    settings = load(None, device="cpu", chat_template=template, reasoning_parser="none")
    config = engine_config(settings, MODEL, ("--max-num-seqs", "8"))
    assert (config.model, config.model_name) == ("folder", "tiny")
    assert (config.tool_call_parser, config.reasoning_parser) == ("hermes", "none")
    assert config.chat_template == "{{ messages }}"
    assert config.device is Device.CPU
    assert config.arguments == ("--max-num-seqs", "8")


def test_chat_template_that_is_not_there() -> None:
    settings = load(None, chat_template=Path("nowhere.jinja"))
    with pytest.raises(CommandError, match=r"nowhere\.jinja cannot be read: No such file"):
        engine_config(settings, MODEL)
