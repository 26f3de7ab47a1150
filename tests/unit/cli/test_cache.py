"""The commands of `precall cache`, on the fake server."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from typer.core import TyperGroup
from typer.main import get_command
from typer.testing import CliRunner, Result

import precall
from precall.testing import FakeServer
from precall_service.cli import app, cache_session

ARGUMENTS = '{"city": "Paris"}'
CALL = ("get_weather", "1", ARGUMENTS)
COMMANDS = ["stats", "get", "versions", "put", "invalidate", "watch"]

Run = Callable[..., Awaitable[Result]]


@pytest.fixture
async def server() -> AsyncIterator[FakeServer]:
    async with FakeServer() as server:
        yield server


@pytest.fixture
def run(server: FakeServer) -> Run:
    """Runs `precall cache` beside the server's event loop."""

    async def run(*arguments: str, stdin: str | None = None) -> Result:
        command = ["cache", *arguments, "--address", server.address]
        return await asyncio.to_thread(CliRunner().invoke, app, command, input=stdin)

    return run


def printed(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


async def test_what_was_put_is_printed(run: Run) -> None:
    assert printed(await run("put", *CALL, '{"celsius": 21}', "--ttl", "60")) == {
        "entry_version": 1
    }
    found = await run("get", *CALL)
    assert printed(found) == {"celsius": 21}
    assert "version 1 (put), stored at " in found.stderr


async def test_the_whole_entry_is_one_object(run: Run) -> None:
    found = printed(await run("versions", "file:/a=b", "order:*"))
    versions = {"file:/a=b": 0, "order:*": 0}
    assert found == {"versions": versions, "position": 0}
    options = ("--conversation", "c1", "--cost", "1.5", "--content", "warm", "--expect", "0")
    observed = ("--observed", "file:/a=b=0", "--observed", "order:*=0", "--position", "0")
    put = await run("put", *CALL, "-", "--ttl", "60", *options, *observed, stdin="[1, null]")
    assert printed(put) == {"entry_version": 1}
    assert (
        "depends on order:* at version 0"
        in (await run("get", *CALL, "--conversation", "c1")).stderr
    )
    entry = printed(await run("get", *CALL, "--conversation", "c1", "--json"))
    assert entry.pop("created_at") < entry.pop("expires_at")
    assert entry == {
        "key": {
            "tool": "get_weather",
            "version": "1",
            "arguments": {"city": "Paris"},
            "conversation": "c1",
        },
        "result": [1, None],
        "entry_version": 1,
        "resource_versions": versions,
        "execution_id": "",
        "origin": "put",
        "recompute_cost_s": 1.5,
        "content": "warm",
    }


async def test_no_entry_is_a_failure(run: Run) -> None:
    result = await run("get", *CALL)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "no usable entry" in result.stderr


async def test_a_result_that_is_out_of_date_is_not_put(run: Run) -> None:
    await run("invalidate", "--resource", "file:/a")
    result = await run("put", *CALL, "1", "--ttl", "60", "--observed", "file:/a=0")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "'file:/a' has changed" in result.stderr


async def test_stats(run: Run) -> None:
    await run("get", *CALL)
    stats = printed(await run("stats"))
    assert (stats["misses"], stats["hits"], stats["store_available"]) == (1, 0, True)


TARGETS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "tool": (("--tool", "a"), {"tool": "a"}),
    "tool version": (("--tool", "a", "--version", "2"), {"tool_version": ["a", "2"]}),
    "resource": (("--resource", "file:/a"), {"resource": "file:/a"}),
    "conversation": (("--conversation", "c1"), {"conversation": "c1"}),
    "everything": (("--all",), {"all": True}),
    "one entry": (
        ("--tool", "a", "--version", "2", "--arguments", "{}", "--conversation", "c1"),
        {"key": {"tool": "a", "version": "2", "arguments": {}, "conversation": "c1"}},
    ),
}


@pytest.mark.parametrize(("options", "target"), TARGETS.values(), ids=list(TARGETS))
async def test_invalidating(
    run: Run, server: FakeServer, options: tuple[str, ...], target: dict[str, Any]
) -> None:
    assert printed(await run("invalidate", *options)) == {"position": 1}
    async with precall.Client(server.address) as client:
        change = await anext(client.cache.watch(0))
    told = cache_session._change(change)  # pyright: ignore[reportPrivateUsage]
    told["target"] = json.loads(json.dumps(told["target"]))
    assert (told["change"], told["target"]) == ("invalidated", target)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((), "exactly one of"),
        (("--all", "--tool", "a"), "exactly one of"),
        (("--tool", "a", "--conversation", "c1"), "exactly one of"),
        (("--version", "1"), "--version needs --tool"),
        (("--tool", "a", "--arguments", "{}"), "--arguments needs --tool and --version"),
        (("--tool", "a", "--version", "1", "--arguments", "[]"), "a JSON object is needed"),
        (("--tool", "a", "--version", "1", "--arguments", "{}", "--all"), "exactly one of"),
    ],
)
def test_invalidating_what_is_unclear(options: tuple[str, ...], says: str) -> None:
    result = CliRunner().invoke(app, ["cache", "invalidate", *options])
    assert (result.exit_code, result.stdout) == (2, "")
    assert says in result.stderr


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("a", "1", "{", "1", "--ttl", "60"), "ARGUMENTS: '{' is not JSON"),
        (("a", "1", "[]", "1", "--ttl", "60"), "ARGUMENTS: a JSON object is needed"),
        (("a", "1", "{}", "sunny", "--ttl", "60"), "RESULT: 'sunny' is not JSON"),
        (("a", "1", "{}", "NaN", "--ttl", "60"), "RESULT: 'NaN' is not JSON: JSON has no NaN"),
        (("a", "1", "{}", "1", "--ttl", "0"), "--ttl is 0.0, and must be a number of seconds"),
        (("a", "1", "{}", "1", "--ttl", "60", "--observed", "file:/a"), "NAME=VERSION is needed"),
        (("a", "1", "{}", "1", "--ttl", "60", "--tenant", "a b"), "tenant 'a b' is not"),
        (("a", "1", "{}", "1", "--ttl", "60", "--address", "here"), "host:port"),
    ],
)
def test_putting_what_is_wrong(given: tuple[str, ...], says: str) -> None:
    result = CliRunner().invoke(app, ["cache", "put", *given])
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    assert says in result.stderr


def test_stdin_that_is_no_text() -> None:
    result = CliRunner().invoke(app, ["cache", "put", *CALL, "-", "--ttl", "1"], input=b"\xff")
    assert (result.exit_code, "stdin is not text" in result.stderr) == (2, True)


def test_no_server_at_the_address() -> None:
    result = CliRunner().invoke(app, ["cache", "stats", "--address", "localhost:1"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert "cannot reach a precall server at localhost:1" in result.stderr


async def test_a_server_without_a_cache() -> None:
    async with FakeServer(capabilities=()) as server:
        command = ["cache", "stats", "--address", server.address]
        result = await asyncio.to_thread(CliRunner().invoke, app, command)
    assert result.exit_code == 1
    assert "TOOL_CACHE" in result.stderr


async def test_a_watch_prints_lines_until_ctrl_c(server: FakeServer) -> None:
    program = "from precall_service.cli import main; main()"
    command = (sys.executable, "-c", program, "cache", "watch", "--after", "0")
    watching = await asyncio.create_subprocess_exec(
        *command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PRECALL_ADDRESS": server.address},
    )
    assert watching.stdout is not None
    async with precall.Client(server.address) as client, asyncio.timeout(30):
        await client.cache.put("a", "1", {}, 1, ttl_s=60)
        stored = json.loads(await watching.stdout.readline())
        await client.cache.invalidate(resource="file:/a")
        invalidated = json.loads(await watching.stdout.readline())
        watching.send_signal(signal.SIGINT)
        _, errors = await watching.communicate()
    assert watching.returncode == 130
    assert errors == b""
    assert stored.pop("at") <= invalidated.pop("at")
    assert stored == {
        "position": 1,
        "change": "stored",
        "key": {"tool": "a", "version": "1", "arguments": {}, "conversation": ""},
        "entry_version": 1,
    }
    assert invalidated == {
        "position": 2, "change": "invalidated", "target": {"resource": "file:/a"},
    }  # fmt: skip


def test_every_command_has_examples_and_help_for_every_option() -> None:
    group = get_command(app)
    assert isinstance(group, TyperGroup)
    cache = group.commands["cache"]
    assert isinstance(cache, TyperGroup)
    assert list(cache.commands) == COMMANDS
    for name, command in cache.commands.items():
        assert "Examples" in (command.help or ""), name
        assert f"precall cache {name}" in (command.help or "")
        assert all(getattr(parameter, "help", None) for parameter in command.params), name
