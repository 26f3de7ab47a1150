"""The service, started as `precall serve` starts it, with the settings of a bench."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from bench.process import Link, run_child
from precall_service.cli.launch import launched
from precall_service.domain.json import JsonObject
from precall_service.engine.supervisor import EngineState
from precall_service.settings import load_settings

START_TIMEOUT_S = 600.0


async def main(config: JsonObject, link: Link) -> None:
    """Serves until the bench ends. It is ready once the engine of the draft model is.

    `config` has the sections of the settings.
    """
    sections = {**config, "server": {"port": 0, "drain_s": 0}}
    settings = load_settings(None, cast(Any, sections))
    async with launched(settings, (), lambda _stage, _fraction: None) as service:
        if service.draft_engines is not None:
            async with asyncio.timeout(START_TIMEOUT_S):
                async for state in service.draft_engines.states():
                    if state is EngineState.READY:
                        break
        await link.answer({"address": service.address}, {})


if __name__ == "__main__":
    run_child(main)
