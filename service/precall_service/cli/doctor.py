"""`precall doctor`: what of this machine stands in the way of a service, and the remedy."""

from __future__ import annotations

import typer
from rich.console import Console
from rich.markup import escape

from precall_service.cli import options
from precall_service.cli.console import configure_logging, stdout
from precall_service.cli.errors import EXIT_FAILED, reported
from precall_service.cli.helptext import help_text

HELP = help_text(
    "Check the machine, the packages, the GPU, the port and the model; say what to do about each.",
    """Nothing is started, built or fetched. The exit code is 1 where something stands in the way of
    precall serve. The options are those of serve that can be checked without vLLM's own
    parser.""",
    examples={
        "precall doctor": "for the embedded model and the default port",
        "precall doctor --model ./Qwen3-8B --device gpu": "and which parsers fit the model",
        "precall doctor --config precall.toml": "for what a settings file says",
    },
)

_MARKS = {"good": "[green]✓[/]", "doubtful": "[yellow]![/]", "bad": "[red]✗[/]"}


def doctor(
    *,
    config: options.Config = None,
    model: options.Model = None,
    device: options.Device = None,
    host: options.Host = None,
    port: options.Port = None,
    tool_call_parser: options.ToolCallParser = None,
    reasoning_parser: options.ReasoningParser = None,
    chat_template: options.ChatTemplate = None,
    log_level: options.LogLevelOption = "error",
) -> None:
    """Runs the command that HELP describes."""
    with reported():
        configure_logging(log_level)
        from precall_service.cli.configuration import load

        settings = load(
            config,
            {
                ("engine", "model"): model,
                ("engine", "device"): device,
                ("engine", "tool_call_parser"): tool_call_parser,
                ("engine", "reasoning_parser"): reasoning_parser,
                ("engine", "chat_template"): None if chat_template is None else str(chat_template),
                ("engine", "log_level"): log_level.upper(),
                ("server", "host"): host,
                ("server", "port"): port,
            },
        )
        from precall_service.cli.checks import Verdict, checks

        console, found = stdout(), checks(settings)
        for check in found:
            _show(console, check.verdict.value, check.name, check.finding, check.remedy)
        faults = sum(check.verdict is Verdict.BAD for check in found)
        if faults:
            stand = "check found what stands" if faults == 1 else "checks found what stands"
            console.print(f"\n{faults} {stand} in the way of `precall serve`")
            raise typer.Exit(EXIT_FAILED)
        console.print("\nnothing stands in the way of `precall serve`")


def _show(console: Console, verdict: str, name: str, finding: str, remedy: str) -> None:
    console.print(f"{_MARKS[verdict]} [bold]{name:<9}[/] {escape(finding)}")
    if remedy:
        console.print(f"            [dim]{escape(remedy)}[/]")
