"""The tools of a chat, called as the client calls them."""

from __future__ import annotations

from pathlib import Path

import pytest

from precall import Tool
from precall_service.cli.chat_tools import Folder, chat_tools, current_time, roll_dice


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    root = tmp_path / "work"
    (root / "notes").mkdir(parents=True)
    (root / "notes" / "a.txt").write_text("hello")
    (root / "picture.png").write_bytes(b"\x89PNG\0")
    (root / "long.txt").write_text("x" * 20_000)
    (tmp_path / "secret.txt").write_text("secret")
    (root / "out").symlink_to(tmp_path / "secret.txt")
    return Folder(root)


def test_every_function_is_a_tool_with_a_description(tmp_path: Path) -> None:
    tools = [Tool.from_function(function, read_only=True) for function in chat_tools(tmp_path)]
    assert [tool.name for tool in tools] == [
        "current_time",
        "roll_dice",
        "list_files",
        "read_file",
    ]
    assert all(tool.description for tool in tools)


def test_current_time_in_a_zone() -> None:
    assert current_time("Asia/Tokyo").endswith("JST")
    assert current_time().endswith("UTC")


@pytest.mark.parametrize("zone", ["Atlantis", "", "../../etc/passwd", "Europe"])
def test_unknown_zone(zone: str) -> None:
    with pytest.raises(ValueError, match="there is no time zone"):
        current_time(zone)


def test_roll_dice() -> None:
    rolled = roll_dice(sides=6, count=50)
    assert len(rolled) == 50
    assert set(rolled) <= set(range(1, 7))


def test_list_files(folder: Folder) -> None:
    assert folder.list_files() == ["long.txt", "notes/", "out", "picture.png"]
    assert folder.list_files("notes") == ["a.txt"]


def test_list_is_cut(tmp_path: Path) -> None:
    for number in range(205):
        (tmp_path / f"{number:03}").touch()
    listed = Folder(tmp_path).list_files()
    assert len(listed) == 201
    assert listed[-1] == "(and 5 more)"


def test_read_file(folder: Folder) -> None:
    assert folder.read_file("notes/a.txt") == "hello"


def test_long_file_is_cut(folder: Folder) -> None:
    assert folder.read_file("long.txt").endswith("x\n(cut: the file has 20,000 bytes)")


@pytest.mark.parametrize("path", ["../secret.txt", "/etc/passwd", "out", "notes/../../secret.txt"])
def test_nothing_outside_the_folder_is_read(folder: Folder, path: str) -> None:
    with pytest.raises(ValueError, match="outside of the working directory"):
        folder.read_file(path)
    with pytest.raises(ValueError, match="outside of the working directory"):
        folder.list_files(path)


@pytest.mark.parametrize(
    ("path", "reason"),
    [("nothing", "there is no file"), ("notes", "there is no file"), ("picture.png", "not a text")],
)
def test_unreadable_files_are_refused(folder: Folder, path: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        folder.read_file(path)


def test_file_is_not_a_folder(folder: Folder) -> None:
    with pytest.raises(ValueError, match="is not a folder"):
        folder.list_files("long.txt")
