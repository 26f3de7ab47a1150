"""How the end of the engine's process is described."""

from __future__ import annotations

import pytest

from tests.support.prompt_renderers import tokenizer


def described(exit_code: int) -> str:
    tokenizer()  # first, since it imports vLLM as precall does
    from precall_service.engine.vllm.processes import described_exit

    return described_exit(exit_code)


def test_a_kill_for_memory_is_told() -> None:
    text = described(-9)
    assert text.startswith("killed by signal 9 (SIGKILL)")
    assert "out-of-memory" in text


@pytest.mark.parametrize(
    ("exit_code", "text"),
    [
        (-11, "killed by signal 11 (SIGSEGV)"),
        (-40, "killed by signal 40"),
        (0, "exit status 0, as after SIGTERM"),
    ],
)
def test_other_ends_are_told(exit_code: int, text: str) -> None:
    assert described(exit_code) == text


def test_a_failure_is_told_with_where_to_look() -> None:
    assert described(1).startswith("exit status 1;")
