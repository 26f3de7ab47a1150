"""What vLLM reads from the environment when it is imported."""

from __future__ import annotations

import os

import pytest

from precall_service.engine.base import EngineStartError
from precall_service.engine.vllm import environment


def test_vllm_is_imported_quietly_to_describe_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "environ", {"DO_NOT_TRACK": "0"})
    seen: dict[str, str] = {}

    def import_vllm() -> None:
        seen.update(os.environ)
        raise EngineStartError("it does not load")

    monkeypatch.setattr(environment, "import_vllm", import_vllm)
    assert environment.describe_environment("ERROR").problem == "it does not load"
    assert seen["VLLM_LOGGING_LEVEL"] == "ERROR"
    assert seen["VLLM_NO_USAGE_STATS"] == "1"
    assert seen["DO_NOT_TRACK"] == "0"
