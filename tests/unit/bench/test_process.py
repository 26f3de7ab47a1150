"""A child that fails is shown with what it said; none starts with what others do not have."""

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


async def is_not_liked(child: Child) -> None:
    raise RuntimeError("agent-1 made 2 calls, not 4")


@pytest.mark.parametrize(
    ("act", "told"),
    [
        (never_answers, "takes more than 0.2 s"),
        (ends, "ended; what it said is above"),
        (fails, "RuntimeError: no such luck"),
        (is_not_liked, "failed: RuntimeError: agent-1 made 2 calls, not 4"),
    ],
)
async def test_whatever_fails_shows_what_the_child_said(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    act: Callable[[Child], Awaitable[None]],
    told: str,
) -> None:
    monkeypatch.setattr(process, "STOP_TIMEOUT_S", 1.0)
    with pytest.raises(ChildFailedError, match=told):
        async with started(MODULE, {}) as child:
            await act(child)
    assert "said:\nthe reason stands here" in capfd.readouterr().err


async def test_settings_of_precall_reach_no_arm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRECALL_ENGINE__STRUCTURED_CALLS", "false")
    monkeypatch.setenv("PRECALL_CACHE_DIR", "models")
    async with started(MODULE, {}, environ={"ITS_OWN": "1"}) as child:
        environ = await child.ask("environ")
    assert environ == {
        **{name: value for name, value in os.environ.items() if "STRUCTURED_CALLS" not in name},
        "ITS_OWN": "1",
    }
