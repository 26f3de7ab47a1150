"""The demo's own judgement of a turn, against a scripted model."""

from __future__ import annotations

import pytest
from rich.console import Console

from precall.testing import Call, FakeServer, Parallel, Say
from precall_service.cli import scenario
from precall_service.cli.demo import _turn  # pyright: ignore[reportPrivateUsage]
from precall_service.cli.errors import CommandError
from precall_service.cli.scenario import Functions

MILES = Call("convert_to_miles", {"kilometers": 42})
TIME = Call("get_time", {"city": "Tokyo"})


@pytest.fixture(autouse=True)
def clock_that_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    def at_noon(_city: str) -> str:
        return "12:00"

    monkeypatch.setattr(scenario, "_local_time", at_noon)


def answer(*names: str) -> str:
    functions = Functions()
    results = {
        "convert_to_miles": functions.convert_to_miles(42),
        "get_time": functions.get_time("Tokyo"),
    }
    return " and ".join(results[name] for name in names)


async def shown(*script: Call | Parallel | Say) -> None:
    async with FakeServer(list(script), model="fake") as server:
        await _turn(server.address, Console(highlight=False, soft_wrap=True))


async def test_turn_that_used_both_results(capsys: pytest.CaptureFixture[str]) -> None:
    await shown(Parallel([MILES, TIME]), Say(answer("convert_to_miles", "get_time")))
    told = capsys.readouterr().out
    assert "convert_to_miles(42) ran in this process" in told
    assert "get_time(Tokyo) ran in this process" in told
    assert "the answer has both results in it" in told


async def test_one_call_after_the_other_is_as_good() -> None:
    await shown(MILES, TIME, Say(answer("get_time", "convert_to_miles")))


async def test_model_that_calls_one_alone() -> None:
    with pytest.raises(CommandError, match="the model did not call get_time"):
        await shown(MILES, Say(answer("convert_to_miles", "get_time")))


async def test_model_that_calls_none() -> None:
    with pytest.raises(CommandError, match=r"did not call convert_to_miles; .* get_time"):
        await shown(Say("26.1 miles"))


async def test_answer_that_leaves_a_result_out() -> None:
    with pytest.raises(CommandError, match="does not use what get_time returned"):
        await shown(Parallel([MILES, TIME]), Say(answer("convert_to_miles")))


async def test_arguments_that_are_not_the_questions() -> None:
    wrong = Call("convert_to_miles", {"kilometers": 7})
    with pytest.raises(CommandError, match=r"does not use what convert_to_miles returned: 4\.3"):
        await shown(Parallel([wrong, TIME]), Say(answer("convert_to_miles", "get_time")))
