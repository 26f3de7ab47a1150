"""`precall serve`: a service in the foreground, from its start to its orderly end."""

from __future__ import annotations

import asyncio
import ipaddress
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperCommand

from precall_service import __version__
from precall_service.cli import options
from precall_service.cli.console import configure_logging, stderr, stdout
from precall_service.cli.errors import EXIT_INTERRUPTED, EXIT_USAGE, CommandError, reported
from precall_service.cli.helptext import help_text
from precall_service.cli.machine import gpus, installed_engine

if TYPE_CHECKING:
    from typer._click.core import Context

    from precall_service.app import Service
    from precall_service.cli.interrupts import Interrupts
    from precall_service.settings import Settings

HELP = help_text(
    "Serve a model to agents, over gRPC, until Ctrl-C.",
    """The first Ctrl-C (or SIGTERM) takes no new turns and lets running ones finish for --drain
    seconds; a second Ctrl-C ends them at once.""",
    """Most flags are also a variable (PRECALL_SERVER__PORT=0) and a line in a settings file (port =
    0 under [server]), which have more knobs than there are flags. Flags win over variables, and
    variables over the file.""",
    examples={
        "precall serve": "the embedded model, on port 50151",
        "precall serve --model ./Qwen3-8B --device gpu": "a folder with a model",
        "precall serve --model Qwen/Qwen3-8B --config precall.toml": "a model from the hub",
        "precall serve -- --max-num-seqs 32 --max-model-len 16384": "any argument of vLLM",
    },
)


class ServeCommand(TyperCommand):
    """Tells who gives an argument of vLLM as a flag of ours where it goes."""

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
    model: options.Model = None,
    host: options.Host = None,
    port: options.Port = None,
    device: options.Device = None,
    config: options.Config = None,
    tool_call_parser: options.ToolCallParser = None,
    reasoning_parser: options.ReasoningParser = None,
    chat_template: options.ChatTemplate = None,
    no_structured_calls: options.NoStructuredCalls = False,
    kv_cache_bytes: options.KvCacheBytes = None,
    offline: options.Offline = False,
    drain: options.Drain = None,
    log_level: options.LogLevelOption = "info",
    engine_arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[-- VLLM_ARGUMENTS]", help="Arguments of vLLM's engine, as its own."
        ),
    ] = None,
) -> None:
    """Runs the command that HELP describes."""
    with reported():
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
            {
                ("server", "host"): host,
                ("server", "port"): port,
                ("server", "drain_s"): drain,
                ("engine", "model"): model,
                ("engine", "device"): device,
                ("engine", "tool_call_parser"): tool_call_parser,
                ("engine", "reasoning_parser"): reasoning_parser,
                ("engine", "chat_template"): None if chat_template is None else str(chat_template),
                ("engine", "structured_calls"): False if no_structured_calls else None,
                ("engine", "kv_cache_bytes"): kv_cache_bytes,
                ("engine", "offline"): True if offline else None,
            },
        )
        if exit_code := asyncio.run(_serve(settings, arguments)):
            raise typer.Exit(exit_code)


async def _serve(settings: Settings, arguments: tuple[str, ...]) -> int:
    """Serves until a signal; returns the exit code."""
    from precall_service.cli.interrupts import Interrupts
    from precall_service.cli.launch import launched
    from precall_service.cli.progress import StartProgress
    from precall_service.engine.vllm.threads import in_daemon_thread

    notices = stderr()
    _warn_if_open(notices, settings.server.host)
    interrupts = Interrupts()
    with interrupts.handled():
        try:
            with StartProgress(notices) as progress:
                device = await in_daemon_thread(_device)  # the driver may take seconds to answer
                async with launched(settings, arguments, progress) as service:
                    progress.close()
                    _tell_ready(stdout(), service, device)
                    await _until_asked(service, interrupts)
                    _tell_draining(notices, service, settings.server.drain_s)
        except asyncio.CancelledError:
            if not interrupts.insisted:
                raise
            notices.print("stopped at once")
            return EXIT_INTERRUPTED
    notices.print("stopped")
    return 0


async def _until_asked(service: Service, interrupts: Interrupts) -> None:
    """Returns when a signal asks for the end.

    Raises:
        Exception: the service can no longer do its work.
    """
    asked = interrupts.end_in_order()
    await asyncio.wait((asked, service.background), return_when=asyncio.FIRST_COMPLETED)
    if not asked.done():
        await service.background


def _tell_ready(console: Console, service: Service, device: str) -> None:
    engine = service.engine
    rows = {
        "address": service.address,
        "model": service.model,
        "engine": engine.name,
        "device": device,
        "holds": f"{engine.sequences_max} turns at once, {engine.kv_tokens:,} tokens of KV cache, "
        f"{engine.context_tokens_max:,} tokens of context",
        "try": f"precall chat --address {_to_connect_to(service.address)}",
    }
    console.print(f"[bold]precall {__version__} is ready[/]")
    for name, value in rows.items():
        console.print(f"  {name:<8} {value}", markup=False)


def _device() -> str:
    installed = installed_engine()
    if installed is None or installed.device == "cpu":
        return "cpu"
    return ", ".join(["gpu", *(gpu.name for gpu in gpus())])


def _tell_draining(console: Console, service: Service, drain_s: float) -> None:
    turns = service.admission.admitted + service.admission.waiting
    if turns:
        running = "1 turn runs" if turns == 1 else f"{turns} turns run"
        console.print(f"\n{running} and may take {drain_s:g} s to finish; Ctrl-C ends all at once")
    else:
        console.print("\nno turn runs; stopping")


def _warn_if_open(console: Console, host: str) -> None:
    if not _is_loopback(host):
        console.print(
            f"[yellow]warning:[/] host {escape(host)} lets everyone who reaches this machine in: "
            "precall authenticates nobody yet, and takes the tenant from the caller's metadata. "
            "Put a proxy in front that authenticates and sets precall-tenant.",
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _to_connect_to(address: str) -> str:
    """The address for a client on this machine, where the server listens on every interface."""
    host, _, port = address.rpartition(":")
    return f"localhost:{port}" if host in {"0.0.0.0", "[::]"} else address  # noqa: S104
