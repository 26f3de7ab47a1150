"""The README's examples run unchanged, cell by cell in one running loop, as in a notebook."""

from __future__ import annotations

import ast
import inspect
import re
import types
from pathlib import Path

import pytest

from precall.testing import Call, Fail, FakeServer, Predict, Say

README = Path(__file__).parents[2] / "clients/python/README.md"
CELL = re.compile(r"^```python\n(.*?)^```", re.M | re.S)
ADDRESS = "localhost:50151"


async def test_readme(capsys: pytest.CaptureFixture[str]) -> None:
    cells = CELL.findall(README.read_text())
    flight = ("find_flights", {"origin": "Oslo", "destination": "Rome"})
    scripts = (
        [Call("get_weather", {"city": "Paris"}), Say("Sunny.")],
        [Say("Sunny too.")],
        [Say("In Paris.")],
        [Call("read_note", {"name": "shopping"}), Say("Milk.")],
        [
            Predict(*flight),
            Predict("find_flights", {"origin": "Rome", "destination": "Oslo"}),
            Call(*flight),
            Say("At 08:15."),
        ],
        [Fail("ENGINE_UNAVAILABLE", "the engine restarts", 0.01)],
        [Say("Hello.")],
    )
    async with FakeServer(*scripts) as server:
        notebook = types.ModuleType("__main__").__dict__
        for cell in cells:
            code = compile(
                cell.replace(ADDRESS, server.address),
                str(README),
                "exec",
                flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT,
            )
            result = eval(code, notebook)
            if inspect.isawaitable(result):
                await result
        await notebook["client"].close()
    assert len(cells) == 8
    assert ADDRESS in cells[0]
    assert [turn.text for turn in server.turns[5:]] == ["Hello", "Hello"]
    assert set(server.tools) == {
        "get_weather", "find_places", "send_message", "read_note", "find_flights",
    }  # fmt: skip
    told = capsys.readouterr().out
    for line in (
        "ResultSource.CACHE",
        "SpeculationMode.ISSUE",
        "[find_flights is expected: history 90%]",
        "[not needed: mismatch]",
        "At 08:15. 1",
    ):
        assert f"{line}\n" in told
    assert "[ran early, saved 0." in told
