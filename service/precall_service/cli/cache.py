"""`precall cache`: a tenant's tool cache, from the command line.

Owns: the arguments of its commands. Results go to stdout as JSON, everything else to stderr.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from precall_service.cli import options
from precall_service.cli.console import configure_logging
from precall_service.cli.errors import reported

if TYPE_CHECKING:
    import precall

app = typer.Typer(
    help=options.help_text(
        "Look into the tool cache of a service, and change it.",
        """A key is the name of a tool, its version, and its arguments as a JSON object. The order
        of the arguments does not matter. With --conversation, the entry is for that conversation
        alone. Results are JSON on stdout.""",
        examples={
            "precall cache stats | jq .hits": "one number",
            """precall cache get get_weather 1 '{"city": "Paris"}'""": "a result",
            "precall cache invalidate --resource 'file:/etc/*'": "after a change from outside",
        },
    ),
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

Tool: TypeAlias = Annotated[str, typer.Argument(metavar="TOOL", help="The name of the tool.")]
Version: TypeAlias = Annotated[
    str, typer.Argument(metavar="VERSION", help="The version of the tool.")
]
Arguments: TypeAlias = Annotated[
    str, typer.Argument(metavar="ARGUMENTS", help="The arguments: a JSON object.")
]
Conversation: TypeAlias = Annotated[
    str,
    typer.Option(
        metavar="ID",
        help="The only conversation that may use the entry.",
        show_default="all of the tenant may",
    ),
]


def _on(
    address: str, tenant: str, act: Callable[[precall.ToolCache], Coroutine[None, None, None]]
) -> None:
    """Does something with the cache of a tenant, and reports what fails."""
    with reported():
        configure_logging("error")
        from precall_service.cli.cache_session import on_cache

        asyncio.run(on_cache(address, tenant, act))


@app.command(
    help=options.help_text(
        "Print what the cache holds, and what it has done since the service started.",
        examples={"precall cache stats --tenant acme": "of another tenant"},
    )
)
def stats(
    *, address: options.Address = options.DEFAULT_ADDRESS, tenant: options.Tenant = ""
) -> None:
    """Runs `precall cache stats`."""
    from precall_service.cli.cache_session import show_stats

    _on(address, tenant, show_stats)


@app.command(
    help=options.help_text(
        "Print the result that the cache has for a call, and what it depends on.",
        """The result goes to stdout and the rest to stderr. If there is no usable entry, the exit
        code is 1.""",
        examples={
            """precall cache get get_weather 1 '{"city": "Paris"}'""": "the result alone on stdout",
            """precall cache get get_weather 1 '{"city": "Paris"}' --json""": "the whole entry",
        },
    )
)
def get(
    *,
    tool: Tool,
    version: Version,
    arguments: Arguments,
    conversation: Conversation = "",
    whole: Annotated[
        bool, typer.Option("--json", help="Print the whole entry as one JSON object.")
    ] = False,
    address: options.Address = options.DEFAULT_ADDRESS,
    tenant: options.Tenant = "",
) -> None:
    """Runs `precall cache get`."""
    from precall_service.cli.cache_session import key_of, show_entry

    with reported():
        act = partial(show_entry, key=key_of(tool, version, arguments, conversation), whole=whole)
    _on(address, tenant, act)


@app.command(
    help=options.help_text(
        "Print the versions of resources: read them before you compute what you will put.",
        examples={
            "precall cache versions file:/a 'order:*'": "as a JSON object, by name",
        },
    )
)
def versions(
    *,
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME...", help="Resources, such as file:/a, or file:/a/* for all below it."
        ),
    ],
    address: options.Address = options.DEFAULT_ADDRESS,
    tenant: options.Tenant = "",
) -> None:
    """Runs `precall cache versions`."""
    from precall_service.cli.cache_session import show_versions

    _on(address, tenant, partial(show_versions, names=names))


@app.command(
    help=options.help_text(
        "Put a result into the cache, and print the version of its entry.",
        """Read the versions of the resources that the result depends on before you compute it, and
        name them with --observed, and their position with --position. If one of them has changed
        since, nothing is stored.""",
        examples={
            """precall cache put get_weather 1 '{"city": "Paris"}' '{"celsius": 21}' --ttl 60""": (
                "for every conversation of the tenant"
            ),
            """cat a.json | precall cache put read 1 '{"path": "/a"}' - --ttl 60 """
            """--observed file:/a=17""": "the result of a read, from stdin",
        },
    )
)
def put(
    *,
    tool: Tool,
    version: Version,
    arguments: Arguments,
    result: Annotated[
        str, typer.Argument(metavar="RESULT", help="The result as JSON; - reads stdin.")
    ],
    ttl: Annotated[float, typer.Option(metavar="SECONDS", help="How long the result may be used.")],
    observed: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VERSION",
            help="A resource that it depends on, at the version that was read. May be repeated.",
            show_default=False,
        ),
    ] = None,
    position: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="POSITION",
            help="The position at which the versions were read: notices invalidations since then.",
            show_default="unknown",
        ),
    ] = None,
    expect: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="VERSION",
            help="Store only over this version of the entry; 0: only if there is none.",
            show_default="any version",
        ),
    ] = None,
    cost: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="How long it takes to compute the result; cheap ones are dropped first.",
            show_default="unknown",
        ),
    ] = None,
    content: Annotated[
        str,
        typer.Option(
            metavar="TEXT", help="What the model sees.", show_default="the result's JSON text"
        ),
    ] = "",
    conversation: Conversation = "",
    address: options.Address = options.DEFAULT_ADDRESS,
    tenant: options.Tenant = "",
) -> None:
    """Runs `precall cache put`."""
    from precall_service.cli.cache_session import Result, key_of, put_result

    with reported():
        act = partial(
            put_result,
            key=key_of(tool, version, arguments, conversation),
            given=Result.read(result, observed or [], position),
            ttl_s=ttl,
            expected=expect,
            cost_s=cost,
            content=content,
        )
    _on(address, tenant, act)


@app.command(
    help=options.help_text(
        "Make entries unreachable at once, and print the position of the change.",
        """Say which: --tool (with --version, and with --arguments for one entry), --resource,
        --conversation or --all.""",
        examples={
            "precall cache invalidate --resource 'file:/etc/*'": "what has read a file below /etc",
            "precall cache invalidate --tool get_weather": "all results of a tool",
            """precall cache invalidate --tool get_weather --version 1 """
            """--arguments '{"city": "Paris"}'""": "one entry",
        },
    )
)
def invalidate(
    *,
    tool: Annotated[
        str | None, typer.Option(metavar="TOOL", help="Of a tool.", show_default=False)
    ] = None,
    version: Annotated[
        str | None,
        typer.Option(metavar="VERSION", help="Only of this version.", show_default=False),
    ] = None,
    arguments: Annotated[
        str | None,
        typer.Option(metavar="ARGUMENTS", help="Only of the call with these.", show_default=False),
    ] = None,
    resource: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Stale after a write to this resource.", show_default=False
        ),
    ] = None,
    conversation: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            help="Of a conversation; with --arguments, the one that the entry is for.",
            show_default=False,
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Of the whole tenant.")] = False,
    address: options.Address = options.DEFAULT_ADDRESS,
    tenant: options.Tenant = "",
) -> None:
    """Runs `precall cache invalidate`."""
    from precall_service.cli.cache_session import invalidate_target, target_of

    with reported():
        target = target_of(
            tool=tool,
            version=version,
            arguments=arguments,
            resource=resource,
            conversation=conversation,
            everything=everything,
        )
    _on(address, tenant, partial(invalidate_target, target=target))


@app.command(
    help=options.help_text(
        "Print changes of the cache as they happen, until Ctrl-C: one JSON object a line.",
        examples={
            "precall cache watch": "from now on",
            "precall cache watch --after 1700000000000": "also those after a position",
        },
    )
)
def watch(
    *,
    after: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="POSITION",
            help="Print the changes after this position first.",
            show_default="only those from now on",
        ),
    ] = None,
    address: options.Address = options.DEFAULT_ADDRESS,
    tenant: options.Tenant = "",
) -> None:
    """Runs `precall cache watch`."""
    from precall_service.cli.cache_session import show_changes

    _on(address, tenant, partial(show_changes, after=after))
