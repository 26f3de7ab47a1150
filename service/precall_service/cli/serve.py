"""`precall serve`: a service in the foreground, from its start to its orderly end."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperCommand

from precall_service import __version__
from precall_service.cli import options
from precall_service.cli.console import configure_logging, stderr, stdout
from precall_service.cli.errors import EXIT_USAGE, CommandError, reported
from precall_service.cli.output import never_waiting

if TYPE_CHECKING:
    from typer._click.core import Context

    from precall_service.app import Service
    from precall_service.cli.interrupts import Interrupts
    from precall_service.engine.base import EngineInfo
    from precall_service.settings import Settings

HELP = options.help_text(
    "Serve a model to agents, over gRPC, until Ctrl-C.",
    """After the first Ctrl-C (or SIGTERM) no new turns start, and running ones may finish for
    --drain seconds; a second Ctrl-C ends them at once.""",
    """Most flags can also be set by a variable (PRECALL_SERVER__PORT=0) or in a settings file
    (port = 0 under [server]), which have more settings than there are flags. Flags win over
    variables, and variables over the file.""",
    examples={
        "precall serve": "the embedded model, on port 50151",
        "precall serve --model ./Qwen3-8B --device gpu": "a folder with a model",
        "precall serve --model Qwen/Qwen3-8B --config precall.toml": "a model from the hub",
        "precall serve --backend openai --url http://localhost:8000/v1": "in front of a server",
        "precall serve -- --max-num-seqs 32 --max-model-len 16384": "any argument of vLLM",
    },
)


class ServeCommand(TyperCommand):
    """Says where arguments of vLLM go when one is given as an option of `serve`."""

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        """As `TyperCommand.parse_args`."""
        try:
            return super().parse_args(ctx, args)
        except typer.TyperException as error:
            if error.message.startswith("No such option"):
                error.message += ". Arguments of vLLM go after --"
            raise


def serve(
    *,
    backend: options.Backend = None,
    url: options.Url = None,
    model: options.Model = None,
    host: options.Host = None,
    port: options.Port = None,
    device: options.Device = None,
    config: options.Config = None,
    tool_call_parser: options.ToolCallParser = None,
    reasoning_parser: options.ReasoningParser = None,
    chat_template: options.ChatTemplate = None,
    structured_calls: options.StructuredCalls = None,
    kv_cache_bytes: options.KvCacheBytes = None,
    offline: options.Offline = None,
    drain: options.Drain = None,
    log_level: options.LogLevelOption = "info",
    engine_arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[-- VLLM_ARGUMENTS]",
            help="Arguments of vLLM's engine, as on its own command line.",
        ),
    ] = None,
) -> None:
    """Runs the command that HELP describes."""
    with never_waiting(), reported():
        arguments = tuple(engine_arguments or ())
        if arguments and not arguments[0].startswith("-"):
            raise CommandError(
                f"{arguments[0]!r} is neither a flag nor an argument of vLLM. Did you mean "
                f"--model {arguments[0]}?",
                exit_code=EXIT_USAGE,
            )
        configure_logging(log_level)
        from precall_service.cli.configuration import load

        settings = load(
            config,
            backend=backend,
            url=url,
            model=model,
            host=host,
            port=port,
            device=device,
            tool_call_parser=tool_call_parser,
            reasoning_parser=reasoning_parser,
            chat_template=chat_template,
            structured_calls=structured_calls,
            kv_cache_bytes=kv_cache_bytes,
            offline=offline,
            drain=drain,
        )
        asyncio.run(_serve(settings, arguments))


async def _serve(settings: Settings, arguments: tuple[str, ...]) -> None:
    """Serves until a signal.

    Raises:
        CancelledError: a signal ended the service at once.
    """
    from precall_service.cli.interrupts import Interrupts
    from precall_service.cli.launch import launched
    from precall_service.cli.progress import StartProgress

    notices = stderr()
    _warn_if_open(notices, settings.server.host)
    interrupts = Interrupts()
    with interrupts.handled():
        try:
            with StartProgress(notices) as progress:
                async with launched(settings, arguments, progress) as service:
                    progress.close()
                    _show_ready(stdout(), service)
                    await _until_asked(service, interrupts)
                    _show_draining(notices, service, settings.server.drain_s)
        except asyncio.CancelledError:
            notices.print("stopped at once")
            raise
    notices.print("stopped")


async def _until_asked(service: Service, interrupts: Interrupts) -> None:
    """Returns when a signal asks the service to stop.

    Raises:
        Exception: the service can no longer do its work.
    """
    asked = interrupts.end_in_order()
    await asyncio.wait((asked, service.background), return_when=asyncio.FIRST_COMPLETED)
    if not asked.done():
        await service.background


def _show_ready(console: Console, service: Service) -> None:
    engine = service.engine
    rows = {
        "address": service.address,
        "model": service.model,
        "engine": engine.name,
        "device": engine.device,
        "holds": ", ".join(_capacity(engine)),
        "try": f"precall chat --address {_local_address(service.address)}",
    }
    console.print(f"[bold]precall {__version__} is ready[/]")
    for name, value in rows.items():
        if not value:
            continue
        console.print(f"  {name:<8} {value}", markup=False)


def _capacity(engine: EngineInfo) -> Iterator[str]:
    yield f"{engine.sequences_max} turns at once"
    if engine.kv_tokens is not None:
        yield f"{engine.kv_tokens:,} tokens of KV cache"
    if engine.context_tokens_max is not None:
        yield f"{engine.context_tokens_max:,} tokens of context"


def _show_draining(console: Console, service: Service, drain_s: float) -> None:
    turns = service.admission.admitted + service.admission.waiting
    if turns:
        running = "1 turn runs" if turns == 1 else f"{turns} turns run"
        console.print(f"\n{running} and may take {drain_s:g} s to finish; Ctrl-C ends all at once")
    else:
        console.print("\nno turn runs; stopping")


def _warn_if_open(console: Console, host: str) -> None:
    try:
        loopback = ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        loopback = host == "localhost"
    if not loopback:
        console.print(
            f"[yellow]warning:[/] host {escape(host)} admits every client that reaches this "
            "machine: precall does not authenticate clients yet, and takes the tenant from their "
            "metadata. Put a proxy in front that authenticates them and sets precall-tenant.",
        )


def _local_address(address: str) -> str:
    """Returns the address for a client on this machine, also if every interface is listened on."""
    host, _, port = address.rpartition(":")
    return f"localhost:{port}" if host in {"0.0.0.0", "[::]"} else address  # noqa: S104
