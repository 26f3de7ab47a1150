"""Help covers everything, shows the real defaults, and is quick."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from typer.core import TyperGroup
from typer.main import get_command
from typer.testing import CliRunner

from precall_service import __version__
from precall_service.cli import app
from precall_service.settings import Settings

COMMANDS = ["serve", "chat", "demo", "doctor", "stats", "cache"]
ANSI = re.compile(r"\x1b\[[0-9;]*m")

runner = CliRunner()


def output_of(*arguments: str, exit_code: int = 0) -> str:
    result = runner.invoke(app, arguments, env={"COLUMNS": "200", "TERMINAL_WIDTH": "200"})
    assert result.exit_code == exit_code, result.output
    return ANSI.sub("", result.output)


def test_version() -> None:
    assert output_of("--version").strip() == f"precall {__version__}"


def test_overview_lists_every_command() -> None:
    shown = output_of("--help")
    assert all(f"precall {command}" in shown or command in shown for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_command_has_examples_and_help_for_every_option(command: str) -> None:
    shown = output_of(command, "--help")
    assert "Examples" in shown
    assert f"precall {command}" in shown
    group = get_command(app)
    assert isinstance(group, TyperGroup)
    helps = [getattr(parameter, "help", None) for parameter in group.commands[command].params]
    assert all(helps)


def test_literal_brackets_are_not_markup() -> None:
    assert "[server]" in output_of("serve", "--help")


def test_defaults_shown_are_those_of_the_settings() -> None:
    server = Settings().server
    shown = output_of("serve", "--help")
    for value in (server.host, server.port, f"{server.drain_s:g}"):
        assert f"[default: ({value})]" in shown


def test_misplaced_argument_of_vllm_is_explained() -> None:
    shown = output_of("serve", "--max-num-seqs", "8", exit_code=2)
    assert "No such option: --max-num-seqs. Arguments of vLLM go after --" in shown


def test_stray_word_is_taken_for_a_model() -> None:
    assert "Did you mean --model qwen?" in output_of("serve", "qwen", exit_code=2)


def test_help_imports_nothing_slow() -> None:
    program = (
        "import json, sys\n"
        "from precall_service.cli import app\n"
        "try:\n    app(['serve', '--help'])\n"
        "except SystemExit:\n    print(json.dumps(sorted(sys.modules)), file=sys.stderr)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30
    )
    loaded = {name.partition(".")[0] for name in json.loads(result.stderr)}
    heavy = {"vllm", "torch", "transformers", "grpc", "google", "prompt_toolkit"}
    assert not loaded & heavy
