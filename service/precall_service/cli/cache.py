"""`precall cache`: the tool cache of a tenant, from the command line.

Owns: the arguments of its commands. Results go to stdout as JSON, and everything else to stderr.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from precall_service.cli import interrupts, options
from precall_service.cli.console import configure_logging
from precall_service.cli.errors import reported

if TYPE_CHECKING:
    import precall

app = typer.Typer(
    help=options.help_text(
        "Inspect and change the tool cache of a service.",
        """A key consists of the name of a tool, its version, and the arguments as a JSON object.
        The order of the arguments does not matter. With --conversation, only that conversation can
        use the entry. Results are printed to stdout as JSON.""",
        examples={
            "precall cache stats | jq .hits": "one number",
            """precall cache get get_weather 1 '{"city": "Paris"}'""": "a result",
            "precall cache invalidate --resource 'file:/etc/*'": "after an outside change",
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
        help="The only conversation that can use the entry.",
        show_default="every conversation of the tenant",
    ),
]


def _on(
    address: str, tenant: str, act: Callable[[precall.ToolCache], Coroutine[None, None, None]]
) -> None:
    """Calls `act` with the cache of a tenant, and reports errors."""
    with reported():
        configure_logging("error")
        from precall_service.cli.cache_session import on_cache

        interrupts.run(on_cache(address, tenant, act))


@app.command(
    help=options.help_text(
        "Print what the cache holds, and what the service has counted since it started.",
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
        "Print the versions of resources: read them before you compute a result to put.",
        examples={
            "precall cache versions file:/a 'order:*'": "the version of each, and the position",
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
        """Before you compute the result, read the versions of the resources that it depends on.
        Give them with --observed, and their position with --position. If one of the resources has
        changed since then, nothing is stored.""",
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
            help="A resource that it depends on, with the version that was read; repeatable.",
            show_default=False,
        ),
    ] = None,
    position: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="POSITION",
            help="The position of the versions; needed to notice invalidations since then.",
            show_default="unknown",
        ),
    ] = None,
    expect: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="VERSION",
            help="Replace only this version of the entry; 0: store only if there is no entry.",
            show_default="any version",
        ),
    ] = None,
    cost: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="How long it took to compute the result; cheap results are dropped first.",
            show_default="unknown",
        ),
    ] = None,
    content: Annotated[
        str,
        typer.Option(metavar="TEXT", help="What the model sees.", show_default="RESULT"),
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
        """Choose the entries with one of --tool, --resource, --conversation and --all. With --tool,
        --version limits them to one version, and --arguments to one entry.""",
        examples={
            "precall cache invalidate --resource 'file:/etc/*'": "results that read below /etc",
            "precall cache invalidate --tool get_weather": "all results of a tool",
            """precall cache invalidate --tool get_weather --version 1 """
            """--arguments '{"city": "Paris"}'""": "one entry",
        },
    )
)
def invalidate(
    *,
    tool: Annotated[
        str | None, typer.Option(metavar="TOOL", help="Entries of a tool.", show_default=False)
    ] = None,
    version: Annotated[
        str | None,
        typer.Option(metavar="VERSION", help="Only those of this version.", show_default=False),
    ] = None,
    arguments: Annotated[
        str | None,
        typer.Option(
            metavar="ARGUMENTS", help="Only the entry with these arguments.", show_default=False
        ),
    ] = None,
    resource: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Entries that a write to this resource makes stale.",
            show_default=False,
        ),
    ] = None,
    conversation: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            help="Entries of a conversation. With --arguments: the conversation of the entry.",
            show_default=False,
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All entries of the tenant.")] = False,
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
        "Print changes of the cache as they happen, one JSON object per line, until Ctrl-C.",
        examples={
            "precall cache watch": "changes from now on",
            "precall cache watch --after 1700000000000000": "also those since a position",
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
            show_default="only changes from now on",
        ),
    ] = None,
    address: options.Address = options.DEFAULT_ADDRESS,
    tenant: options.Tenant = "",
) -> None:
    """Runs `precall cache watch`."""
    from precall_service.cli.cache_session import show_changes

    _on(address, tenant, partial(show_changes, after=after))
