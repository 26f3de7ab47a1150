"""`precall doctor` and `precall serve` with a server in the place of an engine."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from typer.testing import CliRunner

import precall
from precall_service.cli import app
from precall_service.cli.check import Check, Verdict
from precall_service.cli.errors import CommandError
from precall_service.cli.launch import launched, openai_config
from precall_service.cli.server_check import check_server
from precall_service.settings import load_settings
from tests.support.openai_server import (
    SAYS_HI,
    OpenAiServer,
    Sent,
    call,
    counted,
    delta,
    refused,
    streamed,
)

ANSWER = streamed(delta(content="It "), delta(content="rains."), delta("stop"), counted())
CALLS = streamed(
    delta("tool_calls", tool_calls=[call("look_up_weather", '{"city":"Paris"}')]), counted()
)


async def checked(*answers: Sent, **settings: Any) -> Check:
    server = OpenAiServer(answers)
    async with server.running():
        known = load_settings(
            None, {"engine": {"backend": "openai"} | settings, "openai": {"url": server.url}}
        )
        return await asyncio.to_thread(check_server, known)


async def test_a_server_that_answers_and_calls() -> None:
    check = await checked(ANSWER, CALLS)
    assert check.verdict is Verdict.GOOD
    assert check.finding.startswith("tiny on the server at http://127.0.0.1:")
    assert check.details[:4] == (
        "calls: a required call came whole",
        "context window: unknown",
        "streams: yes, 2 parts",
        "counts tokens: yes, 30 in and 7 out",
    )
    assert "drafts" in check.details[4]


async def test_a_server_that_makes_no_calls_can_only_chat() -> None:
    check = await checked(SAYS_HI)
    assert check.verdict is Verdict.DOUBTFUL
    assert "it wrote no call" in check.details[0]
    assert "--enable-auto-tool-choice" in check.remedy


async def test_a_server_that_refuses_tools_can_only_chat() -> None:
    check = await checked(ANSWER, refused("400 Bad Request", "tools are not enabled"))
    assert check.verdict is Verdict.DOUBTFUL
    assert "tools are not enabled" in check.details[0]


async def test_a_server_that_gives_no_answer_is_of_no_use() -> None:
    check = await checked(refused("500 Oh", "on fire"))
    assert check.verdict is Verdict.BAD
    assert "on fire" in check.remedy


async def test_a_model_that_is_not_there() -> None:
    check = await checked(ANSWER, model="other")
    assert check.verdict is Verdict.BAD
    assert "has tiny" in check.finding


def test_a_server_that_is_nowhere() -> None:
    asked = ["doctor", "--backend", "openai", "--url", "http://127.0.0.1:9/v1", "--port", "0"]
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 1
    assert "✗ server" in result.output
    assert "Check --url" in " ".join(result.output.split())
    assert "gpu" not in result.output, "nothing of vLLM is checked"


async def test_a_client_may_name_the_only_model_of_a_server() -> None:
    server = OpenAiServer()
    async with server.running():
        settings = load_settings(
            None,
            {
                "server": {"port": 0, "drain_s": 0},
                "engine": {"backend": "openai"},
                "openai": {"url": server.url},
            },
        )
        async with (
            launched(settings, (), lambda _stage, _done: None) as service,
            precall.Client(service.address) as client,
        ):
            assert service.model == "tiny"
            assert (await client.server_info()).model == "tiny"
            async with client.conversation(model="tiny") as conversation:
                assert str(await conversation.ask("Hello")) == "Hi"


async def test_settings_that_contradict_each_other() -> None:
    remote = load_settings(
        None, {"engine": {"backend": "openai"}, "openai": {"url": "http://localhost:1/v1"}}
    )
    nowhere = load_settings(None, {"engine": {"backend": "openai"}})
    local = load_settings(None, {"openai": {"url": "http://localhost:1/v1"}})
    with pytest.raises(CommandError, match="needs --url"):
        openai_config(nowhere)
    for settings, arguments, words in (
        (remote, ("--max-num-seqs", "2"), "need --backend vllm"),
        (local, (), "--url needs --backend openai"),
    ):
        with pytest.raises(CommandError, match=words):
            async with launched(settings, arguments, lambda _stage, _done: None):
                pass
