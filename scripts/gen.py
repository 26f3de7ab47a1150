"""Generates the Python stubs of proto/precall/v1, and the descriptor sets that buf checks.

    scripts/gen.py                    rewrite the stubs in clients/python/src/precall/v1
    scripts/gen.py --check            exit 1 if they are not what the .proto files give
    scripts/gen.py --descriptors F    write the descriptor set with comments, for `buf lint`
    scripts/gen.py --baseline F       write it without, as the release to stay compatible with

The same files give the same bytes, so a difference is always a change of the contract or a tool.
"""

from __future__ import annotations

import argparse
import filecmp
import importlib.resources
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto"
STUBS = ROOT / "clients/python/src/precall/v1"
INIT = '"""Generated from proto/precall/v1 by `make gen`. Do not edit."""\n'


def protoc(*arguments: str) -> None:
    """Runs protoc over every file of the contract; google/rpc comes from its own package."""
    googleapis = importlib.resources.files("google.rpc") / "../.."
    files = sorted(str(path.relative_to(PROTO)) for path in PROTO.glob("precall/v1/*.proto"))
    if not files:
        sys.exit(f"gen: no .proto file in {PROTO / 'precall/v1'}")
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTO}", f"-I{googleapis}"]
    if subprocess.run([*command, *arguments, *files], cwd=ROOT, check=False).returncode:
        sys.exit("gen: protoc failed; the lines above say where")


def generate(folder: Path) -> Path:
    """Writes the stubs under `folder` and returns their package's folder."""
    plugins = Path(sys.executable).parent
    protoc(
        f"--python_out={folder}",
        f"--grpc_python_out={folder}",
        f"--plugin=protoc-gen-mypy={plugins / 'protoc-gen-mypy'}",
        f"--mypy_out=quiet:{folder}",
        f"--plugin=protoc-gen-mypy_grpc={plugins / 'protoc-gen-mypy_grpc'}",
        f"--mypy_grpc_out=quiet,only_async:{folder}",
    )
    package = folder / "precall/v1"
    for module in package.glob("*_pb2_grpc.py"):
        if "class " not in module.read_text():  # a file with messages only: nothing to call
            module.unlink()
            module.with_suffix(".pyi").unlink()
    (package / "__init__.py").write_text(INIT)
    return package


def differences(fresh: Path, committed: Path) -> list[str]:
    """Returns the names that are missing, left over or different in `committed`."""
    names = {path.name for folder in (fresh, committed) for path in folder.glob("*.py*")}
    _, changed, missing = filecmp.cmpfiles(fresh, committed, names, shallow=False)
    return sorted(changed + missing)


def main() -> None:
    parser = argparse.ArgumentParser(description="Generate the Python stubs and descriptor sets.")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--check", action="store_true", help="compare, write nothing")
    mode.add_argument("--descriptors", type=Path, metavar="F", help="write for `buf lint`")
    mode.add_argument("--baseline", type=Path, metavar="F", help="write for `buf breaking`")
    options = parser.parse_args()

    if options.descriptors or options.baseline:
        output: Path = options.descriptors or options.baseline
        output.parent.mkdir(parents=True, exist_ok=True)
        comments = ["--include_source_info"] if options.descriptors else []
        protoc("--include_imports", *comments, f"--descriptor_set_out={output}")
        return

    with tempfile.TemporaryDirectory() as scratch:
        fresh = generate(Path(scratch))
        stale = differences(fresh, STUBS)
        if options.check:
            if stale:
                sys.exit(f"gen: stubs are stale, run `make gen`: {', '.join(stale)}")
            return
        STUBS.mkdir(parents=True, exist_ok=True)
        for name in stale:
            (STUBS / name).unlink(missing_ok=True)
            if (fresh / name).exists():
                (STUBS / name).write_bytes((fresh / name).read_bytes())
        print(f"gen: {len(stale)} files changed in {STUBS.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
