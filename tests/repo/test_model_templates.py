"""The fetch of real chat templates: what it stores, and what it refuses to store."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from scripts import model_templates
from scripts.model_templates import FetchError

PLACE = f"llama_cpp_python-{model_templates.VERSION}/vendor/llama.cpp/models/templates"


def distribution(*names: str) -> bytes:
    """A source distribution with these files, each with its own name as its text."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(name)
            archive.addfile(member, io.BytesIO(name.encode()))
    return packed.getvalue()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PRECALL_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def uv(tmp_path: Path) -> str:
    """A program that finds the distribution in a file beside it, as uv does in an index."""
    program, found = tmp_path / "uv", tmp_path / "found.tar.gz"
    lock = f'packages = [{{ sdist = {{ url = "{found.as_uri()}" }} }}]'
    program.write_text(f"#!/bin/sh\ncat >/dev/null\necho '{lock}'\n")
    program.chmod(0o700)
    return str(program)


def pin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, packed: bytes) -> None:
    (tmp_path / "found.tar.gz").write_bytes(packed)
    monkeypatch.setattr(model_templates, "SHA256", hashlib.sha256(packed).hexdigest())


def test_templates_alone_are_kept(
    tmp_path: Path, cache: Path, uv: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{PLACE}/a.jinja", f"{PLACE}/README.md", f"{PLACE}/deeper/b.jinja", "c.jinja"]
    pin(monkeypatch, tmp_path, distribution(*names))
    model_templates.fetch(uv)
    kept = list(model_templates.folder().iterdir())
    assert [path.name for path in kept] == ["a.jinja"]
    assert kept[0].read_text() == f"{PLACE}/a.jinja"
    model_templates.fetch("no such program: nothing is fetched twice")


def test_another_hash_is_refused(
    tmp_path: Path, cache: Path, uv: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pin(monkeypatch, tmp_path, distribution(f"{PLACE}/a.jinja"))
    (tmp_path / "found.tar.gz").write_bytes(distribution(f"{PLACE}/b.jinja"))
    with pytest.raises(FetchError, match="is not the pinned one"):
        model_templates.fetch(uv)
    assert not model_templates.folder().exists()


@pytest.mark.parametrize(
    "packed",
    [distribution("a.jinja"), b"no archive", b""],
    ids=["other templates", "no archive", "nothing"],
)
def test_a_distribution_without_templates_is_refused(
    tmp_path: Path, cache: Path, uv: str, monkeypatch: pytest.MonkeyPatch, packed: bytes
) -> None:
    pin(monkeypatch, tmp_path, packed)
    with pytest.raises(FetchError, match=r"has no templates|could not be fetched"):
        model_templates.fetch(uv)
    assert not model_templates.folder().exists()


def test_without_a_network_it_says_what_to_do(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program = tmp_path / "uv"
    program.write_text("#!/bin/sh\ncat >/dev/null\necho 'no connection' >&2\nexit 2\n")
    program.chmod(0o700)
    monkeypatch.setattr("sys.argv", ["model_templates.py", "--uv", str(program)])
    assert model_templates.main() == 1
    told = capsys.readouterr().err
    assert "no connection" in told
    assert "run the same command again with a network" in told
