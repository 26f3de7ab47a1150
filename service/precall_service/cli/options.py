"""The options of the commands, most of which several share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import typer

from precall_service.cli.console import LogLevel

_MODEL = "Model"
_SERVER = "Server"

Model: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="FOLDER|NAME",
        help="A folder with a model, or the name of one on the hub.",
        show_default="the embedded SmolLM2-135M-Instruct",
        rich_help_panel=_MODEL,
    ),
]
Device: TypeAlias = Annotated[
    Literal["auto", "cpu", "gpu"] | None,
    typer.Option(
        help="Where the model runs.",
        show_default="auto: a GPU where the installed vLLM can use one",
        rich_help_panel=_MODEL,
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
    typer.Option("--log-level", envvar="PRECALL_LOG_LEVEL", help="From which level on to log."),
]
Host: TypeAlias = Annotated[
    str | None,
    typer.Option(
        help="Interface to listen on; 0.0.0.0 is all of them.",
        show_default="127.0.0.1",
        rich_help_panel=_SERVER,
    ),
]
Port: TypeAlias = Annotated[
    int | None,
    typer.Option(
        help="Port to listen on; 0 takes a free one.",
        min=0,
        max=65535,
        show_default="50151",
        rich_help_panel=_SERVER,
    ),
]
Drain: TypeAlias = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS",
        help="How long running turns may take to finish when the service is told to end.",
        min=0,
        show_default="30",
        rich_help_panel=_SERVER,
    ),
]
ToolCallParser: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--tool-call-parser",
        metavar="NAME",
        help='One of vLLM\'s tool parsers; "none": the model calls no tools.',
        show_default="chosen from the model",
        rich_help_panel=_MODEL,
    ),
]
ReasoningParser: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--reasoning-parser",
        metavar="NAME",
        help='One of vLLM\'s reasoning parsers; "none": reasoning is not told from text.',
        show_default="chosen from the model",
        rich_help_panel=_MODEL,
    ),
]
ChatTemplate: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.jinja",
        help="A chat template in place of the model's own.",
        show_default="the model's own",
        rich_help_panel=_MODEL,
    ),
]
KvCacheBytes: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--kv-cache-bytes",
        metavar="BYTES",
        help="Size of the KV cache.",
        min=1,
        show_default="1 GiB on a CPU, most of the memory on a GPU",
        rich_help_panel=_MODEL,
    ),
]
NoStructuredCalls: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--no-structured-calls",
        help="Do not hold tool calls to their schemas while they are generated.",
        rich_help_panel=_MODEL,
    ),
]
Offline: TypeAlias = Annotated[
    bool,
    typer.Option("--offline", help="Never ask the hub.", rich_help_panel=_MODEL),
]
Address: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--address",
        "-a",
        metavar="HOST:PORT",
        help="Where a service listens that runs already.",
    ),
]
