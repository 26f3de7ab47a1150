"""The service on the real engine, with a predictor of the bench in the place of the fork if asked.

Owns: the count of the tokens that turns generate, without those of branches, and the times of their
    steps.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, cast

from bench.adversary import Oracle, WrongFork
from bench.process import Link, run_child
from bench.step_times import StepRecorder
from bench.tool_calls import Call
from precall_service import app
from precall_service.agent.account import Happening, Sampled, TurnAccount
from precall_service.cli.launch import engine_config
from precall_service.domain.json import JsonObject
from precall_service.engine.models import resolve_model
from precall_service.engine.vllm.factory import VllmEngineFactory
from precall_service.settings import load_settings
from precall_service.speculation.base import Predictor
from precall_service.speculation.predictors.fork import Fork


class Tokens:
    """Counts the tokens that turns generate."""

    def __init__(self) -> None:
        self._count = 0
        note, tokens = TurnAccount.note, self

        def noted(self: TurnAccount, happening: Happening) -> None:
            if type(happening) is Sampled:
                tokens._count += len(happening.token_ids)
            note(self, happening)

        TurnAccount.note = noted

    async def take(self, _fields: JsonObject) -> JsonObject:
        """Returns the count, and the time."""
        return {"tokens": self._count, "at": time.monotonic()}


async def main(config: JsonObject, link: Link) -> None:
    """Serves until the bench ends."""
    # On a GPU, drafts have to be asked for.
    section = {"drafts": True} | {name: config[name] for name in ("model", "device", "vllm")}
    settings = load_settings(
        None,
        cast(
            Any,
            {
                "server": {"port": 0, "drain_s": 0, "info_counts": True},
                "engine": section,
                "speculation": config["speculation"],
                "admission": config["admission"],
            },
        ),
    )
    oracle = Oracle()
    predictors: dict[str, Callable[[], Predictor]] = {
        "fork": Fork,
        "oracle": lambda: oracle,
        "wrong": WrongFork,
    }
    setattr(app, "Fork", predictors[str(config["predictor"])])  # noqa: B010 - it is no class
    model = await asyncio.to_thread(resolve_model, settings.engine.model)
    tokens, steps = Tokens(), StepRecorder()

    async def expect(fields: JsonObject) -> JsonObject:
        """Tells the oracle which calls follow a message."""
        steps = cast(list[list[tuple[str, str]]], fields["steps"])
        oracle.expected[str(fields["text"])] = [[Call(*call) for call in step] for step in steps]
        return {}

    async with app.serve(
        settings,
        VllmEngineFactory(engine_config(settings, model)),
        model=model.display_name,
        on_progress=lambda _stage, _fraction: None,
    ) as service:
        commands = {"expect": expect, "tokens": tokens.take, "steps": steps.take}
        await link.answer({"address": service.address}, commands)


if __name__ == "__main__":
    run_child(main)
