"""Generates the Python stubs of proto/precall/v1.

    scripts/gen.py            rewrite the stubs in clients/python/src/precall/v1
    scripts/gen.py --check    exit 1 if the stubs differ from what the .proto files give

The same files give the same bytes, so a difference is always a change of the contract or a tool.
"""

from __future__ import annotations

import argparse
import filecmp
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto"
THIRD_PARTY = PROTO / "third_party"
STUBS = ROOT / "clients/python/src/precall/v1"
INIT = '"""Generated from proto/precall/v1 by `make gen`. Do not edit."""\n'


def protoc(*arguments: str) -> None:
    """Runs protoc over every file of the contract; exits with a message if protoc fails."""
    files = sorted(str(path.relative_to(PROTO)) for path in PROTO.glob("precall/v1/*.proto"))
    if not files:
        sys.exit(f"gen: no .proto file in {PROTO / 'precall/v1'}")
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTO}", f"-I{THIRD_PARTY}"]
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
    parser = argparse.ArgumentParser(description="Generate the Python stubs.")
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    options = parser.parse_args()

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
