"""Compiles pyproject.toml into the hash-pinned files in requirements/ (`make lock`).

Pins that still fit are kept, so a small change gives a small diff. `--upgrade` takes the newest
versions. The files name no machine and no package index.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "requirements"
HEADER = "# Compiled from pyproject.toml by `make lock`. Do not edit.\n"

BOOTSTRAP = ("--group", "bootstrap")
CPU = ("pyproject.toml", "--extra", "cpu", "--group", "build")
GPU = ("pyproject.toml", "--extra", "gpu", "--group", "build")
DEV = ("--group", "dev")


def compile_pins(uv: str, name: str, *sources: str, seed: Path, upgrade: bool) -> str:
    """Returns the pins of `sources`, preferring the versions in the file `seed`."""
    print(f"==> resolving {name}", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch) / "out.txt"
        if seed.exists():
            shutil.copy(seed, output)
        command = [uv, "pip", "compile", *sources, "--output-file", str(output)]
        command += [
            "--override",
            "requirements/overrides.txt",
            "--universal",
            "--generate-hashes",
            "--no-header",
            "--no-annotate",
            "--quiet",
        ]
        command += ["--no-emit-package", "precall", *(["--upgrade"] if upgrade else [])]
        subprocess.run(command, cwd=ROOT, check=True)
        return output.read_text()


def blocks(pins: str) -> dict[str, str]:
    """Splits a compiled file into entries by name; the forks of a name stay in one entry."""
    entries: dict[str, str] = {}
    for entry in re.split(r"(?m)^(?=[a-z0-9])", pins):
        match = re.match(r"[a-z0-9._-]+", entry)
        if match:
            entries[match[0]] = entries.get(match[0], "") + entry
    return entries


def write(name: str, pins: str) -> Path:
    path = REQUIREMENTS / f"{name}.txt"
    path.write_text(HEADER + pins)
    return path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--uv", default="uv", help="the uv executable")
    parser.add_argument("--upgrade", action="store_true", help="take the newest allowed versions")
    options = parser.parse_args()
    uv, upgrade = options.uv, options.upgrade

    def pins(name: str, *sources: str, seed: Path | None = None) -> str:
        own = REQUIREMENTS / f"{name}.txt"
        return compile_pins(uv, name, *sources, seed=seed or own, upgrade=upgrade and seed is None)

    write("bootstrap", pins("bootstrap", *BOOTSTRAP))
    # The GPU build of vLLM pins more packages, so it is resolved first and seeds the CPU set.
    gpu = write("gpu", pins("gpu", *GPU))
    cpu = write("cpu", pins("cpu", *CPU, seed=gpu))
    on_gpu, on_cpu = blocks(gpu.read_text()), blocks(cpu.read_text())
    with tempfile.TemporaryDirectory() as scratch:
        # The sets differ in setuptools, so dev.txt has to accept the version of either set.
        either = Path(scratch) / "either.txt"
        either.write_text("".join((on_gpu | on_cpu).values()))
        tools = blocks(pins("dev", *DEV, "--constraint", str(either)))
    # dev.txt is installed on top of either set, so it leaves out the packages of both.
    shared = on_cpu.keys() & on_gpu.keys()
    write("dev", "".join(entry for name, entry in tools.items() if name not in shared))
    return 0


if __name__ == "__main__":
    sys.exit(main())
