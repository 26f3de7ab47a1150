"""How the demo judges a turn of a scripted model."""

from __future__ import annotations

import pytest
from rich.console import Console
from typer.testing import CliRunner

from precall import Capability, NoCallError
from precall.testing import Call, FakeServer, Parallel, Predict, Say
from precall_service.cli import app, scenario
from precall_service.cli.demo import _turns  # pyright: ignore[reportPrivateUsage]
from precall_service.cli.errors import CommandError
from precall_service.cli.scenario import Functions, Run

LETTERS = Call("count_letters", {"word": "elephant"})
TIME = Call("get_time", {"city": "Tokyo"})
BOTH = "It has 8 letters, and it is 08:15 in Tokyo."


@pytest.fixture(autouse=True)
def clock_that_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    def then(_city: str, _at: object) -> str:
        return "08:15"

    monkeypatch.setattr(scenario, "_local_time", then)


async def show(
    *script: Call | Parallel | Say | Predict, model: str = "fake", speculates: bool = False
) -> None:
    capabilities = {Capability.TOOL_CALLS, Capability.REASONING}
    if speculates:
        capabilities.add(Capability.SPECULATION)
    turns = [script] * (3 if speculates else 1)
    async with FakeServer(*turns, model=model, capabilities=capabilities) as server:
        await _turns(server.address, Console(highlight=False, width=200), 0.0)


async def test_turn_that_used_both_results(capsys: pytest.CaptureFixture[str]) -> None:
    await show(Parallel([LETTERS, TIME]), Say(BOTH))
    told = capsys.readouterr().out
    ran = "count_letters(elephant), get_time(Tokyo) ran in this process"
    assert f"without speculation: {ran}" in told
    assert "without speculation: the answer has both results in it" in told
    assert "(this server does not speculate)" in told


async def test_both_turns_are_shown_and_compared(capsys: pytest.CaptureFixture[str]) -> None:
    predicted = Predict("get_time", {"city": "Tokyo"})
    await show(predicted, Parallel([LETTERS, TIME]), Say(BOTH), speculates=True)
    told = capsys.readouterr().out
    head = next(line for line in told.splitlines() if line.lstrip().startswith("seconds"))
    assert head.split("  ")[-1].strip() or "with speculation" in head
    assert told.count("the answer has both results in it") == 2
    confirmed = next(line for line in told.splitlines() if "confirmed" in line)
    assert confirmed.index("confirmed") >= head.rindex("with speculation")
    assert "s without speculation, " in told


async def test_names_of_the_server_are_not_markup(capsys: pytest.CaptureFixture[str]) -> None:
    await show(Parallel([LETTERS, TIME]), Say(BOTH), model="[/]")
    assert "[/] on " in capsys.readouterr().out


@pytest.mark.parametrize("flag", ["--model", "--device"])
def test_a_running_service_has_its_own_model(flag: str) -> None:
    result = CliRunner().invoke(app, ["demo", "--address", "localhost:1", flag, "cpu"])
    assert result.exit_code == 2
    assert "has its own model" in result.output


async def test_calls_may_follow_one_another() -> None:
    await show(LETTERS, TIME, Say(BOTH))


async def test_model_that_calls_one_alone() -> None:
    with pytest.raises(CommandError, match="the model did not call get_time"):
        await show(LETTERS, Say(BOTH))


async def test_model_that_calls_none() -> None:
    with pytest.raises(NoCallError):  # the demo requires a call
        await show(Say(BOTH))


@pytest.mark.parametrize("answer", ["It is 08:15.", "18 letters, 08:15", "8:30 and 08:15"])
async def test_answer_that_leaves_a_result_out(answer: str) -> None:
    with pytest.raises(CommandError, match="does not use what count_letters returned: The word"):
        await show(Parallel([LETTERS, TIME]), Say(answer))


async def test_arguments_that_are_not_the_questions() -> None:
    wrong = Call("count_letters", {"word": "cat"})
    with pytest.raises(CommandError, match="count_letters returned: The word cat has 3 letters"):
        await show(Parallel([wrong, TIME]), Say(BOTH))


def test_functions_are_real(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    told: list[Run] = []
    functions = Functions(told.append)
    assert functions.count_letters("it's") == "The word it's has 3 letters."
    assert functions.get_time("tokyo ").startswith("It is ")
    with pytest.raises(ValueError, match="the time in Atlantis is unknown; known cities: berlin, "):
        functions.get_time("Atlantis")
    assert [run.name for run in functions.runs] == ["count_letters", "get_time"]
    assert told == functions.runs
