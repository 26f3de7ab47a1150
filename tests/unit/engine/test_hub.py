"""A hub that serves a model, lacks it, refuses it, or does not answer."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from unittest.mock import patch

import pytest

from precall_service.engine.hub import reachable
from precall_service.engine.model_files import ModelError

NAME = "somebody/something"


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undoes what earlier tests have told the library."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


@contextmanager
def hub(status: int, error_code: str = "", body: bytes = b"{}") -> Generator[str]:
    """A hub that gives every request the same answer."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            if error_code:
                self.send_header("X-Error-Code", error_code)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def test_a_model_that_the_hub_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    with hub(200, body=b'{"id": "somebody/something"}') as address:
        monkeypatch.setenv("HF_ENDPOINT", address)
        assert reachable(NAME)


@pytest.mark.parametrize(
    ("status", "error_code", "says"),
    [
        (404, "RepoNotFound", "has no such model, or hides it"),
        (401, "RepoNotFound", "has no such model, or hides it"),
        (403, "GatedRepo", "have accepted its licence"),
        (500, "", "does not answer: "),
    ],
)
def test_a_model_that_the_hub_does_not_serve(
    monkeypatch: pytest.MonkeyPatch, status: int, error_code: str, says: str
) -> None:
    with hub(status, error_code) as address, nothing_cached():
        monkeypatch.setenv("HF_ENDPOINT", address)
        with pytest.raises(ModelError, match=says) as caught:
            reachable(NAME)
    assert NAME in str(caught.value)
    assert address in str(caught.value)


def test_a_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with nothing_cached(), pytest.raises(ModelError, match=r"does not answer: .*refused"):
        reachable(NAME)


def test_a_local_copy_needs_no_hub(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with patch("huggingface_hub.try_to_load_from_cache", return_value=str(tmp_path)):
        assert not reachable(NAME)
    assert "starting from the copy on this machine" in caplog.text


def test_a_name_that_no_hub_accepts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ModelError, match="neither a folder nor a name on a hub"):
        reachable("some body/some thing")


@contextmanager
def nothing_cached() -> Generator[None]:
    with patch("huggingface_hub.try_to_load_from_cache", return_value=None):
        yield
