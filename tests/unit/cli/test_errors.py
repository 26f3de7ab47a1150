"""Every failure is reported in one sentence."""

from __future__ import annotations

import asyncio

import grpc
import pytest
import typer

import precall
from precall_service.cli.errors import CommandError, reported
from precall_service.engine.base import EngineStartError
from precall_service.engine.model_files import ModelError
from precall_service.transport.server import AddressInUseError


def ending(error: BaseException, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    with pytest.raises(typer.Exit) as raised, reported():
        raise error
    shown = capsys.readouterr()
    assert not shown.out
    assert "Traceback" not in shown.err
    return raised.value.exit_code, shown.err


@pytest.mark.parametrize(
    "error",
    [
        AddressInUseError("what to do"),
        CommandError("what to do"),
        EngineStartError("what to do"),
        ModelError("what to do"),
        precall.PrecallError("what to do", code=grpc.StatusCode.UNAVAILABLE),
        ExceptionGroup("several", [ExceptionGroup("of one", [ModelError("what to do")])]),
    ],
    ids=lambda error: type(error).__name__,
)
def test_expected_failures_are_reported_in_their_own_words(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ending(error, capsys) == (1, "precall: what to do\n")


def test_errors_of_the_system_name_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    error = PermissionError(13, "Permission denied", "precall.toml")
    assert ending(error, capsys) == (1, "precall: precall.toml: Permission denied\n")


def test_defects_are_reported_as_such(capsys: pytest.CaptureFixture[str]) -> None:
    code, told = ending(KeyError("x"), capsys)
    assert code == 1
    assert told.startswith("precall: stopped by a defect of precall: KeyError: 'x'\n")
    assert "--log-level debug" in told


def test_usage_has_its_own_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert ending(CommandError("so not", exit_code=2), capsys)[0] == 2


@pytest.mark.parametrize("error", [KeyboardInterrupt(), asyncio.CancelledError()])
def test_interrupts_are_silent(error: BaseException, capsys: pytest.CaptureFixture[str]) -> None:
    assert ending(error, capsys) == (130, "")


def test_exits_pass() -> None:
    with pytest.raises(typer.Exit) as raised, reported():
        raise typer.Exit(3)
    assert raised.value.exit_code == 3
