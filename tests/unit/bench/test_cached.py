"""The arguments and results of the cache bench are what its document says."""

from __future__ import annotations

import json

import pytest

from bench import cached
from precall_service.domain.json import parse


@pytest.mark.parametrize("floats", [False, True])
def test_arguments_are_about_1_kib(floats: bool) -> None:
    text = json.dumps(cached.arguments(floats=floats))
    assert 900 < len(text) < 1100
    assert parse(text) == cached.arguments(floats=floats)


def test_results_are_1_kib_and_differ() -> None:
    assert len(cached.result(1)) == len(cached.result(99_999)) == cached.RESULT_BYTES
    assert cached.result(1) != cached.result(2)


@pytest.mark.parametrize("depth", [2, 5, 32])
def test_a_path_has_its_depth(depth: int) -> None:
    assert cached.path(7, depth).count("/") == depth


async def test_a_hit_is_what_was_kept() -> None:
    tool = cached.declaration(cached.READ)
    cache = cached.memory_cache()
    for number in (1, 2):
        asked = cached.query(tool, cached.arguments(number))
        await cached.keep(cache, asked, cached.result(number))
    assert await cached.hit(cache, tool, cached.arguments(1)) == cached.result(1)
