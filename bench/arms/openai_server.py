"""Today's server: vLLM's own, started as from the command line, with its generations recorded.

Concurrency: the server has the main thread, as usual; another thread answers the bench.
"""

from __future__ import annotations

import asyncio
import json
import os
import runpy
import signal
import sys
import threading
import urllib.error
import urllib.request
from typing import cast

from bench.arms.recorder import Recorder
from bench.process import Link
from precall_service.domain.json import JsonObject

MODULE = "vllm.entrypoints.openai.api_server"
START_TIMEOUT_S = 600.0


def main() -> None:
    """Serves until the bench ends."""
    link = Link()
    config = cast(JsonObject, json.loads(sys.argv[1]))
    recorder = Recorder()
    port = str(config["port"])
    threading.Thread(target=_answer, args=(link, port, recorder), daemon=True).start()
    arguments = [str(text) for text in cast(list[object], config["arguments"])]
    sys.argv = [MODULE, "--host", "127.0.0.1", "--port", port, *arguments]
    runpy.run_module(MODULE, run_name="__main__", alter_sys=True)


def _answer(link: Link, port: str, recorder: Recorder) -> None:
    async def generations(_fields: JsonObject) -> JsonObject:
        return {"generations": [note.as_json() for note in recorder.take()]}

    async def run() -> None:
        await _until_healthy(f"http://127.0.0.1:{port}/health")
        address: JsonObject = {"address": f"http://127.0.0.1:{port}/v1"}
        await link.answer(address, {"generations": generations})

    try:
        asyncio.run(run())
    finally:
        os.kill(os.getpid(), signal.SIGTERM)


async def _until_healthy(url: str) -> None:
    async with asyncio.timeout(START_TIMEOUT_S):
        while True:
            await asyncio.sleep(0.5)
            try:
                await asyncio.to_thread(urllib.request.urlopen, url, timeout=5)
            except (urllib.error.URLError, OSError):
                continue
            return


if __name__ == "__main__":
    main()
