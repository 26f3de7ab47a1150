"""Runs a bench by name: `python -m bench stream --quick`.

Every bench has a set of default sizes for a CPU. Some also have sets for a GPU and for a quick
check. A flag overrides one size of the set.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # read when grpc is imported

from bench import machine
from bench.process import ChildFailedError
from bench.report import Report
from precall_service.domain.json import JsonObject
from precall_service.engine.models import is_embedded

BENCHES = (
    "stream",
    "idle",
    "crowd",
    "hostile",
    "throughput",
    "continuation",
    "pressure",
    "block",
    "cache",
    "history",
    "turn",
    "regression",
    "remote",
    "registration",
    "arguments",
    "drafts",
    "demo",
    "latency",
    "speculation_oracle",
    "speculation_bound",
    "speculation_fork",
    "speculation_agreement",
    "speculation_wrong",
    "speculation_off",
    "speculation_memory",
    "draft_model",
    "client_side",
)
_NO_SETTINGS = {"module", "bench", "keep", "no_keep", "resume", "rounds"}


def main() -> int:
    """Runs the named bench. Returns 0 unless it could not be run."""
    parser = _parser()
    options = parser.parse_args()
    if options.bench is None:
        parser.print_help()
        return 0
    bench: ModuleType = options.module
    settings = _settings(options)
    plain = _settings(parser.parse_args([options.bench, "--sizes", options.sizes]))
    own = [f"{name} {value}" for name, value in settings.items() if plain.get(name) != value]
    report = Report(bench=options.bench, settings=settings, name=_kept_as(options, own))
    if options.resume:
        try:
            report.resume()
        except ValueError as error:
            print(error, file=sys.stderr)
            return 2
    print(", ".join(f"{name} {value}" for name, value in machine.facts().items() if value))
    try:
        asyncio.run(bench.run(options, report))
    except ChildFailedError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; if results are kept, the completed rounds are", file=sys.stderr)
        return 130
    report.finish(judge=options.sizes != "quick")
    return 0


def _settings(options: argparse.Namespace) -> JsonObject:
    """The settings of the run, defaults included. Fills the defaults into `options` as well.

    The number of rounds is not a setting: runs with different numbers of rounds can be combined.
    """
    for name, value in options.module.SIZES[options.sizes].items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return {
        name: value if isinstance(value, int | float | str | bool) else str(value)
        for name, value in vars(options).items()
        if name not in _NO_SETTINGS and value is not None
    }


def _kept_as(options: argparse.Namespace, own: Sequence[str]) -> str | None:
    """The name under which to keep the result, distinct for each set of sizes and each model.

    Returns None if the result is not kept.
    """
    if options.no_keep or options.sizes == "quick":
        return None
    model: str | None = getattr(options, "model", None)
    own = [each for each in own if each != f"model {model}"]
    if own and options.keep is None:
        print(f"not kept, because of custom sizes: {', '.join(own)}. Use --keep NAME to keep it")
        return None
    parts = (
        options.bench,
        None if options.sizes == "cpu" else options.sizes,
        None if is_embedded(model) else Path(str(model)).resolve().name,
        options.keep,
    )
    return "-".join(part for part in parts if part)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    benches = parser.add_subparsers(dest="bench")
    for name in BENCHES:
        module = importlib.import_module(f"bench.{name}")
        text = module.__doc__ or ""
        one = benches.add_parser(
            name,
            help=text.split("\n")[0],
            description=text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        one.add_argument(
            "--sizes",
            choices=tuple(module.SIZES),
            default="cpu",
            help="default sizes",
        )
        if "quick" in module.SIZES:
            one.add_argument(
                "--quick",
                dest="sizes",
                action="store_const",
                const="quick",
                help="same as --sizes quick: judges and keeps nothing",
            )
        one.add_argument("--no-keep", action="store_true", help="only print the result")
        one.add_argument(
            "--keep",
            metavar="NAME",
            help="add NAME to the name of the kept result; needed to keep custom sizes",
        )
        one.add_argument(
            "--resume",
            action="store_true",
            help="add rounds to the kept result, which must have the same settings",
        )
        module.add_arguments(one)
        one.set_defaults(module=module)
    return parser


if __name__ == "__main__":
    sys.exit(main())
