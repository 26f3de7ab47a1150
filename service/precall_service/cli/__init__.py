"""The command line `precall`, with its commands.

Never: the service's work. Modules that are slow to import are imported by the command that needs
them, so that `--help` answers at once.
"""

from __future__ import annotations

from typing import Annotated

import typer

from precall_service import __version__
from precall_service.cli import cache, chat, demo, doctor, options, serve, stats
from precall_service.cli.arenas import share_arenas

app = typer.Typer(
    name="precall",
    help=options.help_text(
        "Serves a language model with vLLM and runs the agent loop next to the engine.",
        """Agents connect over gRPC, register their own functions as tools, and see tokens and tool
        calls stream by.""",
        examples={
            "precall demo": "a turn of the embedded model that calls real functions, as a timeline",
            "precall serve": "a service; then, in another terminal: precall chat",
            "precall doctor": "what this machine lacks, and how to fix it",
        },
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command(help=serve.HELP, cls=serve.ServeCommand)(serve.serve)
app.command(help=chat.HELP)(chat.chat)
app.command(help=demo.HELP)(demo.demo)
app.command(help=doctor.HELP)(doctor.doctor)
app.command(help=stats.HELP)(stats.stats)
app.add_typer(cache.app, name="cache")


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"precall {__version__}")
        raise typer.Exit


@app.callback()
def _global(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Options that come before the command."""


def main() -> None:
    """Runs the command line."""
    share_arenas()
    app()
