"""How long `make demo` takes from a fresh clone to its answer, with cold and warm caches.

The times are reported, not judged: most of the time goes into fetching and unpacking packages and
reading weights. The clone has the last commit. The user's own caches are neither read nor written.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import signal
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from bench.process import ChildFailedError, neutral_environ
from bench.report import Report

TIMEOUT_S = 1800.0
_OF_MAKE = frozenset({"MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "MAKELEVEL", "ARGS"})
REPOSITORY = Path(__file__).parent.parent

SIZES = {"cpu": {"rounds": 1}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Caches:
    """The folders of this run for everything that outlives a clone."""

    packages: Path
    models: Path
    engine: Path

    def environ(self) -> dict[str, str]:
        """The environment that makes every tool keep its cache in these folders."""
        return {
            "UV_CACHE_DIR": str(self.packages / "uv"),
            "PIP_CACHE_DIR": str(self.packages / "pip"),
            "PRECALL_CACHE_DIR": str(self.models),
            "VLLM_CACHE_ROOT": str(self.engine),
        }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this bench."""
    parser.add_argument("--rounds", type=int)


async def run(options: argparse.Namespace, report: Report) -> None:
    """Runs the bench and adds its samples to the report."""
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory(prefix="precall-demo-") as folder:
            await _round(Path(folder), report)


async def _round(folder: Path, report: Report) -> None:
    caches = Caches(
        packages=folder / "packages", models=folder / "models", engine=folder / "engine"
    )
    clone = folder / "clone"

    async def measured(name: str) -> None:
        print(f"{name}:", flush=True)
        began = time.perf_counter()
        await _ran(["make", "demo"], clone, caches.environ())
        report.add(name, time.perf_counter() - began, unit="s")

    await _clone_afresh(clone)
    await measured("fresh clone, nothing cached")
    await _clone_afresh(clone)
    shutil.rmtree(caches.models)
    await measured("fresh clone, packages cached")
    await _clone_afresh(clone)
    await measured("fresh clone, packages and model cached")
    await measured("the same clone again")
    report.round_ended()


async def _clone_afresh(clone: Path) -> None:
    shutil.rmtree(clone, ignore_errors=True)
    await _ran(["git", "clone", "--quiet", str(REPOSITORY), str(clone)], clone.parent, {})


async def _ran(command: list[str], folder: Path, environ: dict[str, str]) -> None:
    """Runs a command to its end and shows its output.

    Raises:
        ChildFailedError: The command failed or took too long.
    On cancel: the command and all processes that it started are killed.
    """
    # `make bench` passes its variables on, and the demo would take the bench's ARGS for its own.
    ours = {name: value for name, value in neutral_environ().items() if name not in _OF_MAKE}
    process = await asyncio.create_subprocess_exec(
        *command, cwd=folder, env=ours | environ, start_new_session=True
    )
    try:
        code = await asyncio.wait_for(process.wait(), TIMEOUT_S)
    except TimeoutError:
        raise ChildFailedError(f"{command} took more than {TIMEOUT_S:g} s") from None
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    if code:
        raise ChildFailedError(f"{command} failed with {code}")
