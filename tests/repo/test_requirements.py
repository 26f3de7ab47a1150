"""requirements/*.txt pin every package by hash, including the dependencies in pyproject.toml."""

from __future__ import annotations

import re
import sys
import tomllib
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.repo.files import text, tracked

FILES = ["bootstrap", "cpu", "dev", "gpu"]
OURS = "precall"


def entries(name: str) -> list[str]:
    lines = text(f"requirements/{name}.txt").replace("\\\n", " ").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def pins(*names: str) -> dict[str, set[str]]:
    """Returns the pinned versions by package. Some depend on the Python version."""
    found: dict[str, set[str]] = {}
    for entry in (line for name in names for line in entries(name)):
        package, version = re.split("==| ", entry)[:2]
        found.setdefault(canonicalize_name(package), set()).add(version)
    return found


def wanted(name: str) -> list[Requirement]:
    """Returns the direct dependencies that `requirements/{name}.txt` must pin."""
    service: dict[str, Any] = tomllib.loads(text("pyproject.toml"))
    client: dict[str, Any] = tomllib.loads(text("clients/python/pyproject.toml"))
    if name in ("bootstrap", "dev"):
        direct: list[str] = service["dependency-groups"][name]
    else:
        direct = [
            *service["project"]["dependencies"],
            *service["project"]["optional-dependencies"][name],
            *service["dependency-groups"]["build"],
            *client["project"]["dependencies"],
        ]
    return [requirement for requirement in map(Requirement, direct) if requirement.name != OURS]


@pytest.mark.parametrize("name", FILES)
def test_every_entry_is_pinned_by_hash(name: str) -> None:
    assert not [line for line in entries(name) if "==" not in line or "--hash=sha256:" not in line]


@pytest.mark.parametrize("name", FILES)
def test_no_address_or_option(name: str) -> None:
    assert not [line for line in entries(name) if "://" in line or line.startswith("-")]


@pytest.mark.parametrize("name", FILES)
def test_pins_satisfy_pyproject(name: str) -> None:
    """Fails when a dependency changed and `make lock` was not run."""
    # dev.txt is installed on top of an engine's set and leaves out the packages of that set.
    found = pins(*(["dev", "cpu"] if name == "dev" else [name]))
    for requirement in wanted(name):
        versions = found.get(canonicalize_name(requirement.name), set())
        assert versions, f"{requirement.name} is not pinned: run `make lock`"
        assert all(requirement.specifier.contains(version) for version in versions), requirement


def test_both_engines_share_their_packages() -> None:
    """Both sets have the same versions, so tests that pass on a CPU hold for a GPU."""
    cpu, gpu = pins("cpu"), pins("gpu")
    differing = {name for name in cpu.keys() & gpu.keys() if cpu[name] != gpu[name]}
    assert differing <= {"setuptools"}  # each vLLM build pins its own


def test_the_extra_of_the_fake_server_is_what_its_copies_import() -> None:
    """They are the service's modules, so they need what the service needs, in the same versions."""
    service: dict[str, Any] = tomllib.loads(text("pyproject.toml"))
    client: dict[str, Any] = tomllib.loads(text("clients/python/pyproject.toml"))
    extra: list[str] = client["project"]["optional-dependencies"]["testing"]
    assert set(extra) <= set(service["project"]["dependencies"])
    imported = {
        name
        for path in tracked()
        if "/testing/_service/" in path
        for name in re.findall(r"^(?:from|import) (\w+)", text(path), re.MULTILINE)
    }
    ours = {"precall", *sys.stdlib_module_names}
    assert imported - ours == {Requirement(each).name.replace("-", "_") for each in extra}
