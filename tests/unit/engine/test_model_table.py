"""docs/models.md says what is proved of every family."""

from __future__ import annotations

import pytest

from tests.support.model_families import MODEL_TYPES, names
from tests.support.model_table import DOCUMENT, proved_families, read_families, refreshed


@pytest.mark.timeout(300)
async def test_the_document_says_what_is_proved() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    proved = await proved_families()
    assert text == refreshed(text, proved), "run `.venv/bin/python -m tests.support.model_table`"


def test_the_families_are_those_of_the_templates() -> None:
    assert set(MODEL_TYPES) <= set(names())
    assert {"Qwen-Qwen3-0.6B", "meta-llama-Llama-3.1-8B-Instruct"} <= set(read_families())
