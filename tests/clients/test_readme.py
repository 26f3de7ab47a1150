"""The README's examples run unchanged, cell by cell in one running loop, as in a notebook."""

from __future__ import annotations

import ast
import inspect
import re
import types
from pathlib import Path

import pytest

from precall.testing import Call, Fail, FakeServer, Say

README = Path(__file__).parents[2] / "clients/python/README.md"
CELL = re.compile(r"^```python\n(.*?)^```", re.M | re.S)
ADDRESS = "localhost:50151"


async def test_readme(capsys: pytest.CaptureFixture[str]) -> None:
    cells = CELL.findall(README.read_text())
    scripts = (
        [Call("get_weather", {"city": "Paris"}), Say("Sunny.")],
        [Say("Sunny too.")],
        [Say("In Paris.")],
        [Call("read_note", {"name": "shopping"}), Say("Milk.")],
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
    assert len(cells) == 6
    assert ADDRESS in cells[0]
    assert [turn.text for turn in server.turns[4:]] == ["Hello", "Hello"]
    assert set(server.tools) == {"get_weather", "find_places", "send_message", "read_note"}
    assert "ResultSource.CACHE\n" in capsys.readouterr().out
