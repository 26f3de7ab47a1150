"""`precall chat`: a conversation in the terminal, with tools that run in this process."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from precall_service.cli import options
from precall_service.cli.console import configure_logging
from precall_service.cli.errors import CommandError, reported

HELP = options.help_text(
    "Chat with a model in the terminal, and see its tool calls as they happen.",
    """The model may call current_time and roll_dice, which run in this process. If the service
    predicts a call and runs it early, a line that begins with ~ says so.""",
    """Ctrl-C cancels the running turn; at the prompt, Ctrl-D or a second Ctrl-C quits. /help lists
    the commands of the chat. Without a terminal, each line of the input is a turn.""",
    examples={
        "precall chat": f"the service at {options.DEFAULT_ADDRESS}",
        'precall chat --address gpu-box:50151 --system "Answer in French."': "another service",
        'precall chat --once "Roll two dice." --tool-choice roll_dice': "one turn",
        "precall chat --think": "a model that reasons first, so that calls can be predicted",
        'echo "What time is it in Tokyo?" | precall chat': "a turn for each line",
    },
)


def chat(
    *,
    address: options.Address = options.DEFAULT_ADDRESS,
    system: Annotated[
        str, typer.Option(metavar="TEXT", help="Instructions that precede the conversation.")
    ] = "",
    no_tools: Annotated[bool, typer.Option("--no-tools", help="Offer no tools.")] = False,
    tool_choice: Annotated[
        str,
        typer.Option(
            metavar="auto|required|none|NAME",
            help="Whether a turn may, must or must not begin with a tool call, or with which.",
        ),
    ] = "auto",
    think: Annotated[
        bool | None,
        typer.Option(
            "--think/--no-think",
            help="Let the model reason before it answers, if its template has a switch for it.",
            show_default="as the template decides",
        ),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=2.0,
            help="0 always takes the likeliest token.",
            show_default="the model's own",
        ),
    ] = None,
    max_step_tokens: Annotated[
        int | None,
        typer.Option(
            min=1, help="Tokens that each step may generate.", show_default="the server's limit"
        ),
    ] = None,
    once: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Take one turn, print it and exit.")
    ] = None,
    log_level: options.LogLevelOption = "error",  # the turn itself shows tools that fail
) -> None:
    """Runs the command that HELP describes."""
    with reported():
        configure_logging(log_level)
        from precall import ToolNamed, TurnOptions
        from precall_service.cli.chat_session import ChatOptions, chat_on, chat_once

        turn_options: TurnOptions = {}
        match tool_choice:
            case "auto" | "none" | "required":
                turn_options["tool_choice"] = tool_choice
            case name:
                turn_options["tool_choice"] = ToolNamed(name)
        if temperature is not None:
            turn_options["temperature"] = temperature
        if max_step_tokens is not None:
            turn_options["max_step_tokens"] = max_step_tokens
        chat_options = ChatOptions(
            address=address,
            system=system,
            tools=not no_tools,
            thinks=think,
            turn=turn_options,
        )
        run = chat_on(chat_options) if once is None else chat_once(chat_options, once)
        if not asyncio.run(run):
            raise CommandError("the turn was not answered")
