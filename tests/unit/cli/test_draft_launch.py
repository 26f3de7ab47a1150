"""What `precall serve` starts where there is a draft model."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, nullcontext
from typing import Any

import pytest

from precall_service.cli import launch
from precall_service.cli.errors import CommandError
from precall_service.cli.launch import launched
from precall_service.engine.openai.config import OpenAiConfig
from precall_service.engine.openai.factory import OpenAiEngineFactory
from precall_service.engine.vllm.config import VllmConfig
from precall_service.engine.vllm.factory import VllmEngineFactory
from precall_service.settings import load_settings

EMBEDDED = {"model": "embedded", "vllm": {"max_num_seqs": 3}}
SERVER = {"url": "http://localhost:8001/v1"}


def silent(_stage: str, _fraction: float | None) -> None:
    pass


def configured(factory: Any) -> VllmConfig | OpenAiConfig | None:
    assert isinstance(factory, VllmEngineFactory | OpenAiEngineFactory | None)
    return None if factory is None else factory._config  # pyright: ignore[reportPrivateUsage]


async def started(
    monkeypatch: pytest.MonkeyPatch, **sections: Mapping[str, Any]
) -> tuple[VllmConfig | OpenAiConfig | None, VllmConfig | OpenAiConfig | None]:
    """The configurations of both engines that the service is given, without starting it."""
    given: list[Any] = []

    @asynccontextmanager
    async def serve(_settings: Any, factory: Any, **more: Any) -> AsyncGenerator[None]:
        given.extend((factory, more["draft_factory"]))
        yield

    monkeypatch.setattr(launch, "serve", serve)
    monkeypatch.setattr(launch, "quiet_heap", nullcontext)  # there is no service
    settings = load_settings(None, {name: dict(fields) for name, fields in sections.items()})
    async with launched(settings, (), silent):
        main, draft = given
        return configured(main), configured(draft)


async def test_a_draft_model_beside_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    main, draft = await started(monkeypatch, speculation={"draft_model": EMBEDDED})
    assert isinstance(main, VllmConfig)
    assert isinstance(draft, VllmConfig)
    assert draft.settings == {"max_num_seqs": 3}
    if len(os.sched_getaffinity(0)) > 1:
        assert main.cores
        assert draft.cores
        assert not main.cores & draft.cores


async def test_a_draft_model_on_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    main, draft = await started(monkeypatch, speculation={"draft_model": SERVER})
    assert isinstance(main, VllmConfig)
    assert main.cores is None
    assert isinstance(draft, OpenAiConfig)


async def test_a_draft_model_beside_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    main, draft = await started(
        monkeypatch,
        engine={"backend": "openai", "model": "tiny"},
        openai={"url": "http://localhost:8000/v1"},
        speculation={"draft_model": EMBEDDED},
    )
    assert isinstance(main, OpenAiConfig)
    assert isinstance(draft, VllmConfig)
    assert draft.cores is None


@pytest.mark.parametrize(
    "speculation",
    [
        {},
        {"draft_model": EMBEDDED, "mode": "off"},
        {"draft_model": EMBEDDED, "predictors": ["history"]},
    ],
    ids=["none", "off", "not among the predictors"],
)
async def test_a_draft_model_that_would_not_be_asked_is_not_started(
    monkeypatch: pytest.MonkeyPatch, speculation: Mapping[str, Any]
) -> None:
    main, draft = await started(monkeypatch, speculation=speculation)
    assert isinstance(main, VllmConfig)
    assert main.cores is None
    assert draft is None


async def test_a_draft_model_that_is_missing_is_told_as_such(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(CommandError, match=r"the draft model \(speculation.draft_model.model\): "):
        await started(monkeypatch, speculation={"draft_model": {"model": "./none"}})
