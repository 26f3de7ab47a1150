"""buf works in a clean copy of proto/, without a network and the rest of the repository."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest

from tests.repo.files import ROOT, copy

BUF = Path(sys.executable).parent / "buf"
# Nothing listens on port 9, so a download fails at once.
OFFLINE = {"HTTPS_PROXY": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}


@pytest.fixture
def proto(tmp_path: Path) -> Path:
    return copy("proto", tmp_path)


def buf(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | OFFLINE | {"BUF_CACHE_DIR": str(cwd / "cache")}
    return subprocess.run(
        [BUF, *arguments],
        cwd=cwd,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
    )


@pytest.mark.parametrize("name", ["error_details.proto", "status.proto"])
def test_third_party_files_equal_those_of_the_package(name: str) -> None:
    """The service uses the package's messages, but stubs are generated against the copies."""
    package = distribution("googleapis-common-protos").locate_file(f"google/rpc/{name}")
    kept = ROOT / "proto/third_party/google/rpc" / name
    assert kept.read_bytes() == Path(str(package)).read_bytes(), f"copy {package} to {kept}"


@pytest.mark.parametrize("command", ["lint", "format --diff --exit-code"])
def test_buf_passes(command: str, proto: Path) -> None:
    result = buf(*command.split(), cwd=proto)
    assert (result.returncode, result.stdout + result.stderr) == (0, "")


def test_buf_lint_checks_the_contract(proto: Path) -> None:
    contract = proto / "precall/v1/agent.proto"
    contract.write_text(contract.read_text() + "message Undocumented {}\n")
    result = buf("lint", cwd=proto)
    assert result.returncode
    assert 'Message "Undocumented" should have a non-empty comment' in result.stdout


def test_buf_breaking_compares_with_the_output_of_make_baseline(proto: Path) -> None:
    build = "build --path precall --exclude-source-info --output new.binpb"
    assert buf(*build.split(), cwd=proto).returncode == 0
    unchanged = buf("breaking", "--against", "new.binpb", cwd=proto)
    assert (unchanged.returncode, unchanged.stdout + unchanged.stderr) == (0, "")

    contract = proto / "precall/v1/agent.proto"
    contract.write_text(contract.read_text().replace("string client_name", "string client_title"))
    changed = buf("breaking", "--against", "new.binpb", cwd=proto)
    assert changed.returncode
    assert 'changed name from "client_name" to "client_title"' in changed.stdout
