"""The benches by name: `python -m bench stream --quick`."""

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

BENCHES = ("stream", "idle")


def main() -> int:
    """Runs the benches that are named; 0 unless one could not be run."""
    options = _parser().parse_args()
    bench: ModuleType = options.module
    if options.quick:
        bench.quick(options)
    hidden = {"module", "bench", "quick", "keep"}
    settings = {
        name: value if isinstance(value, int | float | str | bool) else str(value)
        for name, value in vars(options).items()
        if name not in hidden and value is not None
    }
    report = Report(bench=options.bench, settings=settings)
    print(" ".join(f"{name} {value}," for name, value in machine.facts().items() if value))
    try:
        asyncio.run(bench.run(options, report))
    except ChildFailedError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    report.finish(judge=not options.quick, keep=options.keep and not options.quick)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    benches = parser.add_subparsers(dest="bench", required=True)
    for name in BENCHES:
        module = importlib.import_module(f"bench.{name}")
        summary = (module.__doc__ or "").split("\n\n")[0]
        one = benches.add_parser(name, help=summary.split("\n")[0], description=module.__doc__)
        one.add_argument("--quick", action="store_true", help="tiny sizes; nothing is kept")
        one.add_argument(
            "--no-keep", dest="keep", action="store_false", help="print the result only"
        )
        module.add_arguments(one)
        one.set_defaults(module=module)
    return parser


if __name__ == "__main__":
    sys.exit(main())
