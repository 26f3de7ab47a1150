"""A server in a process of its own, on a scripted engine: `python -m tests.support.server_process`.

The model does what the user says: "read /a" makes a call of the tool `read` with that path. The
process prints its address, and serves until it is killed. Its argument is the settings, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from pydantic import JsonValue

from precall_service.app import serve
from precall_service.engine.base import Progress, StepSpec
from precall_service.engine.vllm.token_prompt import TokenPrompt
from precall_service.settings import load_settings
from tests.support.scripted_engine import INFO, ScriptedEngine
from tests.support.scripted_template import prompt_text
from tests.support.scripts import Step, calls, says

ROOT = Path(__file__).parents[2]
START_S = 30.0

Section = Mapping[str, JsonValue]
"""The settings of one section, by their names in the settings file."""


def obey(prompt: TokenPrompt, _spec: StepSpec) -> Step:
    """Makes the call that the user asks for, or answers after it."""
    last = prompt_text(prompt).split("\n")[-2]
    if not last.startswith("<user>"):
        return says("done")
    tool, path = last.removeprefix("<user>").split()
    return calls((tool, json.dumps({"path": path})))


async def _factory(on_progress: Progress) -> ScriptedEngine:
    return ScriptedEngine(obey, INFO)


def _ignore(_stage: str, _fraction: float | None) -> None:
    pass


async def _serve(sections: Mapping[str, JsonValue]) -> None:
    settings = load_settings(None, sections)
    async with serve(settings, _factory, model="script", on_progress=_ignore) as service:
        print(service.address, flush=True)
        await asyncio.Event().wait()


@asynccontextmanager
async def server_process(
    store_url: str | None = None, **sections: Section
) -> AsyncGenerator[tuple[str, asyncio.subprocess.Process]]:
    """Runs a server with its cache in this store; yields its address and its process.

    `sections` are settings as in the settings file.
    """
    given: dict[str, JsonValue] = {name: dict(knobs) for name, knobs in sections.items()}
    given["server"] = {"port": 0, "drain_s": 0, **sections.get("server", {})}
    given["cache"] = {"store_url": store_url, **sections.get("cache", {})}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.support.server_process", json.dumps(given)),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(START_S):
            address = (await process.stdout.readline()).decode().strip()
        assert address, "the server did not start"
        yield address, process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


if __name__ == "__main__":
    asyncio.run(_serve(json.loads(sys.argv[1])))
