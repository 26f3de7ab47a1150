"""`precall doctor`: what on this machine would keep a service from running, and the remedy."""

from __future__ import annotations

import typer
from rich.markup import escape

from precall_service.cli import options
from precall_service.cli.console import configure_logging, stdout
from precall_service.cli.errors import EXIT_FAILED, reported

HELP = options.help_text(
    "Check the machine, packages, GPU, port, model and cache store; say how to fix each fault.",
    """Nothing is started, built or downloaded. A server at --url is asked for an answer and a
    call. The exit code is 1 if something would keep precall
    serve from running. The options are those of serve that can be checked without starting
    vLLM.""",
    examples={
        "precall doctor": "for the embedded model and the default port",
        "precall doctor --model ./Qwen3-8B --device gpu": "and what holds of the model's calls",
        "precall doctor --backend openai --url http://localhost:8000/v1": "what a server can do",
        "precall doctor --config precall.toml": "for the settings in a file",
    },
)


def doctor(
    *,
    config: options.Config = None,
    backend: options.Backend = None,
    url: options.Url = None,
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
            backend=backend,
            url=url,
            model=model,
            device=device,
            host=host,
            port=port,
            tool_call_parser=tool_call_parser,
            reasoning_parser=reasoning_parser,
            chat_template=chat_template,
            log_level=log_level.upper(),
        )
        from precall_service.cli.check import Verdict
        from precall_service.cli.checks import checks

        console, found = stdout(), checks(settings)
        marks = {
            Verdict.GOOD: "[green]✓[/]",
            Verdict.DOUBTFUL: "[yellow]![/]",
            Verdict.BAD: "[red]✗[/]",
        }
        for name, check in found.items():
            console.print(f"{marks[check.verdict]} [bold]{name:<9}[/] {escape(check.finding)}")
            for line in check.details:
                console.print(f"            {escape(line)}")
            if check.remedy:
                console.print(f"            [dim]{escape(check.remedy)}[/]")
        faults = sum(check.verdict is Verdict.BAD for check in found.values())
        if faults:
            failed = "1 check failed" if faults == 1 else f"{faults} checks failed"
            console.print(f"\n{failed}: `precall serve` would not run")
            raise typer.Exit(EXIT_FAILED)
        console.print("\n`precall serve` can run here")
