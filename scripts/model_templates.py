"""Fetches the chat templates of real models, which tests prove precall with (`make test`).

The source distribution of llama-cpp-python has some seventy. They are not ours to commit, so they
are kept in the user's cache folder, once for all checkouts. uv asks the package index that the user
has configured where the distribution is; its SHA-256 is pinned here. Only the templates are stored.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import urllib.request
from pathlib import Path
from typing import IO, Final, cast

from filelock import FileLock

from precall_service.engine.models import default_cache_dir

PACKAGE: Final = "llama-cpp-python"
VERSION: Final = "0.3.36"
SHA256: Final = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
_PLACE: Final = f"llama_cpp_python-{VERSION}/vendor/llama.cpp/models/templates"
_TIMEOUT_S: Final = 60.0
_READ_BYTES: Final = 1 << 20


class FetchError(Exception):
    """The templates cannot be had; the message says why and what to do."""


class _Hashed:
    """A stream that is hashed while it is read."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.sha256 = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self.sha256.update(data)
        return data


def folder() -> Path:
    """Where the templates are kept; the name changes with the distribution that they are from."""
    return default_cache_dir() / f"model-templates-{SHA256[:12]}"


def fetch(uv: str) -> None:
    """Fetches the templates unless they are there. Any number of processes may do so at once.

    Raises:
        FetchError: the package index cannot be asked, or what it has is something else.
    """
    target = folder()
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_suffix(".lock")):
        if target.is_dir():
            return
        url = _address(uv)
        print(f"==> fetching the chat templates in {PACKAGE} {VERSION} (77 MB, once)", flush=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            found = Path(scratch) / "templates"
            found.mkdir()
            try:
                # The address is what uv has told; the hash says whether it was the right one.
                with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as stream:  # noqa: S310
                    unpack(stream, found, SHA256)
            except (OSError, tarfile.TarError) as error:
                raise FetchError(f"{PACKAGE} {VERSION} could not be fetched: {error}") from error
            found.rename(target)


def unpack(stream: IO[bytes], target: Path, sha256: str) -> None:
    """Stores the templates of a distribution in `target`.

    Raises:
        FetchError: the distribution has another hash, or no templates.
    """
    hashed = _Hashed(stream)
    with tarfile.open(fileobj=cast("IO[bytes]", hashed), mode="r|gz") as archive:
        for member in archive:
            path = Path(member.name)
            if str(path.parent) == _PLACE and path.suffix == ".jinja":
                content = archive.extractfile(member)
                assert content is not None, "a template is a file"
                (target / path.name).write_bytes(content.read())
    while hashed.read(_READ_BYTES):  # a reader of archives stops before the end
        pass
    if hashed.sha256.hexdigest() != sha256:
        raise FetchError(f"the hash of {PACKAGE} {VERSION} is not the pinned one: {sha256}")
    if not any(target.iterdir()):
        raise FetchError(f"{PACKAGE} {VERSION} has no templates in {_PLACE}")


def _address(uv: str) -> str:
    """Where the index that the user has configured keeps the distribution."""
    command = [uv, "pip", "compile", "--quiet", "--no-deps", "--no-header", "--format"]
    asked = subprocess.run(
        [*command, "pylock.toml", "-"],
        input=f"{PACKAGE}=={VERSION}",
        check=False,
        capture_output=True,
        text=True,
    )
    if asked.returncode != 0:
        raise FetchError(f"uv cannot find {PACKAGE} {VERSION}: {asked.stderr.strip()}")
    (package,) = tomllib.loads(asked.stdout)["packages"]
    if "url" not in package.get("sdist", {}):
        raise FetchError(f"the package index has no source distribution of {PACKAGE} {VERSION}")
    return package["sdist"]["url"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--uv", default="uv", help="the uv executable")
    try:
        fetch(parser.parse_args().uv)
    except FetchError as error:
        print(
            f"{error}\nThe tests of model families need these templates. They come from the "
            "package index, as all packages do: run the same command again with a network.",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
