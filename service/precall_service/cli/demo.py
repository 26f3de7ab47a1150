"""`precall demo`: one turn without speculation and with it, its timelines, and a check of it."""

from __future__ import annotations

import asyncio
import datetime
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.console import Console
from rich.markup import escape

from precall_service.cli import options
from precall_service.cli.console import configure_logging, stderr, stderr_alone, stdout
from precall_service.cli.errors import EXIT_USAGE, CommandError, reported

if TYPE_CHECKING:
    import precall
    from precall_service.cli.scenario import Functions
    from precall_service.cli.timeline import Timeline

TOOL_TIME_S: Final = 1.5
WARM_UP: Final = "warm-up"
WITHOUT: Final = "without speculation"
WITH: Final = "with speculation"

HELP = options.help_text(
    """Watch one turn, without speculation and with it: the model calls two Python functions in this
    process and answers with their results.""",
    """Starts a service on a free port, takes the turn twice with the Python client, prints side by
    side what happened when, and stops the service. The exit code is 0 only if both functions ran
    and the answers contain their results.""",
    examples={
        "precall demo": "the embedded model",
        "precall demo --tool-time 0.3": "functions that take 0.3 seconds each",
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
    tool_time: Annotated[
        float,
        typer.Option(
            "--tool-time",
            metavar="SECONDS",
            min=0.0,
            max=20.0,
            help="How long each function takes.",
        ),
    ] = TOOL_TIME_S,
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
        asyncio.run(_demo(model, device, address, log_level, tool_time))


async def _demo(
    model: str | None, device: str | None, address: str | None, level: str, tool_time_s: float
) -> None:
    from precall_service.cli.interrupts import Interrupts

    began_at = time.monotonic()
    console = stdout()
    with Interrupts().handled():
        async with _service(model, device, address, level) as served_at:
            started_s = time.monotonic() - began_at
            turns_s = await _turns(served_at, console, tool_time_s)
    whole_s = time.monotonic() - began_at
    console.print(
        f"\n[bold]{whole_s:.1f} s[/] in all: {started_s:.1f} to start, {turns_s:.1f} for the "
        f"turns, {whole_s - started_s - turns_s:.1f} to stop"
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Taken:
    """A turn that was taken."""

    timeline: Timeline
    functions: Functions
    answer: precall.Answer


async def _turns(address: str, console: Console, tool_time_s: float) -> float:
    """Takes the turn without speculation and with it; returns how many seconds that took.

    Raises:
        CommandError: the model did not call both functions, or did not use their results.
    """
    import precall
    from precall_service.cli.render import report_table
    from precall_service.cli.timeline import side_by_side

    began_at = time.monotonic()
    async with precall.Client(address) as client:
        info = await client.server_info()
        where = escape(f"on {info.engine}, at {address}")
        console.print(f"\n[bold]{escape(info.model)}[/] {where}\n")
        at = datetime.datetime.now(datetime.UTC)
        can = info.capabilities
        taken: dict[str, _Taken] = {}
        off, on = precall.Speculation("off"), precall.Speculation("on", events=True)
        turns = [(WITHOUT, off)]
        if precall.Capability.SPECULATION in can:
            # The first turn of a model fills its caches, which would make it the slower one.
            turns = [(WARM_UP, off), *turns, (WITH, on)]
        for name, speculation in turns:
            with stderr().status(f"taking the turn: {name}"):
                taken[name] = await _take(
                    client,
                    speculation,
                    thinks=precall.Capability.REASONING in can,
                    early=precall.Capability.SPECULATION in can,
                    functions=partial(
                        _functions, takes_s=0.0 if name == WARM_UP else tool_time_s, at=at
                    ),
                )
    taken.pop(WARM_UP, None)
    console.print(side_by_side({name: each.timeline.lines for name, each in taken.items()}))
    console.print()
    for name, each in taken.items():
        console.print(f"[dim]{name}:[/] [bold]{escape(each.answer.text.strip())}[/]")
    console.print()
    console.print(report_table(*(each.answer.report for each in taken.values())))
    console.print()
    _check(taken, console)
    return time.monotonic() - began_at


async def _take(
    client: precall.Client,
    speculation: precall.Speculation,
    *,
    thinks: bool,
    early: bool,
    functions: Callable[[Timeline], Functions],
) -> _Taken:
    import precall
    from precall_service.cli.scenario import QUESTION, STEP_TOKENS_MAX
    from precall_service.cli.timeline import Timeline

    timeline = Timeline()
    called = functions(timeline)
    async with client.conversation(
        agent_name="precall demo",
        tools=[
            precall.Tool.from_function(each, read_only=True, speculation_safe=early)
            for each in called.tools()
        ],
        template_variables={"enable_thinking": True} if thinks else None,
        speculation=speculation,
    ) as conversation:
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
        return _Taken(timeline=timeline, functions=called, answer=await turn.answer())


def _functions(timeline: Timeline, *, takes_s: float, at: datetime.datetime) -> Functions:
    from precall_service.cli.scenario import Functions

    return Functions(
        lambda run: timeline.ran(run.name, run.argument, run.took_s), takes_s=takes_s, at=at
    )


def _check(taken: Mapping[str, _Taken], console: Console) -> None:
    """Says what the turns show, and what speculation saved."""
    for name, each in taken.items():
        if faults := each.functions.faults(each.answer.text):
            raise CommandError(f"the turn failed the check ({name}): {'; '.join(faults)}")
        # Both run at the same time, so either may end first.
        runs = ", ".join(
            sorted(f"{run.name}({escape(run.argument)})" for run in each.functions.runs)
        )
        console.print(f"[green]✓[/] {name}: {runs} ran in this process")
        console.print(f"[green]✓[/] {name}: the answer has both results in it")
    if WITH not in taken:
        console.print("(this server does not speculate)", style="dim")
        return
    without_s, with_s = (taken[name].answer.report.wall_time_s for name in (WITHOUT, WITH))
    saved_s = without_s - with_s
    told = f"{without_s:.2f} s without speculation, {with_s:.2f} s with it: "
    if saved_s > 0:
        told += f"[bold]{saved_s:.2f} s saved ({saved_s / without_s:.0%})[/]"
    else:
        told += "nothing was saved this time"
    console.print(f"\n{told}")
