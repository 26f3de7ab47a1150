"""`precall demo`: one turn with two Python functions, its timeline, and a check of the answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from precall_service.cli import options
from precall_service.cli.console import configure_logging, stderr, stderr_alone, stdout
from precall_service.cli.errors import EXIT_USAGE, CommandError, reported

if TYPE_CHECKING:
    from precall_service.cli.scenario import Functions

HELP = options.help_text(
    """Watch one turn: the model calls two Python functions in this process and answers with their
    results.""",
    """Starts a service on a free port, sends the turn with the Python client, prints what
    happened when, and stops the service. The exit code is 0 only if both functions ran and the
    answer contains their results.""",
    examples={
        "precall demo": "the embedded model",
        "precall demo --model ./Qwen3-8B": "another model",
        "precall demo --address localhost:50151": "a service that is already running",
    },
)


def demo(
    *,
    model: options.Model = None,
    device: options.Device = None,
    address: Annotated[
        str | None,
        typer.Option(
            "--address", "-a", metavar="HOST:PORT", help="A running service to use instead."
        ),
    ] = None,
    log_level: options.LogLevelOption = "error",
) -> None:
    """Runs the command that HELP describes."""
    with reported():
        if address is not None and (model, device) != (None, None):
            raise CommandError(
                "the service at --address has its own model: leave --model and --device out",
                exit_code=EXIT_USAGE,
            )
        configure_logging(log_level)
        asyncio.run(_demo(model, device, address, log_level))


async def _demo(model: str | None, device: str | None, address: str | None, level: str) -> None:
    from precall_service.cli.interrupts import Interrupts

    began_at = time.monotonic()
    console = stdout()
    with Interrupts().handled():
        async with _service(model, device, address, level) as served_at:
            started_s = time.monotonic() - began_at
            turn_s = await _turn(served_at, console)
    whole_s = time.monotonic() - began_at
    console.print(
        f"\n[bold]{whole_s:.1f} s[/] in all: {started_s:.1f} to start, {turn_s:.1f} for the turn, "
        f"{whole_s - started_s - turn_s:.1f} to stop"
    )


@asynccontextmanager
async def _service(
    model: str | None, device: str | None, address: str | None, level: str
) -> AsyncGenerator[str]:
    """Yields `address`, or the address of a service that runs until the end of the block."""
    if address is not None:
        yield address
        return
    from precall_service.cli.configuration import load
    from precall_service.cli.launch import launched
    from precall_service.cli.progress import StartProgress

    settings = load(
        None,
        host="127.0.0.1",
        port=0,
        drain=0.0,
        model=model,
        device=device,
        log_level=level.upper(),
    )
    # Progress, and the error of a start that fails, say all that a user needs to know.
    shown = stderr_alone() if level in {"warning", "error"} else nullcontext(stderr())
    async with AsyncExitStack() as stack:
        with shown as console, StartProgress(console) as progress:
            service = await stack.enter_async_context(launched(settings, (), progress))
        yield service.address


async def _turn(address: str, console: Console) -> float:
    """Takes the turn and writes it as it runs; returns how many seconds it took.

    Raises:
        CommandError: the model did not call both functions, or did not use their results.
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
                max_step_tokens=STEP_TOKENS_MAX,
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
        raise CommandError(f"the turn failed the check: {'; '.join(faults)}")
    console.print("[green]✓[/] the answer has both results in it")
