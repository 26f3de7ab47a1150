"""The service in front of a real server: vLLM's own, with the embedded model."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager

import openai
import pytest

import precall
from precall_service.app import Service, serve
from precall_service.cli.launch import openai_config
from precall_service.engine.models import resolve_model
from precall_service.engine.openai.factory import OpenAiEngineFactory
from precall_service.settings import load_settings
from tests.integration.test_cli import run

START_S = 240
QUESTION = "What is the weather in Paris?"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    """The address of a server of vLLM's, which runs as long as the tests of this file."""
    model = resolve_model(None)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    arguments = {
        "--model": model.path_or_name, "--served-model-name": "embedded", "--host": "127.0.0.1",
        "--port": str(port), "--tool-call-parser": str(model.tool_parser), "--dtype": "float32",
        "--max-model-len": "2048", "--max-num-seqs": "8", "--block-size": "32",
        "--kv-cache-memory-bytes": str(256 << 20),
    }  # fmt: skip
    flags = ["--enforce-eager", "--enable-auto-tool-choice"]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *flags]
    for pair in arguments.items():
        command += pair
    environ = {
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
        "TMPDIR": str(tmp_path_factory.mktemp("vllm")),  # it leaves sockets behind
    }
    server = subprocess.Popen(
        command,
        env=os.environ | environ,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _wait_until_healthy(f"http://127.0.0.1:{port}/health", server)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _wait_until_healthy(address: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            urllib.request.urlopen(address, timeout=5)
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
        else:
            return
    raise TimeoutError(f"vLLM's server is not healthy; its status is {server.poll()}")


@asynccontextmanager
async def in_front_of(url: str) -> AsyncGenerator[tuple[Service, precall.Client]]:
    settings = load_settings(
        None,
        {
            "server": {"port": 0, "drain_s": 0},
            "engine": {"backend": "openai", "model": "embedded"},
            "openai": {"url": url},
        },
    )
    factory = OpenAiEngineFactory(openai_config(settings))
    async with (
        serve(settings, factory, model="embedded", on_progress=lambda _stage, _done: None) as it,
        precall.Client(it.address) as client,
    ):
        yield it, client


async def test_an_answer_is_the_server_s_own(url: str) -> None:
    text = "Tell me about the sea."
    async with openai.AsyncOpenAI(base_url=url, api_key="none") as bare:
        answer = await bare.chat.completions.create(
            model="embedded",
            messages=[{"role": "user", "content": text}],
            temperature=0.0,
            max_tokens=40,
        )
    async with in_front_of(url) as (_, client), client.conversation() as conversation:
        ours = await conversation.ask(text, temperature=0.0, max_step_tokens=40)
    assert str(ours) == answer.choices[0].message.content
    assert answer.usage is not None
    assert ours.report.usage.input_tokens == answer.usage.prompt_tokens
    assert ours.report.usage.output_tokens == 40
    assert ours.outcome is precall.TurnOutcome.LIMIT


async def test_a_turn_with_a_call(url: str) -> None:
    cities: list[str] = []

    def get_weather(city: str) -> str:
        """Returns the weather in a city."""
        cities.append(city)
        return "It rains, 12 degrees."

    tool = precall.Tool.from_function(get_weather, read_only=True, speculation_safe=True)
    async with (
        in_front_of(url) as (_, client),
        client.conversation(tools=[tool]) as conversation,
    ):
        answer = await conversation.ask(
            QUESTION, temperature=0.0, max_step_tokens=60, tool_choice=precall.ToolNamed(tool.name)
        )
        again = await conversation.ask("Thank you.", temperature=0.0, max_step_tokens=8)
    assert set(cities) == {"Paris"}
    assert answer.report.tool_calls == 1
    assert answer.report.steps == 2
    assert "12 degrees" in str(answer)
    assert again.report.usage.input_tokens > answer.report.usage.input_tokens // 2


async def test_what_it_cannot_do_is_said(url: str) -> None:
    async with in_front_of(url) as (service, client):
        info = await client.server_info()
    assert service.engine.context_tokens_max == 2048
    can = info.capabilities
    assert precall.Capability.TOOL_CALLS in can
    for lacking in (precall.Capability.STRUCTURED_CALLS, precall.Capability.DRAFTS):
        assert lacking not in can


def test_doctor_examines_the_server(url: str) -> None:
    found = run("doctor", "--backend", "openai", "--url", url, "--port", "0")
    assert found.returncode == 0, found.stdout + found.stderr
    for told in ("embedded on the server at", "calls: a required call came whole", "2,048 tokens"):
        assert told in found.stdout
    missing = run("doctor", "--backend", "openai", "--url", url, "--port", "0", "--model", "other")
    assert missing.returncode == 1
    assert f"there is no model other: the server at {url} has embedded" in " ".join(
        missing.stdout.split()
    )
