"""The whole service on a scripted engine, without a model.

The `speculation_off` bench also runs this file in a copy of an older commit. So it uses only what
both have.
"""

from __future__ import annotations

import cProfile
import gc
from dataclasses import replace
from typing import Any

from bench.process import Link, run_child
from precall_service import app
from precall_service.domain.json import JsonObject
from precall_service.engine.base import Engine, Progress, TextPiece
from precall_service.settings import load_settings
from tests.support.scripted_engine import INFO, ScriptedEngine
from tests.support.scripts import TICK, Item, always


async def main(config: JsonObject, link: Link) -> None:
    """Serves until the bench ends."""
    deltas, text = int(str(config["deltas"])), str(config["text"])
    piece = TextPiece(text)
    step: list[Item] = [piece] * deltas
    if config["ticks"]:
        step = [item for _ in range(deltas) for item in (piece, TICK)]
    context = deltas * len(text) + 4096  # each character is a token
    info = replace(INFO, context_tokens_max=context, sequences_max=4096, kv_tokens=4096 * context)

    async def factory(on_progress: Progress) -> Engine:
        return ScriptedEngine(always(step), info)

    sections: dict[str, Any] = {
        "server": {"port": 0},
        "conversations": {"turn_tokens_max": context},
    }
    if "speculation" in config:  # older commits have no such setting
        sections["speculation"] = {"mode": config["speculation"]}
    settings = load_settings(None, sections)
    profile = cProfile.Profile()

    async def start_profile(_fields: JsonObject) -> JsonObject:
        profile.enable()
        return {}

    async def end_profile(fields: JsonObject) -> JsonObject:
        profile.disable()
        profile.dump_stats(str(fields["path"]))
        return {}

    async def collect(_fields: JsonObject) -> JsonObject:
        gc.collect()
        return {}

    commands = {"collect": collect, "start_profile": start_profile, "end_profile": end_profile}
    async with app.serve(
        settings, factory, model="script", on_progress=lambda _stage, _fraction: None
    ) as service:
        await link.answer({"address": service.address}, commands)


if __name__ == "__main__":
    run_child(main)
