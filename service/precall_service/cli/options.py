"""The options that several commands share, and the help text of a command."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import typer
from rich.markup import escape

from precall_service.cli.console import LogLevel

DEFAULT_ADDRESS = "localhost:50151"

_model = partial(typer.Option, rich_help_panel="Model")
_server = partial(typer.Option, rich_help_panel="Server")


def help_text(*paragraphs: str, examples: Mapping[str, str]) -> str:
    """Returns help for typer: paragraphs, then each example command with what it does."""
    flowing = [escape(" ".join(paragraph.split())) for paragraph in paragraphs]
    shown = [f"  [cyan]{command}[/]\n      {meaning}" for command, meaning in examples.items()]
    return "\n\n".join([*flowing, "\n".join(["[bold]Examples[/]", *shown])])


Address: TypeAlias = Annotated[
    str,
    typer.Option(
        "--address",
        "-a",
        metavar="HOST:PORT",
        envvar="PRECALL_ADDRESS",
        help="Where the service listens.",
    ),
]
Tenant: TypeAlias = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="The tenant to act for.",
        show_default="the server's default tenant",
    ),
]
Backend: TypeAlias = Annotated[
    Literal["vllm", "openai"] | None,
    _model(
        help="What runs the model: vllm in this process, or an OpenAI-compatible server at --url.",
        show_default="vllm",
    ),
]
Url: TypeAlias = Annotated[
    str | None,
    _model(
        metavar="URL",
        help="The server of --backend openai, such as http://localhost:8000/v1.",
        show_default="none",
    ),
]
Model: TypeAlias = Annotated[
    str | None,
    _model(
        "--model",
        "-m",
        metavar="FOLDER|NAME",
        help="A folder with a model, or the name of a model on the hub or of the server at --url.",
        show_default="the embedded SmolLM2-135M-Instruct, or the one that the server has",
    ),
]
Device: TypeAlias = Annotated[
    Literal["auto", "cpu", "gpu"] | None,
    _model(
        help="Where the model runs.", show_default="auto: a GPU if the installed vLLM can use one"
    ),
]
Config: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", metavar="FILE.toml", help="A settings file.", show_default="none"
    ),
]
LogLevelOption: TypeAlias = Annotated[
    LogLevel,
    typer.Option("--log-level", envvar="PRECALL_LOG_LEVEL", help="The lowest level to log."),
]
Host: TypeAlias = Annotated[
    str | None,
    _server(
        help="Interface to listen on; 0.0.0.0 is all of them.",
        show_default="127.0.0.1",
    ),
]
Port: TypeAlias = Annotated[
    int | None,
    _server(help="Port to listen on; 0 takes a free one.", min=0, max=65535, show_default="50151"),
]
Drain: TypeAlias = Annotated[
    float | None,
    _server(
        metavar="SECONDS",
        help="How long running turns may take to finish when the service is told to stop.",
        min=0,
        show_default="30",
    ),
]
ToolCallParser: TypeAlias = Annotated[
    str | None,
    _model(
        metavar="NAME",
        help='One of vLLM\'s tool parsers; "none": the model calls no tools.',
        show_default="chosen from the model",
    ),
]
ReasoningParser: TypeAlias = Annotated[
    str | None,
    _model(
        metavar="NAME",
        help='One of vLLM\'s reasoning parsers; "none": reasoning is part of the text.',
        show_default="chosen from the model",
    ),
]
ChatTemplate: TypeAlias = Annotated[
    Path | None,
    _model(
        metavar="FILE.jinja",
        help="A chat template that replaces the model's own.",
        show_default="the model's own",
    ),
]
KvCacheBytes: TypeAlias = Annotated[
    int | None,
    _model(
        metavar="BYTES",
        help="Size of the KV cache.",
        min=1,
        show_default="1 GiB on a CPU, most of the memory on a GPU",
    ),
]
StructuredCalls: TypeAlias = Annotated[
    bool | None,
    _model(
        help="Whether tool calls are held to their schemas while they are generated.",
        show_default="structured-calls",
    ),
]
Offline: TypeAlias = Annotated[
    bool | None, _model("--offline", help="Never ask the hub.", show_default=False)
]
