"""Generates the Python of proto/precall/v1: the stubs, and the events (gen_events.py).

    scripts/gen.py            rewrite the files that are stale
    scripts/gen.py --check    exit 1 if a file is stale

The same .proto files always give the same bytes, so a file is stale only if the contract, the
generator or a tool has changed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorSet

import gen_events

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto"
THIRD_PARTY = PROTO / "third_party"
STUBS = ROOT / "clients/python/src/precall/v1"
INIT = '"""Generated from proto/precall/v1 by `make gen`. Do not edit."""\n'


def protoc(*arguments: str) -> None:
    """Runs protoc over every file of the contract."""
    files = sorted(str(path.relative_to(PROTO)) for path in PROTO.glob("precall/v1/*.proto"))
    if not files:
        sys.exit(f"gen: no .proto file in {PROTO / 'precall/v1'}")
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTO}", f"-I{THIRD_PARTY}"]
    if subprocess.run([*command, *arguments, *files], cwd=ROOT, check=False).returncode:
        sys.exit("gen: protoc failed; the lines above say where")


def generate() -> dict[Path, bytes]:
    """Returns the generated files by their paths in the repository."""
    with tempfile.TemporaryDirectory() as scratch:
        descriptors = Path(scratch) / "descriptors.binpb"
        stubs(Path(scratch), descriptors)
        described = FileDescriptorSet.FromString(descriptors.read_bytes())
        files = {
            STUBS / path.name: path.read_bytes()
            for path in (Path(scratch) / "precall/v1").glob("*.py*")
        }
    files[STUBS / "__init__.py"] = INIT.encode()
    for path, text in gen_events.modules(described).items():
        files[ROOT / path] = text.encode()
    return files


def stubs(folder: Path, descriptors: Path) -> None:
    """Writes the stubs under `folder`, and the descriptors with their comments."""
    plugins = Path(sys.executable).parent
    protoc(
        f"--python_out={folder}",
        f"--grpc_python_out={folder}",
        f"--plugin=protoc-gen-mypy={plugins / 'protoc-gen-mypy'}",
        f"--mypy_out=quiet:{folder}",
        f"--plugin=protoc-gen-mypy_grpc={plugins / 'protoc-gen-mypy_grpc'}",
        f"--mypy_grpc_out=quiet,only_async:{folder}",
        "--include_imports",
        "--include_source_info",
        f"--descriptor_set_out={descriptors}",
    )
    for module in folder.glob("precall/v1/*_pb2_grpc.py"):
        if "class " not in module.read_text():  # no service in this file, so nothing to call
            module.unlink()
            module.with_suffix(".pyi").unlink()


def stale(fresh: dict[Path, bytes]) -> list[Path]:
    """Returns the files of the repository that are missing, left over or different."""
    paths = {*fresh, *STUBS.glob("*.py*")}
    return sorted(
        path for path in paths if not path.exists() or path.read_bytes() != fresh.get(path)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Generate the Python of the contract.")
    parser.add_argument("--check", action="store_true", help="only compare; write nothing")
    options = parser.parse_args()

    fresh = generate()
    changed = stale(fresh)
    if options.check:
        if changed:
            names = ", ".join(str(path.relative_to(ROOT)) for path in changed)
            sys.exit(f"gen: these files are stale; run `make gen`: {names}")
        return
    for path in changed:
        path.unlink(missing_ok=True)
        if path in fresh:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(fresh[path])
    print(f"gen: {len(changed)} files changed")


if __name__ == "__main__":
    main()
