"""The output of a failed child is shown, and every child starts with the same environment."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable

import pytest

from bench import process
from bench.process import Child, ChildFailedError, started

MODULE = "tests.support.bench_child"


async def never_answers(child: Child) -> None:
    await child.ask("sleep", timeout_s=0.2)


async def ends(child: Child) -> None:
    await child.ask("end")


async def fails(child: Child) -> None:
    await child.ask("fail")


async def measuring_fails(child: Child) -> None:
    raise RuntimeError("agent-1 made 2 calls, not 4")


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (never_answers, "took more than 0.2 s"),
        (ends, "ended; its output is above"),
        (fails, "RuntimeError: no such luck"),
        (measuring_fails, "failed: RuntimeError: agent-1 made 2 calls, not 4"),
    ],
)
async def test_every_failure_shows_the_output_of_the_child(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    act: Callable[[Child], Awaitable[None]],
    message: str,
) -> None:
    monkeypatch.setattr(process, "STOP_TIMEOUT_S", 1.0)
    with pytest.raises(ChildFailedError, match=message):
        async with started(MODULE, {}) as child:
            await act(child)
    assert "bench_child:\nthe reason of the failure" in capfd.readouterr().err


async def test_no_arm_gets_settings_of_precall(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRECALL_ENGINE__STRUCTURED_CALLS", "false")
    monkeypatch.setenv("PRECALL_CACHE_DIR", "models")
    async with started(MODULE, {}, environ={"ITS_OWN": "1"}) as child:
        environ = await child.ask("environ")
    assert environ == {
        **{name: value for name, value in os.environ.items() if "STRUCTURED_CALLS" not in name},
        "ITS_OWN": "1",
    }
