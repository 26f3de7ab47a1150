"""What --model may name, and the message if it names nothing that can be served."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from precall_service.engine import models
from precall_service.engine.base import Progress
from precall_service.engine.model_files import ModelError
from precall_service.engine.models import default_cache_dir, resolve_model


def make_folder(folder: Path, *, without: str = "") -> Path:
    files = {
        "config.json": json.dumps({"model_type": "qwen3"}),
        "model.safetensors": "weights",
        "tokenizer.json": "{}",
        "tokenizer_config.json": json.dumps({"chat_template": "<tool_call> <think>"}),
    }
    folder.mkdir(parents=True)
    for name, text in files.items():
        if name != without:
            (folder / name).write_text(text)
    return folder


def test_a_local_folder_is_described_by_its_own_files(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "my-model")

    model = resolve_model(str(folder), cache_dir=tmp_path)

    assert model.path_or_name == str(folder)
    assert model.display_name == "my-model"
    assert (model.local, model.embedded) == (True, False)
    assert model.tool_parser == "hermes"
    assert model.chat_template == "<tool_call> <think>"


def test_a_template_file_wins_over_the_tokenizer_config(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "m")
    (folder / "chat_template.jinja").write_text("[TOOL_CALLS]")

    assert resolve_model(str(folder), cache_dir=tmp_path).tool_parser == "mistral"


def test_the_template_named_for_tools_is_taken(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "m")
    templates = [
        {"name": "default", "template": "plain"},
        {"name": "tool_use", "template": "<tool_call>"},
    ]
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": templates}))

    assert resolve_model(str(folder), cache_dir=tmp_path).chat_template == "<tool_call>"


@pytest.mark.parametrize(
    ("without", "named"),
    [
        ("config.json", "config.json"),
        ("model.safetensors", "weights"),
        ("tokenizer.json", "a tokenizer"),
    ],
)
def test_a_missing_file_is_named(tmp_path: Path, without: str, named: str) -> None:
    folder = make_folder(tmp_path / "m", without=without)

    with pytest.raises(ModelError, match=f"{folder} is incomplete: missing {named}"):
        resolve_model(str(folder), cache_dir=tmp_path)


def test_every_missing_file_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"config\.json, weights .*, a tokenizer"):
        resolve_model(str(tmp_path), cache_dir=tmp_path)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "m")
    shards = {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))

    with pytest.raises(ModelError, match=r"missing model-00002-of-00002\.safetensors"):
        resolve_model(str(folder), cache_dir=tmp_path)


def test_a_git_lfs_pointer_is_not_taken_for_weights(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "m")
    (folder / "model.safetensors").write_text("version https://git-lfs.example/spec/v1\noid 1\n")

    with pytest.raises(ModelError, match="run `git lfs pull`"):
        resolve_model(str(folder), cache_dir=tmp_path)


def test_a_damaged_config_is_named(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "m")
    (folder / "config.json").write_text("{")

    with pytest.raises(ModelError, match=r"config\.json cannot be read as JSON"):
        resolve_model(str(folder), cache_dir=tmp_path)


@pytest.mark.parametrize("name", ["/no/such/folder", "./nothing-here", "~/nothing-here", "a/b/c"])
def test_a_missing_path_is_not_taken_for_a_hub_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelError, match="there is no such folder"):
        resolve_model(name, cache_dir=tmp_path)


def test_a_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.touch()

    with pytest.raises(ModelError, match="is a file"):
        resolve_model(str(file), cache_dir=tmp_path)


def test_a_hub_name_is_passed_on_unchanged(tmp_path: Path) -> None:
    model = resolve_model("Qwen/Qwen3-8B", cache_dir=tmp_path)

    assert (model.path_or_name, model.display_name) == ("Qwen/Qwen3-8B", "Qwen3-8B")
    assert (model.local, model.embedded, model.tool_parser) == (False, False, None)


@pytest.mark.parametrize("name", [None, "", "embedded"])
def test_no_name_means_the_embedded_model(
    name: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_folder(tmp_path / "built")

    def built(_cache_dir: Path, _on_progress: Progress) -> Path:
        return folder

    monkeypatch.setattr(models, "embedded_model_folder", built)

    model = resolve_model(name, cache_dir=tmp_path)

    assert model.path_or_name == str(folder)
    assert model.display_name == "SmolLM2-135M-Instruct"
    assert (model.embedded, model.tool_parser, model.reasoning_parser) == (True, "hermes", "qwen3")


@pytest.mark.parametrize(
    ("environ", "folder"),
    [
        ({"PRECALL_CACHE_DIR": "/a", "XDG_CACHE_HOME": "/b"}, Path("/a")),
        ({"XDG_CACHE_HOME": "/b"}, Path("/b/precall")),
        ({}, Path.home() / ".cache" / "precall"),
    ],
)
def test_the_cache_folder_follows_the_environment(environ: dict[str, str], folder: Path) -> None:
    assert default_cache_dir(environ) == folder
