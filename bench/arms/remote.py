"""The service in front of a server elsewhere."""

from __future__ import annotations

from typing import Any, cast

from bench.process import Link, run_child
from precall_service import app
from precall_service.cli.launch import openai_config
from precall_service.domain.json import JsonObject
from precall_service.engine.openai.factory import OpenAiEngineFactory
from precall_service.settings import load_settings


async def main(config: JsonObject, link: Link) -> None:
    """Serves until the bench ends."""
    sections = {
        "server": {"port": 0, "drain_s": 0},
        "engine": {"backend": "openai", "model": config["model"]},
        "openai": {"url": config["url"]},
    }
    settings = load_settings(None, cast(Any, sections))
    async with app.serve(
        settings,
        OpenAiEngineFactory(openai_config(settings)),
        model=str(config["model"]),
        on_progress=lambda _stage, _fraction: None,
    ) as service:
        await link.answer({"address": service.address}, {})


if __name__ == "__main__":
    run_child(main)
