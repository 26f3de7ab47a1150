"""The benches by name: `python -m bench stream --quick`.

Every bench has sizes for a CPU, most for a GPU, and some for a quick look; flags go before them.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import os
import sys
from types import ModuleType

os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # read when grpc is imported

from bench import machine
from bench.process import ChildFailedError
from bench.report import Report

BENCHES = ("stream", "idle", "throughput", "continuation", "pressure", "block", "demo")
_NO_SETTINGS = {"module", "bench", "keep", "resume", "rounds"}


def main() -> int:
    """Runs the bench that is named; 0 unless it could not be run."""
    parser = _parser()
    options = parser.parse_args()
    if options.bench is None:
        parser.print_help()
        return 0
    bench: ModuleType = options.module
    for name, value in bench.SIZES[options.sizes].items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    settings = {
        name: value if isinstance(value, int | float | str | bool) else str(value)
        for name, value in vars(options).items()
        if name not in _NO_SETTINGS and value is not None
    }
    quick = options.sizes == "quick"
    report = Report(bench=options.bench, settings=settings)
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
        print("stopped", file=sys.stderr)
        return 130
    report.finish(judge=not quick, keep=options.keep and not quick)
    return 0


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
            "--sizes", choices=tuple(module.SIZES), default="cpu", help="what is not said below"
        )
        one.add_argument(
            "--quick",
            dest="sizes",
            action="store_const",
            const="quick",
            help="as --sizes quick: nothing is judged or kept",
        )
        one.add_argument(
            "--no-keep", dest="keep", action="store_false", help="print the result only"
        )
        one.add_argument(
            "--resume",
            action="store_true",
            help="add to the kept result, which has the same settings: a long bench in pieces",
        )
        module.add_arguments(one)
        one.set_defaults(module=module)
    return parser


if __name__ == "__main__":
    sys.exit(main())
