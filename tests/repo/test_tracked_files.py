"""The repository has no lock files of uv, no package index addresses and no machine paths."""

from __future__ import annotations

import re

from tests.repo.files import text, tracked, written

# The package index is a setting of each machine, so no file may name one.
PACKAGE_INDEX = re.compile(r"//[\w.-]*(?:pypi|pythonhosted|npmjs|crates|maven|golang)\.\w+", re.I)
# Paths below these folders belong to one machine or person; shebangs and devices do not.
MACHINE_PATH = re.compile(r"(?<![\w.~$}*/:-])/(?:work|root|home|Users|tmp)/\w")


def matches(pattern: re.Pattern[str]) -> dict[str, list[str]]:
    found = {path: pattern.findall(text(path)) for path in written()}
    return {path: hits for path, hits in found.items() if hits}


def test_no_uv_lock() -> None:
    """uv.lock records download addresses. Packages are installed from requirements/*.txt."""
    assert not [path for path in tracked() if path.endswith("uv.lock")]


def test_no_package_index() -> None:
    assert not matches(PACKAGE_INDEX)


def test_no_machine_paths() -> None:
    assert not matches(MACHINE_PATH)
