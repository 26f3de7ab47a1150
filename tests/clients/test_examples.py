"""The programs in examples/, with the real service on the scripted engine."""

from __future__ import annotations

import asyncio
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

import precall
from tests.support.scripts import Pause, Step, calls, says
from tests.support.stream import running_server

EXAMPLES = Path(__file__).parents[2] / "examples"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def script(city: str, may_call: asyncio.Event) -> list[Step]:
    """The model calls once it may, and then answers."""
    call = calls(("get_weather", f'{{"city": "{city}"}}'))
    return [[Pause(may_call), *call], says("It is sunny.")]


async def test_a_call_that_the_client_guessed_is_answered_from_the_cache(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module, may_call = example("speculating_client"), asyncio.Event()
    put = precall.ToolCache.put

    async def put_and_go_on(*arguments: object, **options: object) -> int:
        version = await put(*arguments, **options)  # pyright: ignore[reportArgumentType, reportCallIssue]
        may_call.set()
        return version

    monkeypatch.setattr(precall.ToolCache, "put", put_and_go_on)
    async with running_server(script("Paris", may_call)) as server:
        await module.main(server.service.address)
    out = capsys.readouterr().out
    assert '{"city": "Paris"} -> "It is sunny in Paris." (from: cache)' in out
    assert "It is sunny.\n0.0" in out


@pytest.mark.parametrize("city", ["Paris", "Tokyo"])
async def test_a_guess_that_is_wrong_or_stale_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], city: str
) -> None:
    """The weather of Paris is written while the guess runs, and Tokyo is not guessed."""
    module, may_call = example("speculating_client"), asyncio.Event()
    put = precall.ToolCache.put

    async def write_and_put(cache: precall.ToolCache, *given: object, **options: object) -> int:
        await cache.invalidate(resource="weather:*")
        try:
            return await put(cache, *given, **options)  # pyright: ignore[reportArgumentType, reportCallIssue]
        finally:
            may_call.set()

    monkeypatch.setattr(precall.ToolCache, "put", write_and_put)
    async with running_server(script(city, may_call)) as server:
        await module.main(server.service.address)
    told = capsys.readouterr()
    assert f'"It is sunny in {city}." (from: committed)' in told.out
    assert "the guess for Paris was not stored" in told.err
