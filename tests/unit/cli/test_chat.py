"""A chat with the fake server: lines in, turns out."""

from __future__ import annotations

import asyncio
import io
import os
import re
import signal
import sys
from typing import Literal

import pytest
from rich.console import Console
from typer.testing import CliRunner

import precall
from precall.testing import Call, Disconnect, Fail, FakeServer, Hang, Predict, Say
from precall_service.cli import app
from precall_service.cli.chat_session import Chat, ChatOptions, chat_on, chat_once
from precall_service.cli.render import TurnView

TIME = re.compile(r"\d+\.\d+ s")


def options(
    server: FakeServer,
    *,
    tools: bool = True,
    choice: Literal["auto", "required"] = "auto",
    thinks: bool | None = None,
) -> ChatOptions:
    return ChatOptions(
        address=server.address,
        system="Be brief.",
        tools=tools,
        thinks=thinks,
        turn={"tool_choice": choice, "temperature": 0.0},
    )


def type_in(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))


async def test_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("random.randint", max)
    script = [Call("roll_dice", {"sides": 6}), Say("A six.")]
    async with FakeServer(script) as server:
        assert await chat_once(options(server, choice="required"), "Roll a die.")
    assert [TIME.sub("_", line) for line in capsys.readouterr().out.splitlines()] == [
        '  → roll_dice {"sides": 6}',
        "  ← roll_dice _  [6]",
        "A six.",
    ]
    opened = server.frames[0].open
    assert opened.system_prompt == "Be brief."
    assert len(opened.tools) == 2
    assert all(tool.effects.read_only for tool in opened.tools)
    assert server.turns[0].frame.generation.tool_choice.mode


async def test_a_call_that_runs_early_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("random.randint", max)
    die = ("roll_dice", {"sides": 6})
    script = [Predict(*die, wait=True), Call(*die, text="I roll."), Say("A six.")]
    async with FakeServer(script) as server:
        assert await chat_once(options(server), "Roll a die.")
    assert [TIME.sub("_", line) for line in capsys.readouterr().out.splitlines()] == [
        '  ~ roll_dice {"sides":6} runs early (history, 90%)',
        "  ~ roll_dice is ready after _",
        "I roll.",
        '  → roll_dice {"sides": 6}',
        "  ~ roll_dice is confirmed, foreseen _ before",
        "  ← roll_dice _  [6]  (ran early, saved _)",
        "A six.",
    ]
    assert server.frames[0].open.speculation.send_events


@pytest.mark.parametrize(
    ("thinks", "variables"),
    [(None, ""), (True, '{"enable_thinking":true}'), (False, '{"enable_thinking":false}')],
)
async def test_the_model_thinks_if_it_is_told_to(thinks: bool | None, variables: str) -> None:
    async with FakeServer([Say("hi")]) as server:
        assert await chat_once(options(server, thinks=thinks), "hello")
    assert server.frames[0].open.template_variables_json == variables


async def test_a_server_without_speculation_gets_no_declaration_of_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with FakeServer([Say("hi")], capabilities=[precall.Capability.TOOL_CALLS]) as server:
        assert await chat_once(options(server), "hello")
    assert not any(tool.effects.speculation_safe for tool in server.frames[0].open.tools)


async def test_tool_that_refuses_says_why_to_the_model(capsys: pytest.CaptureFixture[str]) -> None:
    script = [Call("current_time", {"timezone": "Atlantis"}), Say("I do not know.")]
    async with FakeServer(script) as server:
        assert await chat_once(options(server), "What time is it?")
    assert "✗ current_time failed" in capsys.readouterr().out
    assert "there is no time zone 'Atlantis'" in server.results[0].error_message


async def test_lines_of_a_pipe_are_turns_of_one_conversation(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    type_in(monkeypatch, "one", "", "/report", "/[/]", "two", "/quit", "three")
    async with FakeServer([Say("1")], [Say("2")]) as server:
        assert await chat_on(options(server, tools=False))
    shown = capsys.readouterr().out
    assert [turn.text for turn in server.turns] == ["one", "two"]
    assert shown.splitlines()[0] == "1"
    assert "whole turn" in shown
    assert "there is no command /[/]; /help lists" in shown
    assert shown.splitlines()[-1] == "2"


async def test_commands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    type_in(monkeypatch, "/help", "/tools", "/report", "/new", "hello")
    async with FakeServer([Say("hi")]) as server:
        assert await chat_on(options(server))
    shown = capsys.readouterr().out
    assert "/quit" in shown
    assert "roll_dice(sides, count)" in shown
    assert "(no turn yet)" in shown
    assert "(a new conversation)" in shown
    assert len([frame for frame in server.frames if frame.WhichOneof("frame") == "open"]) == 2


async def test_model_that_cannot_call_tools_chats(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async with FakeServer([Say("hi")], model="plain") as server:
        monkeypatch.setattr(server, "capabilities", ())
        assert await chat_once(options(server), "hello")
    assert not server.tools
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("hi\n", "(plain cannot call tools)\n")


async def test_greeting_shows_model_and_address(capsys: pytest.CaptureFixture[str]) -> None:
    async with (
        FakeServer([], model="[/]") as server,
        precall.Client(server.address) as client,
    ):
        chat = Chat(client, options(server), Console(soft_wrap=True))
        await chat.open()
        chat.greet()
    assert capsys.readouterr().out.startswith(f"[/] at {server.address}\n")


async def test_failed_turn_of_a_pipe_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    type_in(monkeypatch, "one", "two")
    async with FakeServer([Fail("ENGINE_UNAVAILABLE", "the engine starts")]) as server:
        with pytest.raises(precall.EngineUnavailableError, match="the engine starts"):
            await chat_on(options(server))


async def test_lost_connection_is_reported() -> None:
    async with FakeServer([Disconnect()]) as server:
        with pytest.raises(precall.ConnectionLostError):
            await chat_once(options(server), "one")


async def test_ctrl_c_cancels_the_turn(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    show = TurnView.show

    def show_and_press(view: TurnView, event: precall.Event) -> None:
        show(view, event)
        if isinstance(event, precall.TurnStarted):
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(TurnView, "show", show_and_press)
    async with FakeServer([Hang()]) as server, asyncio.timeout(10):
        assert not await chat_once(options(server), "one")
    assert "(cancelled)" in capsys.readouterr().out


def test_no_server_at_the_address() -> None:
    result = CliRunner().invoke(app, ["chat", "--address", "localhost:1", "--once", "hi"])
    assert result.exit_code == 1
    assert "cannot reach a precall server at localhost:1" in result.output
    assert "precall serve" in result.output
    assert "Traceback" not in result.output


def test_invalid_address() -> None:
    result = CliRunner().invoke(app, ["chat", "--address", "http://localhost:1", "--once", "hi"])
    assert result.exit_code == 1
    assert "host:port" in result.output
