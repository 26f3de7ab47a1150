"""A child of a bench that measures nothing: it prints a line, and fails as the test asks."""

from __future__ import annotations

import asyncio
import os
import sys

from bench.process import Link, run_child
from precall_service.domain.json import JsonObject


async def main(config: JsonObject, link: Link) -> None:
    print("the reason of the failure", file=sys.stderr, flush=True)

    async def sleep(_fields: JsonObject) -> JsonObject:
        await asyncio.sleep(60)
        return {}

    async def fail(_fields: JsonObject) -> JsonObject:
        raise RuntimeError("no such luck")

    async def end(_fields: JsonObject) -> JsonObject:
        os._exit(0)

    async def environ(_fields: JsonObject) -> JsonObject:
        return dict(os.environ)

    await link.answer({}, {"sleep": sleep, "fail": fail, "end": end, "environ": environ})


if __name__ == "__main__":
    run_child(main)
