"""What an engine leaves behind is removed, and nothing of others."""

from __future__ import annotations

import os
import socket
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import pytest

from tests.support.prompt_renderers import tokenizer

tokenizer()  # first, since it imports vLLM as precall does

from precall_service.engine.vllm import leftovers  # noqa: E402
from precall_service.engine.vllm.leftovers import (  # noqa: E402
    remove_leftovers,
    shared_memory_of,
    starting,
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands for the folder of this process's engines."""

    def own() -> Path:
        return tmp_path

    monkeypatch.setattr(leftovers, "temporary_folder", own)
    return tmp_path


def test_sockets_without_a_process_are_removed(folder: Path) -> None:
    bound = socket.socket(socket.AF_UNIX)
    bound.bind(str(folder / "bound"))
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(folder / "left"))
    left.close()
    (folder / "other").touch()
    remove_leftovers(())
    assert {each.name for each in folder.iterdir()} == {"bound", "other"}
    bound.close()
    remove_leftovers(())
    assert {each.name for each in folder.iterdir()} == {"other"}


def test_meeting_points_are_removed_unless_an_engine_starts(folder: Path) -> None:
    (folder / "vllm_dist_1").touch()
    with starting():
        remove_leftovers(())
        assert list(folder.iterdir())
    remove_leftovers(())
    assert not list(folder.iterdir())


def test_shared_memory_is_removed_once(folder: Path) -> None:
    before = shared_memory_of([os.getpid()])
    memory = SharedMemory(create=True, size=4096)
    try:
        own = shared_memory_of([os.getpid(), 1 << 22]) - before
        assert own == {memory.name}
        remove_leftovers(own)
        remove_leftovers(own)
        with pytest.raises(FileNotFoundError):
            SharedMemory(name=memory.name)
    finally:
        memory.close()


def test_a_tokenizer_is_not_kept_by_vllm(folder: Path) -> None:
    from vllm.utils import func_utils

    func_utils.supports_kw(tokenizer, "anything")
    kept = func_utils._supports_kw.cache_info  # pyright: ignore[reportPrivateUsage]
    assert kept().currsize
    remove_leftovers(())
    assert not kept().currsize
