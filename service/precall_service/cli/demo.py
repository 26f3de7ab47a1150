"""`precall demo`: a real turn with two real functions, its trace, and a check that it was real."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.markup import escape

from precall_service.cli import options
from precall_service.cli.console import configure_logging, stderr, stderr_alone, stdout
from precall_service.cli.errors import EXIT_INTERRUPTED, EXIT_USAGE, CommandError, reported
from precall_service.cli.helptext import help_text

if TYPE_CHECKING:
    from precall_service.cli.scenario import Functions

HELP = help_text(
    """Watch one turn: the model calls two Python functions in this process and answers with their
    results.""",
    """Starts a service on a free port, takes the turn through the Python client, prints what
    happened when, and ends everything. The exit code is 0 only if both functions ran and the answer
    has their results in it.""",
    examples={
        "precall demo": "the embedded model",
        "precall demo --model ./Qwen3-8B": "another one",
        "precall demo --address localhost:50151": "a service that runs already",
    },
)


def demo(
    *,
    model: options.Model = None,
    device: options.Device = None,
    address: options.Address = None,
    log_level: options.LogLevelOption = "error",
) -> None:
    """Runs the command that HELP describes."""
    with reported():
        if address is not None and (model, device) != (None, None):
            raise CommandError(
                "the service at --address has a model already: leave --model and --device out",
                exit_code=EXIT_USAGE,
            )
        configure_logging(log_level)
        if exit_code := asyncio.run(_demo(model, device, address, log_level)):
            raise typer.Exit(exit_code)


async def _demo(model: str | None, device: str | None, address: str | None, level: str) -> int:
    from precall_service.cli.interrupts import Interrupts

    began_at = time.monotonic()
    console = stdout()
    interrupts = Interrupts()
    with interrupts.handled():
        try:
            async with _service(model, device, address, level) as served_at:
                started_s = time.monotonic() - began_at
                turn_s = await _turn(served_at, console)
        except asyncio.CancelledError:
            if not interrupts.insisted:
                raise
            return EXIT_INTERRUPTED
    whole_s = time.monotonic() - began_at
    console.print(
        f"\n[bold]{whole_s:.1f} s[/] in all: {started_s:.1f} to start, {turn_s:.1f} for the turn, "
        f"{whole_s - started_s - turn_s:.1f} to stop"
    )
    return 0


@asynccontextmanager
async def _service(
    model: str | None, device: str | None, address: str | None, level: str
) -> AsyncGenerator[str]:
    """The address of a service, which is ours unless one was named."""
    if address is not None:
        yield address
        return
    from precall_service.cli.configuration import load
    from precall_service.cli.launch import launched
    from precall_service.cli.progress import StartProgress

    settings = load(
        None,
        {
            ("server", "host"): "127.0.0.1",
            ("server", "port"): 0,
            ("server", "drain_s"): 0.0,
            ("engine", "model"): model,
            ("engine", "device"): device,
            ("engine", "log_level"): level.upper(),
        },
    )
    # What is worth knowing of the start comes as progress, or as the error that it ends with.
    shown = stderr_alone() if level in {"warning", "error"} else nullcontext(stderr())
    async with AsyncExitStack() as stack:
        with shown as console, StartProgress(console) as progress:
            service = await stack.enter_async_context(launched(settings, (), progress))
        yield service.address


async def _turn(address: str, console: Console) -> float:
    """Takes the turn, drawn as it comes; returns its seconds.

    Raises:
        CommandError: the model did not call both functions, or did not use what they returned.
    """
    import precall
    from precall_service.cli.render import report_table
    from precall_service.cli.scenario import QUESTION, STEP_TOKENS_MAX, Functions
    from precall_service.cli.timeline import Timeline

    timeline = Timeline(console)
    functions = Functions(lambda run: timeline.ran(run.name, run.argument, run.took_s))
    async with precall.Client(address) as client:
        for tool in functions.tools():
            client.add_tool(tool, read_only=True)
        info = await client.server_info()
        where = escape(f"on {info.engine}, at {address}")
        console.print(f"\n[bold]{escape(info.model)}[/] {where}\n")
        async with client.conversation(agent_name="precall demo") as conversation:
            timeline.sent(QUESTION)
            turn = conversation.send(
                QUESTION,
                tool_choice="required",
                temperature=0.0,
                seed=0,
                max_tokens=STEP_TOKENS_MAX,
            )
            async for event in turn:
                timeline.show(event)
            answer = await turn.answer()
    console.print(f"\n[bold]{escape(answer.text.strip())}[/]\n")
    console.print(report_table(answer.report))
    console.print()
    _check(functions, answer.text, console)
    return answer.report.wall_time_s


def _check(functions: Functions, answer: str, console: Console) -> None:
    for run in functions.runs:
        console.print(f"[green]✓[/] {run.name}({escape(run.argument)}) ran in this process")
    if faults := functions.faults(answer):
        raise CommandError(f"the turn was not what it should be: {'; '.join(faults)}")
    console.print("[green]✓[/] the answer has both results in it")
