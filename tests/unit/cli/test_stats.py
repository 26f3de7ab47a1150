"""`precall stats`, on the fake server."""

from __future__ import annotations

import asyncio
import json
import re

from typer.testing import CliRunner, Result

from precall import (
    Predictor,
    PredictorRecord,
    SpeculationMode,
    SpeculationStats,
    ToolSpeculation,
)
from precall.testing import FakeServer
from precall_service.cli import app

HISTORY = PredictorRecord(
    predictor=Predictor.HISTORY, stage=SpeculationMode.ISSUE, pinned=True, proposed=1200,
    launched=9, resolved=10, matched=7, confirmed=6, saved_s=1.5, wasted_s=0.5,
)  # fmt: skip
FORK = PredictorRecord(
    predictor=Predictor.FORK, stage=SpeculationMode.SHADOW, proposed=3, would_save_s=0.75,
    would_waste_s=12.0, draft_tokens_proposed=400, draft_tokens_accepted=30, saved_by_drafts_s=0.25,
)  # fmt: skip
DISPATCH = PredictorRecord(predictor=Predictor.EARLY_DISPATCH, stage=SpeculationMode.OFF)
STATS = SpeculationStats(
    tools=(
        ToolSpeculation(
            tool_name="[look]", calls=8, calls_confirmed=6, run_time_s=0.25,
            predictors=(HISTORY, FORK),
        ),
        ToolSpeculation(tool_name="roll", calls=1, breaker_open=True, predictors=(DISPATCH,)),
        ToolSpeculation(tool_name="rarely"),
    ),
    allowance=0.5,
)  # fmt: skip


async def run(server: FakeServer, *options: str) -> Result:
    command = ["stats", *options, "--address", server.address]
    return await asyncio.to_thread(CliRunner().invoke, app, command)


async def test_every_tool_and_predictor_has_a_line() -> None:
    async with FakeServer(speculation_stats=STATS) as server:
        result = await run(server)
    assert result.exit_code == 0, result.output
    counts = ["predictor", "stage", "proposed", "launched", "confirmed", "acceptance"]
    times = ["saved", "wasted"]
    assert [re.split(r" {2,}", line.strip()) for line in result.stdout.splitlines()] == [
        ["[look]", "8 calls, coverage 75% (6 answered early), a run takes 0.25 s"],
        [*counts, *times, "would save", "would waste", "draft tokens", "saved by drafts"],
        [
            "history", "issue (pinned)", "1200", "9", "6", "70%",
            "1.50 s", "0.50 s", "0.00 s", "0.00 s", "0 of 0", "0.00 s",
        ],
        [
            "fork", "shadow", "3", "0", "0", "-", "0.00 s", "0.00 s", "0.75 s", "12.00 s",
            "30 of 400", "0.25 s",
        ],
        [""],
        ["roll", "1 call, coverage 0% (0 answered early), breaker open"],
        [*counts, *times],
        ["early dispatch", "off", "0", "0", "0", "-", "0.00 s", "0.00 s"],
        [""],
        ["rarely", "0 calls"],
        [""],
        ["the engine's load allows 50% of speculation"],
    ]  # fmt: skip


async def test_the_numbers_are_aligned() -> None:
    async with FakeServer(speculation_stats=STATS) as server:
        _, header, history, fork, *_ = (await run(server)).stdout.splitlines()
    assert len(header) == len(history) == len(fork)
    ends = [header.index(name) + len(name) for name in ("proposed", "would waste", "draft tokens")]
    assert history[: ends[0]].split()[-1] == "1200"
    assert fork[: ends[1]].split()[-2] == "12.00"
    assert fork[: ends[2]].split()[-3:] == ["30", "of", "400"]


async def test_programs_get_one_object() -> None:
    async with FakeServer(speculation_stats=STATS) as server:
        told = json.loads((await run(server, "--json")).stdout)
    assert told["allowance"] == 0.5
    look, roll, rarely = told["tools"]
    history, fork = look.pop("predictors")
    assert look == {
        "tool_name": "[look]", "calls": 8, "calls_confirmed": 6, "run_time_s": 0.25,
        "breaker_open": False, "coverage": 0.75,
    }  # fmt: skip
    assert history == {
        "predictor": "history", "stage": "issue", "pinned": True, "proposed": 1200, "launched": 9,
        "resolved": 10, "matched": 7, "confirmed": 6, "saved_s": 1.5, "wasted_s": 0.5,
        "would_save_s": 0.0, "would_waste_s": 0.0, "acceptance": 0.7,
        "draft_tokens_proposed": 0, "draft_tokens_accepted": 0, "saved_by_drafts_s": 0.0,
    }  # fmt: skip
    assert (fork["stage"], fork["acceptance"]) == ("shadow", None)
    assert roll["breaker_open"]
    assert (rarely["coverage"], rarely["run_time_s"], rarely["predictors"]) == (None, None, [])


async def test_nothing_yet() -> None:
    async with FakeServer() as server:
        plain, programs = await run(server), await run(server, "--json")
    assert (plain.exit_code, plain.stdout) == (0, "")
    assert "Nothing yet" in plain.stderr
    assert "read_only and speculation_safe" in plain.stderr
    assert json.loads(programs.stdout) == {"tools": [], "allowance": 1.0}


async def test_a_service_that_does_not_speculate() -> None:
    async with FakeServer(capabilities=()) as server:
        result = await run(server)
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"the service at {server.address} does not speculate" in result.stderr


def test_no_server_at_the_address() -> None:
    result = CliRunner().invoke(app, ["stats", "--address", "localhost:1"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert "cannot reach a precall server at localhost:1" in result.stderr


def test_what_is_wrong_is_said() -> None:
    for option in (("--tenant", "a b"), ("--address", "here")):
        result = CliRunner().invoke(app, ["stats", *option])
        assert (result.exit_code, result.stdout) == (2, "")
